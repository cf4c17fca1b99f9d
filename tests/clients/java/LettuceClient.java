import io.lettuce.core.Consumer;
import io.lettuce.core.KeyValue;
import io.lettuce.core.RedisFuture;
import io.lettuce.core.ScanArgs;
import io.lettuce.core.ScanCursor;
import io.lettuce.core.ScriptOutputType;
import io.lettuce.core.XGroupCreateArgs;
import io.lettuce.core.XReadArgs;
import io.lettuce.core.cluster.RedisClusterClient;
import io.lettuce.core.cluster.SlotHash;
import io.lettuce.core.cluster.api.StatefulRedisClusterConnection;
import io.lettuce.core.cluster.models.partitions.RedisClusterNode;
import io.lettuce.core.cluster.pubsub.RedisClusterPubSubAdapter;
import io.lettuce.core.pubsub.RedisPubSubAdapter;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/** Lettuce. */
public final class LettuceClient {
    private static void received(LinkedBlockingQueue<String> messages) throws Exception {
        for (var n = 0; n < Telling.ROUNDS; n++) {
            Telling.equal(messages.poll(Telling.PATIENCE, TimeUnit.SECONDS), n);
        }
    }

    public static void main(String[] arguments) throws Exception {
        var client = RedisClusterClient.create("redis://" + arguments[0]);
        try (var connection = client.connect()) {
            var commands = connection.sync();
            Telling.run(arguments[1], steps(client, connection), commands::set, commands::get);
        }
        client.shutdown();
    }

    @SuppressWarnings("unchecked") // its varargs are of a generic type
    private static LinkedHashMap<String, Telling.Step> steps(
            RedisClusterClient client, StatefulRedisClusterConnection<String, String> connection) {
        var commands = connection.sync();
        var steps = new LinkedHashMap<String, Telling.Step>();
        steps.put("strings", p -> {
            for (var n = 0; n < Telling.KEYS; n++) {
                Telling.equal(commands.set(p + ":s:" + n, String.valueOf(n)), "OK");
            }
            for (var n = 0; n < Telling.KEYS; n++) {
                Telling.equal(commands.get(p + ":s:" + n), n);
            }
        });
        steps.put("pipeline", p -> {
            var said = new ArrayList<RedisFuture<?>>();
            for (var n = 0; n < Telling.KEYS; n++) {
                said.add(connection.async().incrby(p + ":p:" + n, n));
                said.add(connection.async().get(p + ":p:" + n));
            }
            for (var n = 0; n < said.size(); n++) {
                Telling.equal(said.get(n).get(Telling.PATIENCE, TimeUnit.SECONDS), n / 2);
            }
        });
        steps.put("transaction", p -> {
            for (var tag : Telling.TAGS) {
                var key = "{" + p + ":" + tag + "}:t";
                var node = connection.getPartitions().getPartitionBySlot(SlotHash.getSlot(key));
                var one = connection.getConnection(node.getNodeId()).sync();
                one.multi();
                one.set(key + ":1", "x");
                one.incr(key + ":2");
                one.get(key + ":1");
                Telling.equal(one.exec().stream().toList(), List.of("OK", 1, "x"));
            }
        });
        steps.put("script", p -> {
            for (var tag : Telling.TAGS) {
                var key = "{" + p + ":" + tag + "}:l";
                String said = commands.eval(Telling.SCRIPT, ScriptOutputType.VALUE, new String[] {key}, "v");
                Telling.equal(said, "v");
                Telling.equal(commands.get(key), "v");
            }
        });
        steps.put("publish", p -> {
            var messages = new LinkedBlockingQueue<String>();
            try (var subscriber = client.connectPubSub()) {
                subscriber.addListener(new RedisPubSubAdapter<String, String>() {
                    @Override
                    public void message(String channel, String message) {
                        messages.add(message);
                    }
                });
                subscriber.sync().subscribe(p + ":c");
                for (var n = 0; n < Telling.ROUNDS; n++) {
                    commands.publish(p + ":c", String.valueOf(n));
                }
                received(messages);
            }
        });
        steps.put("sharded_publish", p -> {
            for (var tag : Telling.TAGS) {
                var channel = p + ":" + tag;
                var messages = new LinkedBlockingQueue<String>();
                try (var subscriber = client.connectPubSub()) {
                    subscriber.addListener(new RedisClusterPubSubAdapter<String, String>() {
                        @Override
                        public void smessage(RedisClusterNode node, String name, String message) {
                            messages.add(message);
                        }
                    });
                    subscriber.setNodeMessagePropagation(true);
                    subscriber.sync().ssubscribe(channel);
                    for (var n = 0; n < Telling.ROUNDS; n++) {
                        commands.spublish(channel, String.valueOf(n));
                    }
                    received(messages);
                }
            }
        });
        steps.put("blocking_pop", p -> { // two clients that wait for each other
            var other = CompletableFuture.runAsync(() -> {
                try (var second = client.connect()) {
                    for (var n = 0; n < Telling.ROUNDS; n++) {
                        var said = second.sync().blpop(Telling.PATIENCE, p + ":in");
                        second.sync().rpush(p + ":out", "re " + said.getValue());
                    }
                }
            });
            for (var n = 0; n < Telling.ROUNDS; n++) {
                commands.rpush(p + ":in", String.valueOf(n));
                Telling.equal(commands.blpop(Telling.PATIENCE, p + ":out"), KeyValue.just(p + ":out", "re " + n));
            }
            other.get();
        });
        steps.put("stream", p -> {
            for (var tag : Telling.TAGS) {
                var key = p + ":x:" + tag;
                commands.xgroupCreate(
                        XReadArgs.StreamOffset.from(key, "0"), "group", XGroupCreateArgs.Builder.mkstream());
                var ids = new ArrayList<String>();
                for (var n = 0; n < Telling.ROUNDS; n++) {
                    ids.add(commands.xadd(key, Map.of("n", String.valueOf(n))));
                }
                var read = commands.xreadgroup(Consumer.from("group", "me"), XReadArgs.StreamOffset.lastConsumed(key));
                for (var n = 0; n < Telling.ROUNDS; n++) {
                    Telling.equal(read.get(n).getId(), ids.get(n));
                    Telling.equal(read.get(n).getBody().get("n"), n);
                }
                Telling.equal(commands.xack(key, "group", ids.toArray(String[]::new)), Telling.ROUNDS);
                Telling.equal(commands.xpending(key, "group").getCount(), 0);
            }
        });
        steps.put("scan", p -> {
            var found = new HashSet<String>();
            ScanCursor cursor = ScanCursor.INITIAL;
            do {
                var page = commands.scan(cursor, ScanArgs.Builder.matches(p + ":s:*").limit(50));
                found.addAll(page.getKeys());
                cursor = page;
            } while (!cursor.isFinished());
            Telling.equal(found.size(), Telling.KEYS);
        });
        return steps;
    }
}
