// docs/cache.md and the second part of docs/migrating-from-node.md: every block of them runs, in a database of Redis and one
// of PostgreSQL that nobody else uses; and once beside the demo's backend, which has its caches from the crate.

import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import pg from "pg";
import { PATIENCE_MS, binary, startDemo, within } from "../browser/demo.js";
import { blocks, write } from "./guide.js";
import { Program, run, untilReady } from "./programs.js";

const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));
const LUA = path("../../crates/cache/src/lua/");
/** What the guide says its reader has. */
const PRESENT = {
  "package.json": '{"type": "module"}',
  // The servers stop when the tests are done, and may do so before the last connection has ended.
  "db.js": `import pg from "pg";
    export const db = new pg.Pool({ connectionString: process.env.DATABASE_URL });
    db.on("connect", (client) => client.on("error", () => {}));
    // A pool tells by itself of a connection that ends while nobody uses it.
    db.on("error", () => {});`,
  "redis.js": 'import Redis from "ioredis"; export const redis = new Redis(process.env.REDIS_URL);',
};
const SCHEMA = `
  create table products (id bigint primary key, name text, price_cents bigint);
  insert into products values (1, 'Kora', 1000), (2, 'Djembe', 500);
  create table wallets (id bigint primary key, balance bigint);
  insert into wallets values (1, 100)`;

let demo, page, guide, folder, env, redis, worker;
/** Modules of the guide, by when and name, and those of the page. */
let old, now, cache;

/** A promise and what resolves it. */
function gate() {
  let open;
  return { opened: new Promise((resolve) => (open = resolve)), open: () => open() };
}

async function until(what, check) {
  await within(PATIENCE_MS, what, (async () => {
    while (!(await check())) await new Promise((resolve) => setTimeout(resolve, 5));
  })());
}

/** Lets `call` of `object` do its work, and keeps the answer back (or, `first`, the work itself) until the gate opens. */
function hold(object, call, { first = false } = {}) {
  const [real, held, { opened, open }] = [object[call], gate(), gate()];
  object[call] = async (...args) => {
    object[call] = real;
    const work = () => real.apply(object, args);
    const answer = first ? undefined : await work();
    held.open();
    await opened;
    return first ? work() : answer;
  };
  return { reached: within(PATIENCE_MS, `${call} to be called`, held.opened), open };
}

before(async () => {
  page = await blocks(path("../../docs/cache.md"));
  guide = await blocks(path("../../docs/migrating-from-node.md"));
  folder = await mkdtemp(path("node_modules/.cache-"));
  const files = Object.fromEntries(page.map(({ name, text }) => [name, text]));
  await write(guide, folder, { ...PRESENT, ...files });
  demo = await startDemo();
  const database = new URL(demo.facts.database);
  database.pathname = "/guide_caches";
  env = { REDIS_URL: `${demo.facts.redis}/1`, DATABASE_URL: database.href };
  Object.assign(process.env, env);
  await once(demo.facts.database, "create database guide_caches");
  await once(database.href, SCHEMA);
  await startWorker();
  const modules = async (when, names) => {
    const imported = await Promise.all(names.map((name) => import(`${folder}/${when}/${name}.js`)));
    return Object.assign({}, ...imported);
  };
  const shop = ["db", "update-product", "get-product", "update-wallet"];
  old = await modules("before", [...shop, "redis"]);
  now = await modules("after", [...shop, "forget-searches"]);
  cache = await modules("after", ["cache", "shop"]);
  redis = old.redis;
});

after(async () => {
  await worker?.stop();
  await Promise.all([old, now].map((modules) => modules?.db.end()));
  old?.redis.disconnect();
  await demo?.stop();
  if (folder) await rm(folder, { recursive: true });
});

async function once(database, sql) {
  const client = new pg.Client({ connectionString: database });
  await client.connect();
  await client.query(sql);
  await client.end();
}

/** As the guide says; only addresses and the places of its files differ. */
async function startWorker() {
  const block = (name) => guide.find((block) => block.name === name).text;
  const install = block("install the triggers").replaceAll("invalidation-worker", binary("invalidation-worker"));
  await run(["sh", "-euc", install], env, { cwd: `${folder}/after` });
  await writeFile(`${folder}/after/database-url`, env.DATABASE_URL);
  worker = new Program("the worker", [binary("invalidation-worker"), "--config", "griot.toml-of-the-worker"], {
    REDIS_URL: env.REDIS_URL,
    GRIOT_LOG__FORMAT: "json",
    GRIOT_DATABASE__URL_FILE: `${folder}/after/database-url`,
    GRIOT_INVALIDATION_WORKER__ADMIN_LISTEN: "127.0.0.1:0",
    GRIOT_INVALIDATION_WORKER__RULES: `${folder}/after/rules.toml`,
  }, { cwd: `${folder}/after` });
  const { fields } = await worker.until("it listens", () =>
    worker.complained.filter((line) => line.startsWith("{")).map((line) => JSON.parse(line)).find(({ fields }) => fields.operators),
  );
  await untilReady(worker, fields.operators);
}

