// What a page gets without any library: an EventSource, a plain WebSocket, a streamed response.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { EventSource } from "eventsource";
import WebSocket from "ws";
import { EVERY_WAY, Site, seconds } from "./site.js";
import { eventually } from "./ways.js";

let site, http, closing;

before(async () => {
  const origins = 'allowed_origins = ["https://shop.example"]\n';
  site = await Site.start({ bridges: [EVERY_WAY + origins, "", EVERY_WAY + origins] });
  [http, closing] = [site.bridges[0].http, site.bridges[2].http];
});

after(() => site?.stop());

const opened = [];
after(() => opened.forEach((page) => page.close()));

const encoded = (request) => encodeURIComponent(JSON.stringify(request));

/** Three ways to hear, each with what came and how it ended. */
const LISTEN = {
  uni_sse(http, request) {
    const source = new EventSource(`${http}/connection/uni_sse?cf_connect=${encoded(request)}`);
    const page = { came: [], tries: 0, close: () => source.close() };
    source.onmessage = ({ data }) => page.came.push(JSON.parse(data));
    source.onopen = () => (page.tries += 1);
    return page;
  },
  uni_websocket(http, request) {
    const socket = new WebSocket(`${http.replace("http", "ws")}/connection/uni_websocket?cf_connect=${encoded(request)}`);
    const page = { came: [], close: () => socket.close() };
    socket.on("message", (data) => page.came.push(JSON.parse(String(data))));
    socket.on("close", (code, reason) => (page.closed = { code, reason: String(reason) }));
    return page;
  },
  uni_http_stream(http, request) {
    const cut = new AbortController();
    const page = { came: [], close: () => cut.abort() };
    const read = async () => {
      const response = await fetch(`${http}/connection/uni_http_stream`, { method: "POST", body: JSON.stringify(request), signal: cut.signal });
      let unread = "";
      for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
        const lines = (unread + text).split("\n");
        unread = lines.pop();
        page.came.push(...lines.filter((line) => line !== "").map((line) => JSON.parse(line)));
      }
      page.ended = true;
    };
    read().catch(() => {});
    return page;
  },
};

for (const [way, listen] of Object.entries(LISTEN)) {
  describe(way, () => {
    const hear = (request, at = http) => {
      const page = listen(at, request);
      opened.push(page);
      return page;
    };
    const pubs = ({ came }, channel) => came.filter((push) => push.pub && push.channel === channel).map(({ pub }) => pub.data);

    test("the first push names the connection and its subscriptions; publications follow", async () => {
      const user = `first-${way}`;
      const channel = `chat:${way}`;
      const page = hear({ token: site.token(user), subs: { [channel]: {} } });
      const first = await eventually("the first push", () => page.came[0]);
      assert.match(first.connect.client, /^[0-9a-f-]{36}$/);
      assert.equal(first.connect.pong, undefined);
      assert.deepEqual(Object.keys(first.connect.subs).sort(), [channel, `orders:#${user}`].sort());
      await site.publish(channel, { line: "one\ntwo" });
      await site.publish(`orders:#${user}`, 1);
      await eventually("both", () => pubs(page, channel).length === 1 && pubs(page, `orders:#${user}`).length === 1);
      assert.deepEqual(pubs(page, channel), [{ line: "one\ntwo" }]);
      page.close();
    });

    test("what was missed comes with the first push of the next connection", async () => {
      const user = `missed-${way}`;
      const channel = `orders:#${user}`;
      const { epoch } = await site.publish(channel, 1);
      await site.publish(channel, 2);
      const page = hear({ token: site.token(user), subs: { [channel]: { recover: true, offset: 1, epoch } } });
      const { connect } = await eventually("the first push", () => page.came[0]);
      assert.equal(connect.subs[channel].recovered, true);
      assert.deepEqual(connect.subs[channel].publications.map(({ data }) => data), [2]);
      page.close();
    });

    test("a channel that one may not have is left out, and the others are there", async () => {
      const user = `refused-${way}`;
      const page = hear({ token: site.token(user), subs: { "orders:#7": {}, "closed:room": {}, "chat:hall": {} } });
      const { connect } = await eventually("the first push", () => page.came[0]);
      assert.deepEqual(Object.keys(connect.subs).sort(), ["chat:hall", `orders:#${user}`]);
      page.close();
    });

    test("an invalid token is told: 3500; one that has expired: 3005", async () => {
      for (const [token, code] of [["no.to.ken", 3500], [site.token("42", { exp: seconds() - 1 }), 3005]]) {
        const page = hear({ token });
        const { disconnect } = await eventually("the disconnect", () => page.came.find((push) => push.disconnect));
        assert.equal(disconnect.code, code);
        page.close();
      }
    });

    test("when the bridge ends it says so: 3001", async () => {
      const page = hear({ token: site.token(`end-${way}`) }, closing);
      await eventually("the first push", () => page.came[0]?.connect);
      await site.end(2);
      await site.again(2);
      const { disconnect } = await eventually("the disconnect", () => page.came.find((push) => push.disconnect));
      assert.deepEqual(disconnect, { code: 3001, reason: "shutdown" });
      if (way === "uni_websocket") await eventually("the close frame", () => page.closed?.code === 3001);
      if (way === "uni_http_stream") await eventually("the end", () => page.ended);
      page.close();
    });

    test("where it is not configured there is nothing", async () => {
      const response = await fetch(`${site.bridges[1].http}/connection/${way}`);
      assert.equal(response.status, 404);
    });

    test("pages of other origins are refused, and so is what is no request", async () => {
      const upgrade = way === "uni_websocket" && { upgrade: "websocket", connection: "upgrade" };
      if (upgrade) return; // fetch sends no upgrade; the next test does it
      const method = way === "uni_http_stream" ? "POST" : "GET";
      const body = method === "POST" ? "{}" : undefined;
      const address = `${http}/connection/${way}`;
      assert.equal((await fetch(address, { method, body, headers: { origin: "https://evil.example" } })).status, 403);
      const bad = method === "POST" ? fetch(address, { method, body: "{" }) : fetch(`${address}?cf_connect=%7B`);
      assert.equal((await bad).status, 400);
    });
  });
}

test("uni_websocket takes its request as the first message, too, and refuses other origins", async () => {
  const address = `${http.replace("http", "ws")}/connection/uni_websocket`;
  const socket = new WebSocket(address);
  opened.push(socket);
  const came = [];
  socket.on("message", (data) => came.push(JSON.parse(String(data))));
  socket.on("open", () => socket.send(JSON.stringify({ token: site.token("42") })));
  await eventually("the first push", () => came[0]?.connect);
  const evil = new WebSocket(address, { origin: "https://evil.example" });
  const refused = await new Promise((resolve) => evil.on("unexpected-response", (_, { statusCode }) => resolve(statusCode)).on("error", () => {}));
  assert.equal(refused, 403);
  socket.close();
});
