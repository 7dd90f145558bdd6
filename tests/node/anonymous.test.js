// What the clients' own suites expect of a server on port 8000, said once more in our words; against `anonymous` with the
// configuration that `just anonymous` uses, on another port.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { createInterface } from "node:readline";
import { after, before, describe, test } from "node:test";
import { PATIENCE_MS, binary, within } from "../browser/demo.js";
import { seconds, sign } from "./site.js";
import { WAYS, client, closeAll, connect, eventually, gather, next, refused, subscribe } from "./ways.js";

let program, lines, http;

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

before(async () => {
  program = spawn(binary("anonymous"), ["--print-json", "--port", String(await freePort())], { stdio: ["pipe", "pipe", "inherit"] });
  lines = createInterface({ input: program.stdout });
  const [line] = await within(2 * PATIENCE_MS, "griot to be ready", once(lines, "line"));
  http = JSON.parse(line).http;
});

after(async () => {
  closeAll();
  if (program?.exitCode === null) {
    const ended = once(program, "exit");
    program.stdin.end();
    const [code] = await within(PATIENCE_MS, "anonymous to end", ended);
    assert.equal(code, 0);
  }
});

async function api(method, body, at = http[0]) {
  const response = await fetch(`${at}/api/${method}`, { method: "POST", headers: { "X-API-Key": "test-api-key" }, body: JSON.stringify(body) });
  assert.equal(response.status, 200);
  return response.json();
}

test("both addresses of localhost answer, the API with its key, and operators of this machine without", async () => {
  for (const address of http) {
    assert.equal(await (await fetch(`${address}/health`)).text(), "{}");
    assert.ok((await api("publish", { channel: "test", data: {} }, address)).result);
    assert.equal((await fetch(`${address}/api/publish`, { method: "POST", body: "{}" })).status, 401);
    assert.equal((await fetch(`${address}/metrics`)).status, 200);
    assert.equal((await fetch(`${address}/metrics`, { headers: { "x-forwarded-for": "203.0.113.7" } })).status, 401);
    const keyed = await fetch(`${address}/metrics`, { headers: { "x-forwarded-for": "203.0.113.7", "x-api-key": "test-api-key" } });
    assert.match(await keyed.text(), /^griot_connections /m);
    assert.equal((await fetch(`${address}/elsewhere`)).status, 404);
  }
});

for (const way of WAYS) {
  describe(way.name, () => {
    const slug = way.name.replaceAll(" ", "-");

    test("anybody connects, disconnects and connects again", async () => {
      const one = client(way, http[0]);
      const { client: first } = await connect(one);
      const ended = next(one, "disconnected");
      one.disconnect();
      assert.equal((await ended).code, 0);
      assert.notEqual((await connect(one)).client, first);
    });

    test("anybody subscribes, publishes and hears it", async () => {
      const one = client(way, http[0]);
      await connect(one);
      const subscription = await subscribe(one, "test");
      const mine = way.name;
      const heard = next(subscription, "publication", ({ data }) => way.decode(data).mine === mine);
      await subscription.publish(way.encode({ mine }));
      const { info } = await heard;
      assert.equal(info.user, "");
    });

    test("after loops of subscribing and unsubscribing presence counts exactly one, and soon nobody", async () => {
      const channel = `loop-${slug}`;
      const one = client(way, http[0]);
      const watcher = client(WAYS[0], http[0]);
      await Promise.all([connect(one), connect(watcher)]);
      const subscription = one.newSubscription(channel);
      for (let n = 0; n < 10; n += 1) {
        subscription.subscribe();
        subscription.unsubscribe();
      }
      const there = next(subscription, "subscribed");
      subscription.subscribe();
      await there;
      assert.deepEqual(await subscription.presenceStats(), { numClients: 1, numUsers: 1 });
      const ended = next(one, "disconnected");
      one.disconnect();
      await ended;
      await eventually("nobody to be there", async () => (await watcher.presenceStats(channel)).numClients === 0);
    });

    test("recovery: what was published meanwhile comes back; of a small history it does not", async () => {
      for (const [topic, missed, recovered] of [["recovery", 10, true], ["smallhistory", 10, false]]) {
        const channel = `${topic}:${slug}`;
        const one = client(way, http[0]);
        await connect(one);
        const subscription = await subscribe(one, channel);
        assert.equal(subscription.told.recoverable, true);
        const heard = gather(way, subscription);
        one.disconnect();
        for (let n = 0; n < missed; n += 1) await api("publish", { channel, data: n });
        const back = next(subscription, "subscribed");
        await connect(one);
        const told = await back;
        assert.deepEqual([told.wasRecovering, told.recovered, told.hasRecoveredPublications], [true, recovered, recovered]);
        await api("publish", { channel, data: "live" });
        await eventually("the live one", () => heard.includes("live"));
        assert.equal(heard.length, recovered ? missed + 1 : 1);
      }
    });

    test("history and presence are everybody's; rpc and unknown namespaces are not", async () => {
      const one = client(way, http[0]);
      await connect(one);
      const subscription = await subscribe(one, `open-${slug}`);
      await subscription.publish(way.encode(1));
      assert.equal((await subscription.history({ limit: 10 })).publications.length, 1);
      assert.equal(Object.keys((await subscription.presence()).clients).length, 1);
      assert.equal(await refused(one.rpc("any", way.encode({}))), 108);
      const unknown = one.newSubscription("nowhere:x");
      const ended = next(unknown, "unsubscribed");
      unknown.subscribe();
      assert.equal((await ended).code, 102);
    });

    test("tokens are verified where they are sent, by the secret `secret`", async () => {
      const claims = (more) => ({ exp: seconds() + 60, ...more });
      const one = client(way, http[0], { token: sign("secret", claims({ sub: "42" })) });
      await connect(one);
      const subscription = await subscribe(one, `signed-${slug}`, { token: sign("secret", claims({ sub: "42", channel: `signed-${slug}` })) });
      assert.deepEqual(await subscription.presenceStats(), { numClients: 1, numUsers: 1 });
      const forged = client(way, http[0], { token: sign("another", claims({ sub: "42" })) });
      const ended = next(forged, "disconnected");
      forged.connect();
      assert.equal((await ended).code, 3500);
    });
  });
}
