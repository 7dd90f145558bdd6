// Tokens in the hands of the official JavaScript client: expiry and refresh during the connection, tokens of single
// subscriptions, and subscriptions that the server makes.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { Site, seconds } from "./site.js";
import { WAYS, client, closeAll, connect, eventually, gather, next, subscribe } from "./ways.js";

let site, http;

before(async () => {
  site = await Site.start();
  http = site.bridges[0].http;
});

after(async () => {
  closeAll();
  await site?.stop();
});

for (const way of WAYS) {
  describe(way.name, () => {
    const slug = way.name.replaceAll(" ", "-");

    test("a token that is about to expire is refreshed, and the connection goes on", async () => {
      let asked = 0;
      const getToken = async () => {
        asked += 1;
        return site.token("42", asked < 3 ? { exp: seconds() + 2 } : {});
      };
      const one = client(way, http, { token: site.token("42", { exp: seconds() + 2 }), getToken });
      const { client: id } = await connect(one);
      const ends = [];
      one.on("connecting", ({ code }) => ends.push(code));
      await eventually("three tokens", () => asked === 3);
      const subscription = await subscribe(one, `chat:refresh-${slug}`);
      assert.ok((await subscription.presence()).clients[id], "it is the same connection");
      assert.deepEqual(ends, []);
    });

    test("a token that has expired already makes the client ask for another, and nothing is told of it", async () => {
      const one = client(way, http, { token: site.token("42", { exp: seconds() - 1 }), getToken: async () => site.token("42") });
      await connect(one);
      assert.equal(one.state, "connected");
    });

    test("an invalid token ends the client for good: 3500", async () => {
      const one = client(way, http, { token: `${site.token("42")}x` });
      const ended = next(one, "disconnected");
      one.connect();
      assert.equal((await ended).code, 3500);
    });

    test("a refresh with somebody else's token ends it for good: 3500", async () => {
      const one = client(way, http, { token: site.token("42", { exp: seconds() + 2 }), getToken: async () => site.token("7") });
      await connect(one);
      assert.equal((await next(one, "disconnected")).code, 3500);
    });

    test("the personal channels of topics with personal = \"auto\" are there at once, and recover", async () => {
      const user = `auto-${slug}`;
      const one = client(way, http, { token: site.token(user) });
      const there = next(one, "subscribed", ({ channel }) => channel === `orders:#${user}`);
      await connect(one);
      assert.equal((await there).recoverable, true);
      const heard = gather(way, one, `orders:#${user}`);
      await site.publish(`orders:#${user}`, 1);
      await eventually("the first", () => heard.length === 1);
      one.disconnect();
      await site.publish(`orders:#${user}`, 2);
      const back = next(one, "subscribed", ({ channel }) => channel === `orders:#${user}`);
      await connect(one);
      assert.equal((await back).recovered, true);
      await eventually("what was missed", () => heard.length === 2);
      assert.deepEqual(heard, [1, 2]);
    });

    test("channels of the token are subscribed by the server, also what the topic opens to nobody", async () => {
      const one = client(way, http, { token: site.token("42", { channels: ["closed:room", "chat:hall"] }) });
      const there = new Set();
      one.on("subscribed", ({ channel }) => there.add(channel));
      await connect(one);
      await eventually("both", () => there.has("closed:room") && there.has("chat:hall"));
      const heard = next(one, "publication", ({ channel }) => channel === "closed:room");
      await site.publish("closed:room", { deep: ["thing"] });
      assert.deepEqual(way.decode((await heard).data), { deep: ["thing"] });
    });

    test("subs of the token give data and information of each channel", async () => {
      const channel = `chat:subs-${slug}`;
      const subs = { [channel]: { data: { colour: "blue" }, info: { role: "guest" } } };
      const one = client(way, http, { token: site.token("42", { subs }) });
      const there = next(one, "subscribed", (context) => context.channel === channel);
      const { client: id } = await connect(one);
      assert.deepEqual(way.decode((await there).data), { colour: "blue" });
      const { clients } = await one.presence(channel);
      assert.deepEqual(way.decode(clients[id].chanInfo), { role: "guest" });
    });

    test("a subscription token opens its channel, is refreshed while subscribed, and carries information", async () => {
      const channel = `closed:ticket-${slug}`;
      let asked = 0;
      const getToken = async () => {
        asked += 1;
        return site.ticket("42", channel, { info: { seat: 7 }, ...(asked < 3 ? { exp: seconds() + 2 } : {}) });
      };
      const one = client(way, http, { token: site.token("42") });
      await connect(one);
      const subscription = await subscribe(one, channel, { getToken });
      const ends = [];
      subscription.on("subscribing", ({ code }) => ends.push(code));
      subscription.on("unsubscribed", ({ code }) => ends.push(code));
      await eventually("three tokens", () => asked === 3);
      const heard = next(subscription, "publication");
      await site.publish(channel, "still here");
      assert.equal(way.decode((await heard).data), "still here");
      assert.deepEqual(ends, []);
    });

    test("a subscription token that has expired makes the client ask for another", async () => {
      const channel = `closed:expired-${slug}`;
      const one = client(way, http, { token: site.token("42") });
      await connect(one);
      const token = site.ticket("42", channel, { exp: seconds() - 1 });
      await subscribe(one, channel, { token, getToken: async () => site.ticket("42", channel) });
    });

    test("a forged subscription token is error 103; somebody else's ends the connection: 3500", async () => {
      const one = client(way, http, { token: site.token("42") });
      await connect(one);
      const forged = one.newSubscription("closed:a", { token: `${site.ticket("42", "closed:a")}x` });
      const ended = next(forged, "unsubscribed");
      forged.subscribe();
      assert.equal((await ended).code, 103);
      const others = one.newSubscription("closed:b", { token: site.ticket("7", "closed:b") });
      const gone = next(one, "disconnected");
      others.subscribe();
      assert.equal((await gone).code, 3500);
    });
  });
}
