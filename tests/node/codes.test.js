// Every code that the README's table says is sent, and what the official client does about it: comes back by itself, or
// stays away until the page asks.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { EVERY_WAY, Site, seconds } from "./site.js";
import { Bare, WAYS, client, closeAll, connect, eventually, next, refused, subscribe } from "./ways.js";

/** Narrow where it does no harm to the others. */
const NARROW = "max_connections_per_user = 2\nmax_channels = 3\nstale_seconds = 1\nping_seconds = 2\npong_timeout_seconds = 1\n";
const FEW = "max_subscribes_per_second = 1\nmax_channels = 2\n";

let site, wide, narrow, few;

before(async () => {
  site = await Site.start({ bridges: [EVERY_WAY, EVERY_WAY + NARROW, EVERY_WAY + FEW] });
  [wide, narrow, few] = site.bridges.map(({ http }) => http);
});

after(async () => {
  closeAll();
  await site?.stop();
});

/** Waits for an end that is final; a client that would come back fails the test by its `connecting`. */
function finally_(one) {
  const again = next(one, "connecting").then(({ code, reason }) => assert.fail(`it comes back after ${code} ${reason}`));
  again.catch(() => {});
  return Promise.race([next(one, "disconnected"), again]);
}

for (const way of WAYS) {
  describe(`${way.name}: ends of the connection`, () => {
    let one;

    const signed = (door, claims, user = "42") => client(way, door, { token: site.token(user, claims) });

    test("3001 shutdown: comes back", async () => {
      const door = { http: few };
      one = signed(door);
      await connect(one);
      const ended = next(one, "connecting");
      const back = next(one, "connected");
      door.http = wide;
      await site.end(2);
      assert.deepEqual(pick(await ended), [3001, "shutdown"]);
      await back;
      await site.again(2);
    });

    test("3500 invalid token: stays away", async () => {
      one = client(way, wide, { token: "not.a.token" });
      const ended = next(one, "disconnected");
      one.connect();
      assert.deepEqual(pick(await ended), [3500, "invalid token"]);
    });

    test("3501 bad request, for a page without a token: stays away", async () => {
      one = client(way, wide);
      const ended = next(one, "disconnected");
      one.connect();
      assert.deepEqual(pick(await ended), [3501, "bad request"]);
    });

    test("3503 force disconnect, by the API: stays away, and others of the user may be kept", async () => {
      const user = `force-${way.name}`.replaceAll(" ", "-");
      [one] = [signed(wide, {}, user)];
      const kept = signed(wide, {}, user);
      await connect(one);
      const { client: id } = await connect(kept);
      const ended = finally_(one);
      await site.api("disconnect", { user, whitelist: [id] });
      assert.deepEqual(pick(await ended), [3503, "force disconnect"]);
      const last = next(kept, "disconnected");
      await site.api("disconnect", { user, disconnect: { code: 4600, reason: "come another day" } });
      assert.deepEqual(pick(await last), [4600, "come another day"]);
    });

    test("4200, by the API: comes back", async () => {
      const user = `again-${way.name}`.replaceAll(" ", "-");
      one = signed(wide, {}, user);
      await connect(one);
      const ended = next(one, "connecting");
      const back = next(one, "connected");
      await site.api("disconnect", { user, disconnect: { code: 4200, reason: "another bridge, please" } });
      assert.deepEqual(pick(await ended), [4200, "another bridge, please"]);
      await back;
    });

    test("3504 connection limit: stays away", async () => {
      const user = `many-${way.name}`.replaceAll(" ", "-");
      const others = [signed(narrow, {}, user), signed(narrow, {}, user)];
      for (const other of others) await connect(other);
      one = signed(narrow, {}, user);
      const ended = next(one, "disconnected");
      one.connect();
      assert.deepEqual(pick(await ended), [3504, "connection limit"]);
      others.forEach((other) => other.disconnect());
    });

    test("3505 channel limit, for a token with too many channels: stays away", async () => {
      one = signed(narrow, { channels: ["chat:1", "chat:2", "chat:3", "chat:4"] }, "wide");
      const ended = next(one, "disconnected");
      one.connect();
      assert.deepEqual(pick(await ended), [3505, "channel limit"]);
    });

    test("3508 not available, for send: stays away", async () => {
      one = signed(wide);
      await connect(one);
      const ended = next(one, "disconnected");
      one.send(way.encode({})).catch(() => {});
      assert.deepEqual(pick(await ended), [3508, "not available"]);
    });
  });

  describe(`${way.name}: ends of a subscription, and errors`, () => {
    const slug = way.name.replaceAll(" ", "-");
    const opened = async (door = wide, user = "42") => {
      const one = client(way, door, { token: site.token(user) });
      await connect(one);
      return one;
    };
    /** The code with which a subscription ends that never was. */
    const fails = async (one, channel, options) => {
      const subscription = one.newSubscription(channel, options);
      const ended = next(subscription, "unsubscribed");
      subscription.subscribe();
      return (await ended).code;
    };

    test("2000 server unsubscribe, by the API: ends it for good", async () => {
      const [one, channel] = [await opened(wide, `unsub-${slug}`), `chat:unsubscribed-${slug}`];
      const subscription = await subscribe(one, channel);
      const ended = next(subscription, "unsubscribed");
      await site.api("unsubscribe", { channel, user: `unsub-${slug}` });
      assert.deepEqual(pick(await ended), [2000, "server unsubscribe"]);
      assert.equal(subscription.state, "unsubscribed");
    });

    test("a server-side subscription comes and goes by the API", async () => {
      const [one, channel] = [await opened(wide, `given-${slug}`), `closed:given-${slug}`];
      const there = next(one, "subscribed", (context) => context.channel === channel);
      await site.api("subscribe", { channel, user: `given-${slug}`, data: { colour: "blue" } });
      assert.deepEqual(way.decode((await there).data), { colour: "blue" });
      const heard = next(one, "publication", (context) => context.channel === channel);
      await site.publish(channel, 1);
      assert.equal(way.decode((await heard).data), 1);
      const gone = next(one, "unsubscribed", (context) => context.channel === channel);
      await site.api("unsubscribe", { channel, user: `given-${slug}` });
      await gone;
    });

    test("102 unknown channel, 103 permission denied, 107 bad request: end the subscription for good", async () => {
      const one = await opened();
      assert.equal(await fails(one, "elsewhere"), 102);
      assert.equal(await fails(one, "closed:room"), 103);
      assert.equal(await fails(one, "chat:é"), 107);
    });

    test("106 limit exceeded: one channel too many", async () => {
      const one = await opened(narrow, `channels-${slug}`);
      // The personal channel is one of three.
      await subscribe(one, "chat:1");
      await subscribe(one, "chat:2");
      assert.equal(await fails(one, "chat:3"), 106);
      one.disconnect();
    });

    test("107 bad request: history backwards from before the beginning; 108 not available: no history, no presence, no rpc", async () => {
      const one = await opened();
      await subscribe(one, `chat:codes-${slug}`);
      const since = { offset: 0, epoch: "" };
      assert.equal(await refused(one.history(`chat:codes-${slug}`, { limit: 1, reverse: true, since })), 107);
      await subscribe(one, "plain:room");
      assert.equal(await refused(one.history("plain:room", { limit: 1 })), 108);
      assert.equal(await refused(one.presence("plain:room")), 108);
      assert.equal(await refused(one.rpc("any", way.encode({}))), 108);
    });

    test("109 token expired: asks for another and tries again", async () => {
      const one = await opened();
      const channel = `closed:109-${slug}`;
      let asked = 0;
      const getToken = async () => {
        asked += 1;
        return site.ticket("42", channel, asked === 1 ? { exp: seconds() - 1 } : {});
      };
      await subscribe(one, channel, { getToken });
      assert.equal(asked, 2);
    });

    test("111 too many requests: tries again by itself until it is let in", async () => {
      const one = await opened(few, `busy-${slug}`);
      const subscription = one.newSubscription("chat:busy", { minResubscribeDelay: 20, maxResubscribeDelay: 200 });
      let told = 0;
      subscription.on("error", ({ error }) => (told += error.code === 111 ? 1 : 0));
      await eventually("a subscribe too many", async () => {
        const there = next(subscription, "subscribed");
        subscription.subscribe();
        await there;
        subscription.unsubscribe();
        return told > 0;
      });
      one.disconnect();
    });
  });
}