/** Waits until the worker has done what was committed before: it goes by the order of the log. */
async function settled() {
  await redis.set("product:2", "a mark");
  await now.db.query("update products set price_cents = price_cents + 1 where id = 2");
  await until("the worker to delete product:2", async () => (await redis.get("product:2")) === null);
}

test("the scripts of the page are those of the crate", async () => {
  for (const name of ["lease", "fill", "release", "claim", "write"]) {
    assert.equal(page.find((block) => block.name === `${name}.lua`).text, await readFile(`${LUA}${name}.lua`, "utf8"), name);
  }
});

test("companions are named as the page says, and as the crate does", async () => {
  const crate = await readFile(path("../../crates/cache/src/key.rs"), "utf8");
  const pairs = [...crate.matchAll(/\("([^"]+)", "([^"]+~lease)"\)/g)];
  assert.ok(pairs.length > 5);
  for (const [, key, beside] of [...pairs, [, "product:42", "{product:42}~lease"], [, "{42}:cart", "{42}:cart~lease"]]) {
    assert.equal(cache.companion(key), beside);
  }
  for (const key of ["a{b", "a}b{c", "a{}b", "{}", "}{"]) assert.equal(cache.companion(key), undefined, key);
});

test("of many readers one loads, the key is empty meanwhile, and nothing stays beside it", async () => {
  const { opened, open } = gate();
  let loads = 0;
  const load = async () => {
    loads += 1;
    await opened;
    return "a kora";
  };
  const first = cache.readThrough("many", load);
  await until("it loads", () => loads === 1);
  assert.equal(await redis.get("many"), "");
  assert.ok(await redis.get("{many}~lease"));
  const others = Array.from({ length: 20 }, () => cache.readThrough("many", load));
  open();
  assert.deepEqual(await Promise.all([first, ...others]), Array(21).fill("a kora"));
  assert.equal(loads, 1);
  assert.equal(await redis.get("many"), "a kora");
  assert.equal(await redis.exists("{many}~lease"), 0);
  assert.ok((await redis.pttl("many")) > 3_000_000);
});

test("what was loaded before a deletion is not stored, and a load that fails gives the lease back", async () => {
  const overtaken = async () => {
    await cache.invalidate("late");
    return "old";
  };
  assert.equal(await cache.readThrough("late", overtaken), "old");
  assert.equal(await redis.get("late"), null);
  await assert.rejects(cache.readThrough("late", async () => Promise.reject(new Error("no database"))), /no database/);
  assert.equal(await cache.readThrough("late", async () => "new"), "new");
  assert.equal(await redis.get("late"), "new");
});

test("a writer's claim ends a reader's lease, and of two writers the newer version stays", async () => {
  const version = (version) => JSON.stringify({ version });
  const written = async (n) => cache.writeThrough("versioned", async () => version(n));
  await cache.readThrough("versioned", async () => {
    await written(2);
    return version(1);
  });
  assert.equal(await redis.get("versioned"), version(2));
  await cache.writeThrough("versioned", async () => {
    await written(4);
    return version(3);
  });
  assert.equal(await redis.get("versioned"), version(4));
  await assert.rejects(cache.writeThrough("versioned", async () => Promise.reject(new Error("cut off"))), /cut off/);
  assert.equal(await redis.get("versioned"), null, "it may be committed");
});

test("the page's shop reads and writes its database", async () => {
  await now.db.query("alter table wallets add column balance_cents bigint, add column version bigint not null default 1");
  assert.deepEqual(await cache.setBalance(1, 700), { balance_cents: "700", version: 2 });
  assert.equal(await redis.get("balance:1"), '{"balance_cents":"700","version":2}');
  assert.equal((await cache.getProduct(1)).name, "Kora");
  assert.equal(await cache.getProduct(77), null);
  await now.db.query("alter table wallets drop column balance_cents, drop column version");
});

