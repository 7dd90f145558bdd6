// docs/migrating-from-node.md: every block of it runs, the old ones beside the new ones, in the order of the guide.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import pg from "pg";
import { PATIENCE_MS, binary, startDemo, within } from "../browser/demo.js";
import { blocks, write } from "./guide.js";
import { Program, run, untilReady } from "./programs.js";

const GUIDE = fileURLToPath(new URL("../../docs/migrating-from-node.md", import.meta.url));
const ORIGIN = "https://shop.example"; // the guide's allowed_origins
const TOPICS = ["orders", "notifications", "wallet-updates"];

/** What the guide says its reader has. The shop here only says what is done. */
const PRESENT = {
  "package.json": '{"type": "module"}',
  "sessions.js": 'export const userOf = (request) => /user=([^;]+)/.exec(request.headers.cookie ?? "")?.[1];',
  "shop.js": `export const handleEvent = (topic, event) => console.log(JSON.stringify({ topic, event }));
    export const reload = () => console.log(JSON.stringify({ reload: true }));`,
};

let demo, guide, folder, env, backend, relay, bridge, database;
/** What publishes, of the guide. */
let old, now;
/** Pages by when and user. */
const pages = { before: {}, after: {} };
const started = [];

function start(...program) {
  started.push(new Program(...program));
  return started.at(-1);
}

function block(name) {
  return guide.find((block) => block.name === name).text;
}

/** A bridge with a configuration of the guide, beside the demo's own; only addresses and the secret's place differ. */
async function startBridge(name, config, listen = "127.0.0.1:0") {
  await writeFile(`${folder}/${name}.toml`, config);
  const bridge = start(name, [binary("subscriber-bridge"), "--config", `${folder}/${name}.toml`], {
    ...env,
    GRIOT_LOG__FORMAT: "json",
    GRIOT_SUBSCRIBER_BRIDGE__LISTEN: listen,
    GRIOT_SUBSCRIBER_BRIDGE__ADMIN_LISTEN: "127.0.0.1:0",
    GRIOT_SUBSCRIBER_BRIDGE__TOKEN_SECRET_FILE: `${folder}/token-secret`,
  });
  const { fields } = await bridge.until("it listens", () =>
    bridge.complained.filter((line) => line.startsWith("{")).map((line) => JSON.parse(line)).find(({ fields }) => fields.browsers),
  );
  await untilReady(bridge, fields.operators);
  return Object.assign(bridge, { browsers: fields.browsers, operators: fields.operators });
}

async function openPage(when, user, via = bridge) {
  const routes = {
    "/events": `ws://127.0.0.1:${relay.port}`,
    "/connection/websocket": `ws://${via.browsers}`,
    "/griot-token": `http://127.0.0.1:${backend.address().port}`,
  };
  const page = start(`the page ${when} of ${user}`, [process.execPath, "page.js", `${folder}/${when}/page.js`], {
    ORIGIN,
    COOKIE: user === null ? "" : `user=${user}`,
    ROUTES: JSON.stringify(routes),
  }, { cwd: fileURLToPath(new URL(".", import.meta.url)) });
  const ready = when === "before" ? ({ open }) => open === "/events" : ({ live, disconnected }) => live || disconnected;
  await page.until("it is connected", () => page.said.find(ready));
  return page;
}

/** What a program handed to the shop, once it handed over an event that says `last`. */
async function handled(program, last) {
  const is = ({ event }) => event?.last === last || event?.total_cents === last;
  await program.until(`it handles ${last}`, () => program.said.find(is));
  return program.said.filter(({ event }) => event);
}

/** Forgets what was handled, so that a test sees only its own. */
function forget() {
  for (const program of started) program.said = [];
}

before(async () => {
  guide = await blocks(GUIDE);
  folder = await mkdtemp(fileURLToPath(new URL("node_modules/.guide-", import.meta.url)));
  await write(guide, folder, PRESENT);
  demo = await startDemo();
  const { redis, database: owner, api, api_key } = demo.facts;
  const shop = new URL(owner);
  shop.username = "shop";
  // The guide's tables, in a schema of their own: those of the demo have rules, which publish too.
  shop.searchParams.set("options", "-csearch_path=guide");
  const secret = randomBytes(32).toString("hex");
  await writeFile(`${folder}/token-secret`, secret);
  env = { REDIS_URL: redis, DATABASE_URL: owner, GRIOT_API: api, GRIOT_API_KEY: api_key, GRIOT_TOKEN_SECRET: secret };
  Object.assign(process.env, env, { DATABASE_URL: shop.href });

  const { griotToken } = await import(`${folder}/after/token.js`);
  backend = createServer(griotToken).listen(0, "127.0.0.1");
  await once(backend, "listening");
  relay = start("the relay", [process.execPath, `${folder}/before/relay.js`], { ...env, PORT: "0" });
  relay.port = await relay.until("it listens", () => /^relay on port (\d+)$/.exec(relay.said[0])?.[1]);
  bridge = await startBridge("griot", block("griot.toml"));
  env.GRIOT_SOCKET = `ws://${bridge.browsers}/connection/websocket`;
  for (const when of ["before", "after"]) for (const user of ["awa", "kofi"]) pages[when][user] = await openPage(when, user);
  old = await import(`${folder}/before/publish.js`);
  now = await import(`${folder}/after/publish.js`);
  database = new pg.Client({ connectionString: owner });
  await database.connect();
});

