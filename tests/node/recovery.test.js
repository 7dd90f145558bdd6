// What the official JavaScript client gets back after its connection broke: from the same bridge, from another one, and
// when it cannot be given back.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { EVERY_WAY, Site, TOPICS } from "./site.js";
import { WAYS, client, closeAll, connect, eventually, gather, next, subscribe } from "./ways.js";

/** Told at once, not within ten seconds. */
const BRIDGE = `${EVERY_WAY}telling_window_seconds = 0\n`;
const SMALL = '[topics.small]\npersonal = "off"\nnamed = true\nhistory_size = 2\n';

let site;

before(async () => {
  site = await Site.start({ topics: TOPICS + SMALL, bridges: [BRIDGE, BRIDGE] });
});

after(async () => {
  closeAll();
  await site?.stop();
});

for (const way of WAYS) {
  describe(way.name, () => {
    const slug = way.name.replaceAll(" ", "-");

    test("what was missed while its bridge was gone is given back by another bridge, in order", async () => {
      const [first, second] = site.bridges;
      const [channel, door] = [`chat:moves-${slug}`, { http: first.http }];
      const one = client(way, door, { token: site.token("42") });
      await connect(one);
      const subscription = await subscribe(one, channel);
      const heard = gather(way, subscription);
      const personal = gather(way, one, "orders:#42");
      await site.publish(channel, 1);
      await eventually("the first", () => heard.length === 1);
      await site.kill(0);
      await eventually("the client to notice", () => one.state === "connecting");
      await site.publish(channel, 2);
      await site.publish("orders:#42", way.name);
      const back = next(subscription, "subscribed");
      door.http = second.http;
      assert.equal((await back).recovered, true);
      await site.publish(channel, 3);
      await eventually("all", () => heard.length === 3);
      assert.deepEqual(heard, [1, 2, 3]);
      await eventually("the personal one", () => personal.length === 1);
      assert.deepEqual(personal, [way.name]);
      await site.again(0);
    });

    test("more than the history holds cannot be given back, and that is told", async () => {
      const channel = `small:${slug}`;
      const one = client(way, site.bridges[1].http, { token: site.token("42") });
      await connect(one);
      const subscription = await subscribe(one, channel);
      const heard = gather(way, subscription);
      one.disconnect();
      for (let n = 1; n <= 3; n += 1) await site.publish(channel, n);
      const back = next(subscription, "subscribed");
      await connect(one);
      const told = await back;
      assert.deepEqual([told.wasRecovering, told.recovered, told.streamPosition.offset], [true, false, 3]);
      await site.publish(channel, 4);
      await eventually("the new one", () => heard.length > 0);
      assert.deepEqual(heard, [4]);
    });

    test("who loads the state by itself is refused with 112 instead, and asked for the state", async () => {
      const channel = `small:state-${slug}`;
      const positions = [];
      const getState = async () => {
        const { offset, epoch } = await site.api("history", { channel, limit: 0 });
        positions.push(offset);
        return { offset, epoch };
      };
      const one = client(way, site.bridges[1].http, { token: site.token("42") });
      await connect(one);
      const subscription = await subscribe(one, channel, { getState });
      const heard = gather(way, subscription);
      const asked = positions.length;
      one.disconnect();
      for (let n = 1; n <= 3; n += 1) await site.publish(channel, n);
      const back = next(subscription, "subscribed");
      await connect(one);
      await back;
      assert.deepEqual(positions.slice(asked), [3]);
      await site.publish(channel, 4);
      await eventually("the new one", () => heard.length > 0);
      assert.deepEqual(heard, [4]);
    });

    test("since a position of the application's own: what came after it is delivered", async () => {
      const channel = `chat:since-${slug}`;
      const { epoch } = await site.publish(channel, 1);
      await site.publish(channel, 2);
      const one = client(way, site.bridges[1].http, { token: site.token("42") });
      await connect(one);
      const subscription = one.newSubscription(channel, { since: { offset: 1, epoch } });
      const heard = gather(way, subscription);
      subscription.subscribe();
      await eventually("what came after", () => heard.length > 0);
      assert.deepEqual(heard, [2]);
    });
  });
}

test("after a restart of Redis every client is told: 2500 where it subscribed itself, 3010 where the server did", async () => {
  const told = [];
  for (const way of WAYS) {
    const own = client(way, site.bridges[1].http, { token: site.token("7") });
    await connect(own);
    const subscription = await subscribe(own, "chat:restart");
    const codes = { way: way.name, subscription: [], connection: [] };
    subscription.on("subscribing", ({ code }) => codes.subscription.push(code));
    own.on("connecting", ({ code }) => codes.connection.push(code));
    told.push(codes);
  }
  await site.restartRedis();
  for (const { way, subscription, connection } of told) {
    await eventually(`${way} to be told`, () => subscription.includes(2500) || connection.includes(3010));
  }
});
