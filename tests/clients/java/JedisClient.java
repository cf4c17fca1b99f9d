import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import redis.clients.jedis.HostAndPort;
import redis.clients.jedis.JedisPubSub;
import redis.clients.jedis.JedisShardedPubSub;
import redis.clients.jedis.RedisClusterClient;
import redis.clients.jedis.Response;
import redis.clients.jedis.StreamEntryID;
import redis.clients.jedis.Transaction;
import redis.clients.jedis.params.XReadGroupParams;
import redis.clients.jedis.util.JedisClusterCRC16;

/** Jedis. */
public final class JedisClient {
    private static HostAndPort endpoint;

    private static RedisClusterClient connect() {
        return RedisClusterClient.create(endpoint);
    }

    private static void receive(
            CountDownLatch subscribed, LinkedBlockingQueue<String> messages, Runnable subscribe, Telling.Send send)
            throws Exception {
        var thread = new Thread(subscribe);
        thread.setDaemon(true);
        thread.start();
        Telling.equal(subscribed.await(Telling.PATIENCE, TimeUnit.SECONDS), true);
        for (var n = 0; n < Telling.ROUNDS; n++) {
            send.message(String.valueOf(n));
        }
        for (var n = 0; n < Telling.ROUNDS; n++) {
            Telling.equal(messages.poll(Telling.PATIENCE, TimeUnit.SECONDS), n);
        }
    }

    private static void publish(RedisClusterClient client, String channel) throws Exception {
        var subscribed = new CountDownLatch(1);
        var messages = new LinkedBlockingQueue<String>();
        var subscription = new JedisPubSub() {
            @Override
            public void onSubscribe(String name, int count) {
                subscribed.countDown();
            }

            @Override
            public void onMessage(String name, String message) {
                messages.add(message);
            }
        };
        // All through one node: order.
        try (var one = client.getConnectionFromSlot(JedisClusterCRC16.getSlot(channel))) {
            var through = new redis.clients.jedis.Jedis(one);
            receive(subscribed, messages, () -> client.subscribe(subscription, channel),
                    message -> through.publish(channel, message));
        }
        subscription.unsubscribe();
    }

    private static void shardedPublish(RedisClusterClient client, String channel) throws Exception {
        var subscribed = new CountDownLatch(1);
        var messages = new LinkedBlockingQueue<String>();
        var subscription = new JedisShardedPubSub() {
            @Override
            public void onSSubscribe(String name, int count) {
                subscribed.countDown();
            }

            @Override
            public void onSMessage(String name, String message) {
                messages.add(message);
            }
        };
        receive(subscribed, messages, () -> client.ssubscribe(subscription, channel),
                message -> client.spublish(channel, message));
        subscription.sunsubscribe();
    }

    public static void main(String[] arguments) throws Exception {
        endpoint = HostAndPort.from(arguments[0]);
        try (var client = connect()) {
            Telling.run(arguments[1], steps(client), client::set, client::get);
        }
    }

    private static LinkedHashMap<String, Telling.Step> steps(RedisClusterClient client) {
        var steps = new LinkedHashMap<String, Telling.Step>();
        steps.put("strings", p -> {
            for (var n = 0; n < Telling.KEYS; n++) {
                Telling.equal(client.set(p + ":s:" + n, String.valueOf(n)), "OK");
            }
            for (var n = 0; n < Telling.KEYS; n++) {
                Telling.equal(client.get(p + ":s:" + n), n);
            }
        });
        steps.put("pipeline", p -> {
            var said = new ArrayList<Response<?>>();
            try (var pipeline = client.pipelined()) {
                for (var n = 0; n < Telling.KEYS; n++) {
                    said.add(pipeline.incrBy(p + ":p:" + n, n));
                    said.add(pipeline.get(p + ":p:" + n));
                }
            }
            for (var n = 0; n < said.size(); n++) {
                Telling.equal(said.get(n).get(), n / 2);
            }
        });
        steps.put("transaction", p -> {
            for (var tag : Telling.TAGS) {
                var key = "{" + p + ":" + tag + "}:t";
                try (var one = client.getConnectionFromSlot(JedisClusterCRC16.getSlot(key))) {
                    var transaction = new Transaction(one);
                    transaction.set(key + ":1", "x");
                    transaction.incr(key + ":2");
                    transaction.get(key + ":1");
                    Telling.equal(transaction.exec(), List.of("OK", 1, "x"));
                }
            }
        });
        steps.put("script", p -> {
            for (var tag : Telling.TAGS) {
                var key = "{" + p + ":" + tag + "}:l";
                Telling.equal(client.eval(Telling.SCRIPT, List.of(key), List.of("v")), "v");
                Telling.equal(client.get(key), "v");
            }
        });
        steps.put("publish", p -> publish(client, p + ":c"));
        steps.put("sharded_publish", p -> {
            for (var tag : Telling.TAGS) {
                shardedPublish(client, p + ":" + tag);
            }
        });
        steps.put("blocking_pop", p -> { // two clients that wait for each other
            var other = CompletableFuture.runAsync(() -> {
                try (var second = connect()) {
                    for (var n = 0; n < Telling.ROUNDS; n++) {
                        var said = second.blpop(Telling.PATIENCE, p + ":in");
                        second.rpush(p + ":out", "re " + said.get(1));
                    }
                }
            });
            for (var n = 0; n < Telling.ROUNDS; n++) {
                client.rpush(p + ":in", String.valueOf(n));
                Telling.equal(client.blpop(Telling.PATIENCE, p + ":out"), List.of(p + ":out", "re " + n));
            }
            other.get();
        });
        steps.put("stream", p -> {
            for (var tag : Telling.TAGS) {
                var key = p + ":x:" + tag;
                client.xgroupCreate(key, "group", new StreamEntryID("0-0"), true);
                var ids = new ArrayList<StreamEntryID>();
                for (var n = 0; n < Telling.ROUNDS; n++) {
                    ids.add(client.xadd(key, StreamEntryID.NEW_ENTRY, Map.of("n", String.valueOf(n))));
                }
                var read = client.xreadGroup("group", "me", XReadGroupParams.xReadGroupParams().count(Telling.ROUNDS),
                        Map.of(key, StreamEntryID.XREADGROUP_UNDELIVERED_ENTRY));
                var entries = read.get(0).getValue();
                for (var n = 0; n < Telling.ROUNDS; n++) {
                    Telling.equal(entries.get(n).getID(), ids.get(n));
                    Telling.equal(entries.get(n).getFields().get("n"), n);
                }
                Telling.equal(client.xack(key, "group", ids.toArray(StreamEntryID[]::new)), Telling.ROUNDS);
                Telling.equal(client.xpending(key, "group").getTotal(), 0);
            }
        });
        steps.put("scan", p -> {
            var found = new HashSet<String>();
            var pages = client.scanIteration(50, p + ":s:*");
            while (!pages.isIterationCompleted()) {
                found.addAll(pages.nextBatchList());
            }
            Telling.equal(found.size(), Telling.KEYS);
        });
        return steps;
    }
}
