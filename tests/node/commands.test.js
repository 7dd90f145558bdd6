// Every command of the client protocol, by every encoding and transport of the official JavaScript client.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { once } from "node:events";
import { after, before, describe, test } from "node:test";
import { EVERY_WAY, Site } from "./site.js";
import { WAYS, client, closeAll, connect, eventually, gather, next, refused, subscribe } from "./ways.js";

let site, backend, http, mute;

before(async () => {
  // Who answers `rpc`: it says who asked, and refuses one method.
  backend = createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += chunk;
    const { method, data, user, client } = JSON.parse(body);
    const answer = method === "no" ? { error: { code: 404, message: "no such thing" } } : { result: { data: { method, data, user, client } } };
    response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(answer));
  }).listen(0, "127.0.0.1");
  await once(backend, "listening");
  const rpc = `rpc_url = "http://127.0.0.1:${backend.address().port}/rpc"\n`;
  site = await Site.start({ bridges: [EVERY_WAY + rpc, EVERY_WAY] });
  [http, mute] = site.bridges.map(({ http }) => http);
});

after(async () => {
  closeAll();
  backend?.close();
  await site?.stop();
});

for (const way of WAYS) {
  describe(way.name, () => {
    const open = (user, claims) => client(way, http, { token: site.token(user, claims) });
    const named = (name) => `chat:${way.name.replaceAll(" ", "-")}-${name}`;

    test("connect names the client and the transport", async () => {
      const { client: id, transport } = await connect(open("42"));
      assert.match(id, /^[0-9a-f-]{36}$/);
      assert.equal(transport, way.transport);
    });

    test("a publication of a backend arrives with position, id and tags; one's own carries who it was", async () => {
      const [one, channel] = [open("42", { info: { name: "Awa" } }), named("publish")];
      await connect(one);
      const subscription = await subscribe(one, channel);
      assert.equal(subscription.told.recoverable, true);
      assert.equal(subscription.told.positioned, true);
      assert.equal(subscription.told.streamPosition.offset, 0);
      let heard = next(subscription, "publication");
      await site.publish(channel, { text: "déjà vu\n", list: [1, null] }, { tags: { colour: "blue" } });
      const first = await heard;
      assert.deepEqual(way.decode(first.data), { text: "déjà vu\n", list: [1, null] });
      assert.equal(first.offset, 1);
      assert.equal(first.tags.colour, "blue");
      assert.equal(typeof first.tags.id, "string");
      assert.equal(first.info, undefined);
      heard = next(subscription, "publication");
      assert.deepEqual(await subscription.publish(way.encode({ text: "mine" })), {});
      const second = await heard;
      assert.equal(second.offset, 2);
      assert.equal(second.info.user, "42");
      assert.deepEqual(way.decode(second.info.connInfo), { name: "Awa" });
    });

    test("unsubscribe ends the publications, and the same channel may be subscribed again", async () => {
      const [one, channel] = [open("42"), named("unsubscribe")];
      await connect(one);
      const subscription = await subscribe(one, channel);
      const heard = gather(way, subscription);
      const ended = next(subscription, "unsubscribed");
      subscription.unsubscribe();
      assert.equal((await ended).code, 0);
      await site.publish(channel, "unheard");
      const again = next(subscription, "subscribed");
      subscription.subscribe();
      // The client keeps its position over it, and asks for what it missed.
      assert.equal((await again).recovered, true);
      await eventually("the missed one", () => heard.length === 1);
      await site.publish(channel, "heard");
      await eventually("the new one", () => heard.length === 2);
      assert.deepEqual(heard, ["unheard", "heard"]);
    });

    test("presence and its numbers name those who are there, and forget who left", async () => {
      const [one, two, channel] = [open("42", { info: { name: "Awa" } }), open("7"), named("presence")];
      const { client: id } = await connect(one);
      await connect(two);
      const mine = await subscribe(one, channel);
      const other = await subscribe(two, channel);
      const { clients } = await mine.presence();
      assert.equal(Object.keys(clients).length, 2);
      assert.equal(clients[id].user, "42");
      assert.deepEqual(way.decode(clients[id].connInfo), { name: "Awa" });
      assert.deepEqual(await mine.presenceStats(), { numClients: 2, numUsers: 2 });
      other.unsubscribe();
      await eventually("one to be gone", async () => (await mine.presenceStats()).numClients === 1);
      assert.equal(await refused(one.presence("plain:room")), 108);
      assert.equal(await refused(one.presenceStats("plain:room")), 108);
    });

    test("history pages forwards and backwards, and knows its epoch", async () => {
      const [one, channel] = [open("42"), named("history")];
      await connect(one);
      const subscription = await subscribe(one, channel);
      for (let n = 1; n <= 5; n += 1) await site.publish(channel, n);
      const top = await subscription.history({});
      assert.deepEqual([top.publications, top.offset], [[], 5]);
      const said = ({ publications }) => publications.map(({ data }) => way.decode(data));
      const of = (options) => subscription.history(options);
      assert.deepEqual(said(await of({ limit: -1 })), [1, 2, 3, 4, 5]);
      assert.deepEqual(said(await of({ limit: 2, since: { offset: 2, epoch: top.epoch } })), [3, 4]);
      assert.deepEqual(said(await of({ limit: 2, reverse: true })), [5, 4]);
      assert.deepEqual(said(await of({ limit: 10, since: { offset: 3, epoch: top.epoch }, reverse: true })), [2, 1]);
      assert.equal(await refused(of({ limit: 1, since: { offset: 1, epoch: "another" } })), 112);
      assert.equal(await refused(one.history("plain:room", { limit: 1 })), 108);
    });

    test("rpc is answered by the backend, with an error of its own too; without one it is 108", async () => {
      const one = open("42");
      const { client: id } = await connect(one);
      const { data } = await one.rpc("greet", way.encode({ name: "Kofi" }));
      assert.deepEqual(way.decode(data), { method: "greet", data: { name: "Kofi" }, user: "42", client: id });
      assert.equal(await refused(one.rpc("no", way.encode({}))), 404);
      const elsewhere = client(way, mute, { token: site.token("42") });
      await connect(elsewhere);
      assert.equal(await refused(elsewhere.rpc("greet", way.encode({}))), 108);
    });

    test("send has nobody to hear it: the connection ends for good with 3508", async () => {
      const one = open("42");
      await connect(one);
      const ended = next(one, "disconnected");
      one.send(way.encode({ hello: true })).catch(() => {});
      assert.equal((await ended).code, 3508);
    });

    test("joins and leaves are told to those who are there, one's own join too", async () => {
      const [one, two, channel] = [open("42"), open("7"), named("joins")];
      await connect(one);
      await connect(two);
      const mine = one.newSubscription(channel);
      const own = next(mine, "join");
      mine.subscribe();
      assert.equal((await own).info.user, "42");
      const joined = next(mine, "join");
      const other = await subscribe(two, channel);
      assert.equal((await joined).info.user, "7");
      const left = next(mine, "leave");
      other.unsubscribe();
      assert.equal((await left).info.user, "7");
      const again = next(mine, "join");
      other.subscribe();
      await again;
      const gone = next(mine, "leave");
      two.disconnect();
      assert.equal((await gone).info.user, "7");
    });

    test("what is not permitted or not there is refused with its code, and the connection goes on", async () => {
      const one = open("42");
      await connect(one);
      const fails = async (channel) => {
        const subscription = one.newSubscription(channel);
        const ended = next(subscription, "unsubscribed");
        subscription.subscribe();
        return (await ended).code;
      };
      assert.equal(await fails("orders:#7"), 103);
      assert.equal(await fails("closed:room"), 103);
      assert.equal(await fails("elsewhere:room"), 102);
      assert.equal(await fails("x".repeat(256)), 107);
      assert.equal(await refused(one.publish("orders:#42", way.encode("no"))), 103);
      assert.equal(await refused(one.publish(named("not-subscribed"), way.encode("no"))), 103);
      assert.equal(await refused(one.publish("elsewhere", way.encode("no"))), 102);
      assert.equal(await refused(one.presence(named("not-subscribed"))), 103);
      assert.equal(await refused(one.history(named("not-subscribed"), { limit: 1 })), 103);
      assert.deepEqual(await one.publish("plain:room", way.encode("yes")), {});
    });
  });
}
