import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.concurrent.atomic.AtomicBoolean;

/** What the programs of all Java clients share: see python/telling.py. */
final class Telling {
    static final int KEYS = 200;
    static final int ROUNDS = 10;
    static final int PATIENCE = 60; // seconds
    /** Hash tags in both shards. */
    static final List<String> TAGS = List.of("a", "b", "c", "d");
    static final String SCRIPT = "redis.call('SET', KEYS[1], ARGV[1]); return redis.call('GET', KEYS[1])";

    /** Hash tags of slots 3300 and 15495: one in each shard, so that a shard's pause is not hidden by the other. */
    private static final List<String> SHARDS = List.of("{b}", "{a}");
    private static final List<String> PHASES = List.of("failover", "kill");
    private static final int PACE = 3; // milliseconds
    private static final int SETTLED = 100;

    interface Step {
        void run(String prefix) throws Exception;
    }

    interface Send {
        void message(String text) throws Exception;
    }

    interface Set {
        void set(String key, String value) throws Exception;
    }

    interface Get {
        String get(String key) throws Exception;
    }

    private Telling() {}

    static void equal(Object found, Object expected) {
        if (!String.valueOf(found).equals(String.valueOf(expected))) {
            throw new AssertionError(found + " instead of " + expected);
        }
    }

    private static String quoted(String text) {
        var plain = text.replace("\\", "\\\\").replace("\"", "\\\"").replaceAll("\\p{Cntrl}", " ");
        return '"' + plain + '"';
    }

    private static void tell(String key, String value, String more) {
        System.out.println("{" + quoted(key) + ":" + value + more + "}");
    }

    /** Goes through all steps, writes during each phase, and looks for what has been acknowledged. */
    static void run(String prefix, LinkedHashMap<String, Step> steps, Set set, Get get) throws Exception {
        for (var step : steps.entrySet()) {
            step.getValue().run(prefix);
            tell("passed", quoted(step.getKey()), "");
        }
        var input = new BufferedReader(new InputStreamReader(System.in));
        var acknowledged = new HashMap<String, String>();
        var number = 0;
        for (var phase : PHASES) {
            var done = new AtomicBoolean();
            var waiting = new Thread(() -> {
                try {
                    done.set(input.readLine() != null);
                } catch (java.io.IOException error) {
                    throw new java.io.UncheckedIOException(error);
                }
            });
            waiting.setDaemon(true);
            waiting.start();
            tell("writing", quoted(phase), "");
            var before = acknowledged.size();
            var errors = new HashMap<String, Integer>();
            var longest = 0L;
            long[] last = {System.nanoTime(), System.nanoTime()};
            for (var inARow = 0; inARow < SETTLED;) {
                number++;
                var shard = number % SHARDS.size();
                if (System.nanoTime() - last[shard] > PATIENCE * 1_000_000_000L) {
                    throw new AssertionError("no write succeeds any more: " + errors);
                }
                var key = prefix + ":w:" + SHARDS.get(shard) + ":" + number;
                try {
                    set.set(key, String.valueOf(number));
                } catch (Exception error) {
                    errors.merge(error.toString(), 1, Integer::sum);
                    inARow = 0;
                    Thread.sleep(10);
                    continue;
                }
                longest = Math.max(longest, System.nanoTime() - last[shard]);
                last[shard] = System.nanoTime();
                acknowledged.put(key, String.valueOf(number));
                Thread.sleep(PACE);
                if (done.get()) {
                    inARow++;
                }
            }
            var said = new StringBuilder();
            for (var error : errors.entrySet()) {
                said.append(said.isEmpty() ? "" : ",").append(quoted(error.getKey())).append(":").append(error.getValue());
            }
            tell("written", quoted(phase), ",\"acknowledged\":" + (acknowledged.size() - before)
                    + ",\"errors\":{" + said + "},\"pause\":" + longest / 1e9);
        }
        for (var entry : acknowledged.entrySet()) {
            equal(get.get(entry.getKey()), entry.getValue());
        }
        tell("found", String.valueOf(acknowledged.size()), "");
    }
}
