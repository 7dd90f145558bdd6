// Who is there, when connections end in ways that nobody announces.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { EVERY_WAY, Site } from "./site.js";
import { WAYS, client, closeAll, connect, eventually, next, subscribe } from "./ways.js";

let site, a, b;

before(async () => {
  site = await Site.start({ bridges: [EVERY_WAY, EVERY_WAY] });
  [a, b] = site.bridges.map(({ http }) => http);
});

after(async () => {
  closeAll();
  await site?.stop();
});

for (const way of WAYS) {
  test(`${way.name}: who is cut off is no longer there, and comes back as somebody new`, async () => {
    const [channel, door] = [`chat:cut-${way.name.replaceAll(" ", "-")}`, { http: a }];
    const watcher = client(WAYS[0], b, { token: site.token("7") });
    await connect(watcher);
    const seen = await subscribe(watcher, channel);
    const one = client(way, door, { token: site.token("42") });
    const { client: first } = await connect(one);
    await subscribe(one, channel);
    assert.ok((await seen.presence()).clients[first], "another bridge sees it");
    const left = next(seen, "leave", ({ info }) => info.client === first);
    const joined = next(seen, "join", ({ info }) => info.user === "42" && info.client !== first);
    door.cut();
    await left;
    await joined;
    await eventually("only the new one to be there", async () => {
      const { clients } = await seen.presence();
      return !clients[first] && Object.keys(clients).length === 2;
    });
  });
}

test("who was on a bridge that was killed is said to be there until it expires", async () => {
  const channel = "chat:killed";
  const watcher = client(WAYS[0], b, { token: site.token("7") });
  await connect(watcher);
  const seen = await subscribe(watcher, channel);
  const one = client(WAYS[0], a, { token: site.token("42") });
  const { client: first } = await connect(one);
  await subscribe(one, channel);
  await site.kill(0);
  // Nobody is left who could take it back: until it expires it is said to be there.
  assert.ok((await seen.presence()).clients[first]);
  await site.again(0);
});