test("the crate and the page's code keep each other's leases and read each other's values", async () => {
  process.env.REDIS_URL = demo.facts.redis;
  const { redis, readThrough, writeThrough, invalidate } = await import(`${folder}/after/cache.js?beside-the-demo`);
  try {
    const storefront = async () => (await fetch(new URL("/demo/product/3", demo.facts.storefront))).json();
    // Nobody changes product 3.
    const fromNode = await readThrough("product:3", async () => {
      assert.equal((await storefront()).source, "database", "it met the lease, and loaded for itself");
      assert.equal(await redis.get("product:3"), "", "and filled nothing");
      return '{"name":"from Node"}';
    });
    assert.deepEqual(await storefront(), { ...JSON.parse(fromNode), source: "cache" });
    await invalidate("product:3");
    const { name } = await storefront();
    assert.equal(JSON.parse(await readThrough("product:3", () => assert.fail("it is there"))).name, name);
    const version = async () => JSON.parse((await redis.get("balance:42")) || '{"version":0}').version;
    await until("the demo to write a balance through", async () => (await version()) > 1);
    await writeThrough("balance:42", async () => '{"version":1}');
    assert.ok((await version()) > 1);
  } finally {
    process.env.REDIS_URL = env.REDIS_URL;
    redis.disconnect();
  }
});

test("6: the worker deletes what the old code did, whoever changed the row, and never by KEYS", async () => {
  const asked = async () => Number(/cmdstat_keys:calls=(\d+)/.exec(await redis.info("commandstats"))?.[1] ?? 0);
  const keys = ["product:1", "search:kora", "search:a{b"];
  const gone = async () => (await redis.exists(...keys)) === 0;
  const fill = () => redis.mset(...keys.flatMap((key) => [key, "old"]), "product:9", "stays");
  await fill();
  await old.updateProduct(1, { name: "Kora", price_cents: 1001 });
  assert.ok(await gone());
  const before = await asked();
  assert.ok(before > 0);
  for (const change of [
    () => now.updateProduct(1, { name: "Kora", price_cents: 1002 }),
    () => now.db.query("update products set price_cents = 1003 where id = 1"),
  ]) {
    await settled();
    await fill();
    await change();
    await until("the worker to delete", gone);
  }
  await fill();
  await now.forgetSearches();
  await until("the worker to sweep", async () => (await redis.exists("search:kora", "search:a{b")) === 0);
  await now.db.query("do $$ begin update products set price_cents = 0; rollback; end $$");
  await settled();
  assert.deepEqual(await redis.mget("product:1", "product:9"), ["old", "stays"]);
  assert.equal(await asked(), before);
});

test("7: a price that was loaded before a change comes back with the old code, and not with the new", async () => {
  for (const [shop, shown] of [[old, "2000"], [now, "3001"]]) {
    const price = Number(shown) === 2000 ? 2000 : 3000;
    await now.updateProduct(1, { name: "Kora", price_cents: price });
    await settled();
    const { reached, open } = hold(shop.db, "query");
    const reading = shop.getProduct(1);
    await reached;
    await old.db.query("update products set price_cents = price_cents + 1 where id = 1");
    await settled();
    open();
    assert.equal((await reading).price_cents, String(price));
    assert.equal((await shop.getProduct(1)).price_cents, shown);
    await redis.del("product:1");
  }
  assert.equal(await now.getProduct(77), null);
});

test("8: of two writers the slower one leaves an old balance with the old code, and not with the new", async () => {
  const balance = async () => JSON.parse(await redis.get("wallet:1")).balance;
  const race = async (shop, client, call) => {
    const { reached, open } = hold(client, call, { first: true });
    const slow = shop.updateWalletBalance(1, 200);
    await reached;
    await shop.updateWalletBalance(1, 300);
    open();
    await slow;
  };
  await race(old, old.redis, "set");
  assert.equal(await balance(), 200, "though 300 was committed last");
  await now.db.query(guide.find(({ name }) => name === "give wallets a version").text);
  // What the old code left has no version.
  await now.updateWalletBalance(1, 250);
  assert.equal(await redis.get("wallet:1"), null);
  await race(now, cache.redis, "cache_write");
  assert.deepEqual(JSON.parse(await redis.get("wallet:1")), { balance: "300", version: 4 });
  assert.deepEqual(await now.getWallet(1), { balance: "300", version: 4 });
});

test("when Redis is away, readers load and writers write", async () => {
  cache.redis.disconnect();
  assert.equal(await cache.readThrough("product:3", async () => "loaded"), "loaded");
  assert.equal(await cache.writeThrough("wallet:1", async () => "written"), "written");
});