describe("what no official client does", () => {
  const connectCommand = (user = "42", claims) => ({ id: 1, connect: { token: site.token(user, claims) } });
  const closes = async (http, ...messages) => {
    const bare = await Bare.open(http);
    for (const message of messages) bare.send(...message);
    return bare.end();
  };

  test("3501 bad request: a command before connect, a second connect, an unknown one, an empty line, no JSON", async () => {
    const bad = { code: 3501, reason: "bad request" };
    assert.deepEqual(await closes(wide, [{ id: 1, subscribe: { channel: "chat:a" } }]), bad);
    assert.deepEqual(await closes(wide, [connectCommand(), { ...connectCommand(), id: 2 }]), bad);
    assert.deepEqual(await closes(wide, [connectCommand(), { id: 2, dance: {} }]), bad);
    assert.deepEqual(await closes(wide, [connectCommand(), { id: 2, subscribe: { channel: "" } }]), bad);
    assert.deepEqual(await closes(wide, ["not JSON"]), bad);
    assert.deepEqual(await closes(wide, [connectCommand(), "", { id: 2, rpc: {} }]), bad);
  });

  test("3502 stale: nothing is said in time; 3012 no pong: a ping is not answered", async () => {
    assert.deepEqual(await closes(narrow), { code: 3502, reason: "stale" });
    assert.deepEqual(await closes(narrow, [connectCommand("silent")]), { code: 3012, reason: "no pong" });
  });

  test("1009: a message over the limit", async () => {
    assert.equal((await closes(wide, ["x".repeat(70_000)])).code, 1009);
  });

  test("105 already subscribed, also while the first is under way; 109 for an expired token; 3501 for a refresh without one", async () => {
    const bare = await Bare.open(wide);
    const first = { id: 2, subscribe: { channel: "chat:105" } };
    await bare.ask(connectCommand(), first, { id: 3, subscribe: { channel: "chat:105" } });
    const second = await bare.ask({ id: 4, subscribe: { channel: "chat:105" } });
    assert.equal(bare.said.find(({ id }) => id === 3).error.code, 105);
    assert.deepEqual(second.error, { code: 105, message: "already subscribed" });
    assert.equal((await bare.ask({ id: 5, sub_refresh: { channel: "chat:none", token: "t" } })).error.code, 103);
    bare.send({ id: 6, refresh: { token: "" } });
    assert.equal((await bare.end()).code, 3501);
    const late = await Bare.open(wide);
    const { error } = await late.ask(connectCommand("42", { exp: seconds() - 1 }));
    assert.deepEqual(error, { code: 109, message: "token expired" });
    late.socket.close();
  });

  test("3005 connection expired: a refresh with a token that has expired; 3500: with somebody else's", async () => {
    const expired = { id: 2, refresh: { token: site.token("42", { exp: seconds() - 1 }) } };
    assert.deepEqual(await closes(wide, [connectCommand(), expired]), { code: 3005, reason: "connection expired" });
    const others = { id: 2, refresh: { token: site.token("7") } };
    assert.deepEqual(await closes(wide, [connectCommand(), others]), { code: 3500, reason: "invalid token" });
  });
});

const pick = ({ code, reason }) => [code, reason];
