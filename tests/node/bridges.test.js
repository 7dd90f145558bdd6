// A session whose stream is on one bridge and whose commands arrive at another, as behind a load balancer.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { EVERY_WAY, Site } from "./site.js";
import { WAYS, client, closeAll, connect, eventually, gather, next, subscribe } from "./ways.js";

const EMULATED = WAYS.filter(({ transport }) => transport !== "websocket");
const BRIDGE = `${EVERY_WAY}allowed_origins = ["https://shop.example"]\n`;

let site, a, b, impatient;

before(async () => {
  site = await Site.start({ bridges: [BRIDGE, BRIDGE, `${BRIDGE}ping_seconds = 2\npong_timeout_seconds = 1\n`] });
  [a, b, impatient] = site.bridges.map(({ http }) => http);
});

after(async () => {
  closeAll();
  await site?.stop();
});

for (const way of EMULATED) {
  test(`${way.name}: a session on A is driven through B, survives the end of B, and ends with A`, async () => {
    const door = { http: a, emulation: b };
    const one = client(way, door, { token: site.token("42") });
    await connect(one);
    const ends = [];
    one.on("connecting", ({ code }) => ends.push(code));
    const channel = `chat:driven-${way.name.replaceAll(" ", "-")}`;
    const subscription = await subscribe(one, channel);
    const heard = gather(way, subscription);
    await subscription.publish(way.encode("through B"));
    await eventually("one's own publication", () => heard.length === 1);
    assert.equal((await subscription.presenceStats()).numClients, 1);

    await eventually("B to have answered every command", () => door.unanswered === 0);
    door.emulation = undefined; // a client that cannot command begins anew, and this is about the stream
    await site.kill(1);
    await site.publish(channel, "B is gone");
    await eventually("a publication without B", () => heard.length === 2);
    assert.deepEqual(ends, [], "the stream stands on A alone");
    await site.again(1);
    door.emulation = b;
    await subscription.publish(way.encode("B is back"));
    await eventually("a publication through B again", () => heard.length === 3);

    const moved = next(subscription, "subscribed");
    const closing = next(one, "connecting");
    door.http = b;
    await site.end(0);
    assert.equal((await closing).code, 3001);
    assert.equal((await moved).recovered, true);
    await site.again(0);
    assert.deepEqual(heard, ["through B", "B is gone", "B is back"]);
    one.disconnect();
  });
}

for (const way of EMULATED) {
  test(`${way.name}: pings are answered through B, too`, async () => {
    const door = { http: impatient, emulation: b };
    const one = client(way, door, { token: site.token("42") });
    await connect(one);
    const ends = [];
    one.on("connecting", ({ code, reason }) => ends.push({ code, reason }));
    await eventually("three pings to be answered", () => door.commands >= 3);
    assert.deepEqual(ends, []);
    one.disconnect();
  });
}

/** Posts to `/emulation` as anybody could. */
async function emulate(http, body, headers = {}) {
  const response = await fetch(`${http}/emulation`, { method: "POST", headers: { "content-type": "application/json", ...headers }, body });
  await response.arrayBuffer();
  return response;
}

/** A stream of one's own: the connect result, and how to read on. */
async function stream(http, token) {
  const response = await fetch(`${http}/connection/http_stream`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ id: 1, connect: { token } }),
  });
  assert.equal(response.status, 200);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let unread = "";
  const line = async () => {
    for (;;) {
      const end = unread.indexOf("\n");
      if (end >= 0) {
        const line = unread.slice(0, end);
        unread = unread.slice(end + 1);
        return JSON.parse(line);
      }
      const { value, done } = await reader.read();
      if (done) return undefined;
      unread += value;
    }
  };
  return { first: await line(), line, close: () => reader.cancel(), headers: response.headers };
}

test("what /emulation answers: 204, 204 for a session that is none, 404 for a node, 400, 413, 405", async () => {
  const { first, line, close } = await stream(a, site.token("42"));
  const { session, node } = first.connect;
  const command = JSON.stringify({ id: 2, subscribe: { channel: "chat:emulation" } });
  assert.equal((await emulate(b, JSON.stringify({ session, node, data: command }))).status, 204);
  const reply = await (async () => {
    for (;;) {
      const reply = await line();
      if (reply === undefined || reply.id === 2) return reply;
    }
  })();
  assert.ok(reply.subscribe, JSON.stringify(reply));
  assert.equal((await emulate(a, JSON.stringify({ session: "none", node, data: command }))).status, 204);
  assert.equal((await emulate(a, JSON.stringify({ session, node: "nowhere", data: command }))).status, 404);
  assert.equal((await emulate(a, "{")).status, 400);
  assert.equal((await emulate(a, JSON.stringify({ session, node, data: "x".repeat(70_000) }))).status, 413);
  assert.equal((await fetch(`${a}/emulation`)).status, 405);
  await close();
});

test("a session's id is long, never the same, and stands in no log", async () => {
  const ids = new Set();
  for (let n = 0; n < 20; n += 1) {
    const { first, close } = await stream(a, site.token("42"));
    ids.add(first.connect.session);
    assert.ok(first.connect.session.length >= 32, first.connect.session);
    assert.notEqual(first.connect.session, first.connect.client);
    await close();
  }
  assert.equal(ids.size, 20);
});

test("pages of allowed origins may stream and command, others may not", async () => {
  const ask = (origin, method = "POST") =>
    fetch(`${a}/connection/http_stream`, {
      method,
      headers: { origin, "access-control-request-headers": "content-type" },
      body: method === "POST" ? JSON.stringify({ id: 1, connect: { token: site.token("42") } }) : undefined,
    });
  const preflight = await ask("https://shop.example", "OPTIONS");
  assert.equal(preflight.status, 204);
  assert.equal(preflight.headers.get("access-control-allow-origin"), "https://shop.example");
  assert.equal(preflight.headers.get("access-control-allow-credentials"), "true");
  assert.equal(preflight.headers.get("access-control-allow-headers"), "content-type");
  const good = await ask("https://shop.example");
  assert.equal(good.status, 200);
  assert.equal(good.headers.get("access-control-allow-origin"), "https://shop.example");
  assert.match(good.headers.get("cache-control"), /no-store/);
  await good.body.cancel();
  for (const origin of ["https://shop.example.evil.example", "https://evil.example", "null"]) {
    assert.equal((await ask(origin)).status, 403, origin);
    assert.equal((await emulate(a, "{}", { origin })).status, 403, origin);
    assert.equal((await fetch(`${a}/connection/sse?cf_connect=%7B%7D`, { headers: { origin } })).status, 403, origin);
  }
});
