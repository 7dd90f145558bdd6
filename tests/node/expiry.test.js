// What happens when nobody renews a token: the bridge waits 25 seconds for it, as the reference does, and then tells the
// client, which comes back. By every way at once, because it takes its time.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { within } from "../browser/demo.js";
import { Site, seconds } from "./site.js";
import { WAYS, client, closeAll, connect, next, subscribe } from "./ways.js";

/** The 25 seconds, the time until somebody looks, and as much again. */
const EXPIRY_MS = 120_000;

let site, http;

before(async () => {
  site = await Site.start();
  http = site.bridges[0].http;
});

after(async () => {
  closeAll();
  await site?.stop();
});

/** Tokens for which one waits in vain once; the next is as it should be. */
function slowTokens(make) {
  let asked = 0;
  return () => {
    asked += 1;
    return asked === 1 ? new Promise(() => {}) : Promise.resolve(make());
  };
}

function code(emitter, event, suits = () => true) {
  return within(EXPIRY_MS, `"${event}"`, new Promise((resolve) => emitter.on(event, (context) => suits(context) && resolve(context.code))));
}

async function connection(way) {
  const token = site.token("42", { exp: seconds() + 6 });
  const one = client(way, http, { token, getToken: slowTokens(() => site.token("42")) });
  await connect(one);
  assert.equal(await code(one, "connecting"), 3005, way.name);
  await next(one, "connected");
}

async function subscription(way) {
  const channel = `closed:expiry-${way.name.replaceAll(" ", "-")}`;
  const one = client(way, http, { token: site.token("42") });
  await connect(one);
  const token = site.ticket("42", channel, { exp: seconds() + 6 });
  const own = await subscribe(one, channel, { token, getToken: slowTokens(() => site.ticket("42", channel)) });
  assert.equal(await code(own, "subscribing"), 2501, way.name);
  await next(own, "subscribed");
}

async function serverSide(way) {
  const [user, channel] = [`expiry-${way.name.replaceAll(" ", "-")}`, "closed:given"];
  const one = client(way, http, { token: site.token(user) });
  await connect(one);
  const there = next(one, "subscribed", (context) => context.channel === channel);
  await site.api("subscribe", { user, channel, expire_at: seconds() + 2 });
  await there;
  assert.equal(await code(one, "connecting"), 3006, way.name);
  await next(one, "connected");
}

test("3005 connection expired, 2501 and 3006 subscription expired: the client comes back", async () => {
  const all = await Promise.allSettled(WAYS.flatMap((way) => [connection(way), subscription(way), serverSide(way)]));
  assert.deepEqual(all.filter(({ reason }) => reason).map(({ reason }) => reason.message), []);
});
