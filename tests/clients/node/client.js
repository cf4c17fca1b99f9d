// ioredis and iovalkey, which stems from it: one interface. What is said to the harness: see python/telling.py.
"use strict";

const assert = require("node:assert/strict");
const readline = require("node:readline");
const { setTimeout: sleep } = require("node:timers/promises");

const [library, endpoint, prefix] = process.argv.slice(2);
const { Cluster } = require(library);

const KEYS = 200;
const TAGS = ["a", "b", "c", "d"]; // hash tags in both shards
// Hash tags of slots 3300 and 15495: one in each shard, so that a shard's pause is not hidden by the other.
const SHARDS = ["{b}", "{a}"];
const ROUNDS = 10;
const PHASES = ["failover", "kill"];
const SETTLED = 100;
const PACE = 3; // milliseconds
const PATIENCE = 60; // seconds

// A cluster's subscribers are at any of its nodes; ioredis can have one at each shard.
const LACKS = { iovalkey: ["sharded_publish"] };

const numbers = (count) => [...Array(count).keys()];
const tell = (what) => console.log(JSON.stringify(what));

function connect(options = {}) {
  const [host, port] = endpoint.split(":");
  const client = new Cluster([{ host, port: Number(port) }], options);
  client.on("error", () => {}); // each command says its own
  return client;
}

// Subscribe, send, and wait for all that was sent.
async function received(subscriber, { subscribe, event, channel, send }) {
  const found = [];
  const all = new Promise((resolve) => {
    subscriber.on(event, (_, message) => found.push(message) === ROUNDS && resolve());
  });
  await subscriber[subscribe](channel);
  for (const n of numbers(ROUNDS)) await send(n);
  await Promise.race([all, sleep(PATIENCE * 1000, null, { ref: false })]);
  subscriber.disconnect();
  assert.deepEqual(found, numbers(ROUNDS).map(String));
}

const steps = {
  async strings(client, p) {
    for (const n of numbers(KEYS)) assert.equal(await client.set(`${p}:s:${n}`, n), "OK");
    for (const n of numbers(KEYS)) assert.equal(await client.get(`${p}:s:${n}`), String(n));
  },

  // A pipeline of this client is for one shard; commands that are sent at once go to all.
  async pipeline(client, p) {
    const said = await Promise.all(
      numbers(KEYS).flatMap((n) => [client.incrby(`${p}:p:${n}`, n), client.get(`${p}:p:${n}`)]),
    );
    assert.deepEqual(said, numbers(KEYS).flatMap((n) => [n, String(n)]));
    for (const tag of TAGS) {
      const pipe = client.pipeline();
      for (const n of numbers(KEYS)) pipe.rpush(`{${p}:${tag}}:p`, n);
      assert.deepEqual(await pipe.exec(), numbers(KEYS).map((n) => [null, n + 1]));
    }
  },

  async transaction(client, p) {
    for (const tag of TAGS) {
      const key = `{${p}:${tag}}:t`;
      const said = await client.multi().set(`${key}:1`, "x").incr(`${key}:2`).get(`${key}:1`).exec();
      assert.deepEqual(said, [[null, "OK"], [null, 1], [null, "x"]]);
    }
  },

  async script(client, p) {
    const text = "redis.call('SET', KEYS[1], ARGV[1]); return redis.call('GET', KEYS[1])";
    for (const tag of TAGS) {
      const key = `{${p}:${tag}}:l`;
      assert.equal(await client.eval(text, 1, key, "v"), "v");
      assert.equal(await client.get(key), "v");
    }
  },

  async publish(client, p) {
    const channel = `${p}:c`;
    const send = (n) => client.nodes("master")[0].publish(channel, n); // all through one node: order
    await received(connect(), { subscribe: "subscribe", event: "message", channel, send });
  },

  async sharded_publish(client, p) {
    for (const tag of TAGS) {
      const channel = `${p}:${tag}`;
      const send = (n) => client.spublish(channel, n);
      const subscriber = connect({ shardedSubscribers: true });
      await received(subscriber, { subscribe: "ssubscribe", event: "smessage", channel, send });
    }
  },

  // Two clients that wait for each other.
  async blocking_pop(client, p) {
    const other = connect();
    const answers = (async () => {
      for (const _ of numbers(ROUNDS)) {
        const [, said] = await other.blpop(`${p}:in`, PATIENCE);
        await other.rpush(`${p}:out`, `re ${said}`);
      }
    })();
    for (const n of numbers(ROUNDS)) {
      await client.rpush(`${p}:in`, n);
      assert.deepEqual(await client.blpop(`${p}:out`, PATIENCE), [`${p}:out`, `re ${n}`]);
    }
    await answers;
    other.disconnect();
  },

  async stream(client, p) {
    for (const tag of TAGS) {
      const key = `${p}:x:${tag}`;
      await client.xgroup("CREATE", key, "group", "0", "MKSTREAM");
      const ids = [];
      for (const n of numbers(ROUNDS)) ids.push(await client.xadd(key, "*", "n", n));
      const read = await client.xreadgroup("GROUP", "group", "me", "STREAMS", key, ">");
      assert.deepEqual(read, [[key, ids.map((id, n) => [id, ["n", String(n)]])]]);
      assert.equal(await client.xack(key, "group", ...ids), ROUNDS);
      assert.equal((await client.xpending(key, "group"))[0], 0);
    }
  },

  async scan(client, p) {
    const found = new Set();
    for (const node of client.nodes("master")) {
      for await (const keys of node.scanStream({ match: `${p}:s:*`, count: 50 })) {
        for (const key of keys) found.add(key);
      }
    }
    assert.deepEqual(found, new Set(numbers(KEYS).map((n) => `${p}:s:${n}`)));
  },
};

async function main() {
  const client = connect();
  for (const [name, step] of Object.entries(steps)) {
    if (LACKS[library]?.includes(name)) {
      tell({ lacks: name });
      continue;
    }
    await step(client, prefix);
    tell({ passed: name });
  }
  const input = readline.createInterface({ input: process.stdin });
  const acknowledged = new Map();
  let number = 0;
  for (const phase of PHASES) {
    let done = false;
    input.once("line", () => (done = true));
    tell({ writing: phase });
    const before = acknowledged.size;
    const errors = {};
    let longest = 0;
    const last = SHARDS.map(() => performance.now());
    for (let inARow = 0; inARow < SETTLED; ) {
      number += 1;
      const shard = number % SHARDS.length;
      assert(performance.now() - last[shard] < PATIENCE * 1000, JSON.stringify(errors));
      const [key, value] = [`${prefix}:w:${SHARDS[shard]}:${number}`, String(number)];
      try {
        await client.set(key, value);
      } catch (error) {
        errors[String(error)] = (errors[String(error)] ?? 0) + 1;
        inARow = 0;
        await sleep(10);
        continue;
      }
      longest = Math.max(longest, performance.now() - last[shard]);
      last[shard] = performance.now();
      acknowledged.set(key, value);
      await sleep(PACE);
      if (done) inARow += 1;
    }
    tell({ written: phase, acknowledged: acknowledged.size - before, errors, pause: longest / 1000 });
  }
  for (const [key, value] of acknowledged) assert.equal(await client.get(key), value, key);
  tell({ found: acknowledged.size });
  input.close();
  client.disconnect();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