after(async () => {
  await database?.end();
  old?.redis.disconnect();
  backend?.close();
  await Promise.all(started.map((program) => program.stop()));
  await demo?.stop();
  if (folder) await rm(folder, { recursive: true });
});

test("1: the old page and the new one are handed the same, and only what is their user's", async () => {
  const of = (user) => TOPICS.map((topic, n) => [topic, { user_id: user, n, nested: { text: "déjà vu", list: [1, null, ""] } }]);
  for (const [topic, event] of [...of("awa"), ...of("kofi")]) await old.publishEvent(topic, event);
  for (const user of ["awa", "kofi"]) {
    await old.publishEvent("orders", { user_id: user, last: 1 });
    const expected = [...of(user), ["orders", { user_id: user, last: 1 }]].map(([topic, event]) => ({ topic, event }));
    assert.deepEqual(await handled(pages.before[user], 1), expected);
    assert.deepEqual(await handled(pages.after[user], 1), expected);
  }
  const { position } = pages.after.awa.said.find(({ position }) => position);
  assert.deepEqual(position, { channel: "orders:#awa", offset: null, id: null });
});

test("1: nobody is signed in without a session", async () => {
  const page = await openPage("after", null);
  assert.ok(page.said.find(({ disconnected }) => disconnected?.code === 1), JSON.stringify(page.said));
});

test("2: a backend hears the old way and the new, each event by one of them", async () => {
  forget();
  const ear = start("billing, before", [process.execPath, `${folder}/before/billing.js`], env);
  const channel = start("billing, after", [process.execPath, "page.js", `${folder}/after/billing.js`], { ...env, ORIGIN, COOKIE: "", ROUTES: "{}" }, {
    cwd: fileURLToPath(new URL(".", import.meta.url)),
  });
  await channel.until("it is connected", () => channel.said.find(({ live }) => live));
  // The old one says nothing when it listens; Redis knows: the demo's bridge, the guide's, the relay, and this.
  await within(PATIENCE_MS, "billing to listen", (async () => {
    while ((await old.redis.pubsub("NUMSUB", "orders"))[1] < 4) await new Promise(setImmediate);
  })());
  await old.publishEvent("orders", { user_id: "awa", last: "old way" });
  await now.publishOrder({ user_id: "awa", last: "new way" });
  assert.deepEqual(await handled(channel, "new way"), [{ topic: "orders", event: { user_id: "awa", last: "new way" } }]);
  assert.deepEqual((await handled(pages.after.awa, "new way")).map(({ event }) => event.last), ["old way", "new way"]);
  await old.publishEvent("orders", { user_id: "kofi", last: "closing" });
  assert.deepEqual((await handled(ear, "closing")).map(({ event }) => event.last), ["old way", "closing"]);
  await ear.stop();
});

test("1: what is not JSON ends the relay, and is counted by the bridge", async () => {
  const dropped = async () => {
    const metrics = await (await fetch(`http://${bridge.operators}/metrics`)).text();
    return Object.fromEntries([...metrics.matchAll(/^griot_raw_dropped_total\{reason="([^"]+)"\} (\d+)$/gm)].map(([, why, n]) => [why, Number(n)]));
  };
  forget();
  assert.deepEqual(await dropped(), {});
  for (const text of ["not JSON", '{"user_id": null}', '{"user_id": 4.2}', "{}", '{"user_id": "awa", "userId": "kofi"}']) await old.redis.publish("orders", text);
  assert.equal(await within(PATIENCE_MS, "the relay to end", relay.ended), 1);
  await old.publishEvent("orders", { user_id: "awa", last: "after that" });
  assert.equal((await handled(pages.after.awa, "after that")).length, 1);
  assert.deepEqual(await dropped(), { "not JSON": 1, "no user": 1, "not a user id": 2, "two users": 1 });
});

test("3: the API gives position and id, publishes a key once, and says what it refuses", async () => {
  forget();
  const before = await now.publishEvent("notifications", { user_id: "awa", text: "first" }, "key 1");
  assert.deepEqual(await now.publishEvent("notifications", { user_id: "awa", text: "first" }, "key 1"), before);
  await now.publishEvent("notifications", { user_id: "kofi", last: 3 });
  const last = await now.publishEvent("notifications", { user_id: "awa", last: 3 });
  const first = { topic: "notifications", event: { user_id: "awa", text: "first" } };
  assert.deepEqual(await handled(pages.after.awa, 3), [first, { topic: "notifications", event: { user_id: "awa", last: 3 } }]);
  assert.deepEqual(await handled(pages.after.kofi, 3), [{ topic: "notifications", event: { user_id: "kofi", last: 3 } }]);
  const positions = pages.after.awa.said.filter(({ position }) => position).map(({ position }) => position);
  assert.deepEqual(positions.map(({ offset }) => offset), [before.offset, last.offset]);
  assert.ok(positions.every(({ id }) => typeof id === "string"), JSON.stringify(positions));
  await assert.rejects(now.publishEvent("elsewhere", { user_id: "awa" }), /refused/);
  await assert.rejects(now.publishOrder({ user_id: "4,2" }), /refused/);
});

test("3: a page that was away has what it missed, or is told; another's page reloads nothing", async () => {
  forget();
  await bridge.stop();
  await now.publishEvent("notifications", { user_id: "awa", text: "while away" });
  bridge = await startBridge("griot", block("griot.toml"), bridge.browsers);
  for (const user of ["awa", "kofi"]) {
    const page = pages.after[user];
    await page.until("it is connected again", () => page.said.find(({ live }) => live));
    await now.publishEvent("notifications", { user_id: user, last: "back" });
    await handled(page, "back");
  }
  const missed = pages.after.awa.said.some(({ event, reload }) => reload || event?.text === "while away");
  assert.ok(missed, JSON.stringify(pages.after.awa.said));
  assert.ok(!pages.after.kofi.said.some(({ reload }) => reload), JSON.stringify(pages.after.kofi.said));
});

test("4: a publication in the transaction is delivered when it is committed, and not when it is rolled back", async () => {
  forget();
  await run([binary("invalidation-worker"), "migrate"], env);
  await database.query(`create role shop login; create schema guide; grant usage on schema guide to shop;
    create table guide.orders (id bigint generated always as identity, user_id text, total_cents bigint);
    create table guide.wallets (user_id text, balance_cents bigint);
    grant select, insert, update on all tables in schema guide to shop;
    insert into guide.wallets values ('awa', 10000)`);
  const { placeOrder: placed, pool: oldPool } = await import(`${folder}/before/place-order.js`);
  const { placeOrder, pool } = await import(`${folder}/after/place-order.js`);
  try {
    await placed("awa", 1100);
    await assert.rejects(placeOrder("awa", 1200), /permission denied/);
    await database.query(block("once, as the owner of the database"));
    await assert.rejects(placeOrder("awa", 999_999), /not enough money/);
    await placeOrder("awa", 1300);
  } finally {
    await Promise.all([oldPool.end(), pool.end()]);
  }
  const order = (id, cents) => ({ topic: "orders", event: { id, user_id: "awa", total_cents: cents } });
  // Refused and rolled back orders have taken numbers 2 and 3.
  assert.deepEqual(await handled(pages.after.awa, "1300"), [order("1", "1100"), order("4", "1300")]);
  assert.deepEqual(pages.after.awa.said.filter(({ position }) => position).map(({ position }) => position.id === null), [true, false]);
  await now.publishEvent("orders", { user_id: "kofi", last: 4 });
  assert.equal((await handled(pages.after.kofi, 4)).length, 1);
});

test("5: with the relay gone only bridges listen, and then not even they", async () => {
  forget();
  const listeners = async () => (await run(["bash", "-euc", block("who listens")], env)).split("\n").filter((_, n) => n % 2);
  assert.deepEqual(await listeners(), ["2", "2", "2"]);
  const deaf = await startBridge("deaf", block("griot.toml") + block("topics.toml"));
  assert.deepEqual(await listeners(), ["2", "2", "2"]);
  const page = await openPage("after", "awa", deaf);
  for (const topic of TOPICS) {
    await old.publishEvent(topic, { user_id: "awa", n: 5 });
    await now.publishEvent(topic, { user_id: "awa", last: topic });
  }
  assert.deepEqual((await handled(page, TOPICS.at(-1))).map(({ event }) => event.last), TOPICS);
});
