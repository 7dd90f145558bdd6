// What the page says of its connection, and of what a time away has cost. The bridge's answers come through `Way`.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Way } from "./bridge.js";
import { launchBrowser, picture } from "./chromium.js";
import { startDemo } from "./demo.js";
import { faintTexts, overflow } from "./look.js";
import { Shopper } from "./shopper.js";

const PHONE = { width: 390, height: 844 };
const MINE = "notifications:#42";

let demo;
let browser;

before(async () => {
  demo = await startDemo();
  browser = await launchBrowser();
});

after(async () => {
  await browser?.close();
  await demo?.stop();
});

async function opened() {
  const way = new Way();
  const shopper = await Shopper.open(browser, demo.facts.storefront, "42", {}, way.prepare);
  await shopper.untilLoaded();
  return { way, shopper, page: shopper.page };
}

const LONG_AGO_MS = 60_000;
const MISSED = ["Your parcel has left Tema harbour", "Your parcel is around the corner", "Your parcel is at your door"];

/** Said long ago: if the page took it for a sample, its figures would show it. */
function told(text) {
  return { data: { text, path: "http", at_us: (Date.now() - LONG_AGO_MS) * 1000 }, tags: { id: `missed: ${text}` } };
}

async function untilNotice(shopper, pattern) {
  await shopper.until((source) => new RegExp(source).test(document.querySelector("#notice")?.innerText ?? ""), pattern.source);
}

async function notice(page) {
  return page.locator("#notice").innerText();
}

test("live: the page says so in one word, and has no notice", async () => {
  const { shopper, page } = await opened();
  assert.equal(await page.locator("#phase").innerText(), "Live");
  assert.equal((await notice(page)).trim(), "");
  await shopper.close();
});

test("lost: the page says since when, counts its tries, and tries at once when asked to", async () => {
  const { way, shopper, page } = await opened();
  await shopper.untilSamples(10);
  way.cut();
  await shopper.untilPhase("lost");
  assert.equal(await page.locator("#phase").innerText(), "Lost");
  await way.untilRefused(2);
  await untilNotice(shopper, /Try [3-9] within \d+ s/);
  assert.match(await notice(page), /Connection lost\.\s+You see the shop as it was at \d\d:\d\d:\d\d\./);
  assert.deepEqual(await faintTexts(page), [], "what may be old is still easy to read");
  await picture(page, "lost");
  await page.emulateMedia({ colorScheme: "dark" });
  assert.deepEqual(await faintTexts(page), []);
  await page.setViewportSize(PHONE);
  assert.deepEqual(await overflow(page), []);
  await picture(page, "phone-dark-lost");

  way.mend();
  await page.locator("#notice-action").focus();
  await page.keyboard.press("Enter");
  await shopper.untilPhase("live");
  assert.equal(await shopper.focused(), "shop-title", "the button went, and the keyboard has a place");
  await shopper.close();
});

test("recovered: the page shows what was missed and says how much it was", async () => {
  const { way, shopper, page } = await opened();
  await shopper.untilSamples(5);
  way.answers((channel) => (channel === MINE ? MISSED.map(told) : []));
  way.cut();
  await shopper.untilPhase("lost");
  way.mend();
  await untilNotice(shopper, /Back after \d+ s: 3 missed updates caught up\./);
  // The first three, or the three after what has come since.
  const said = await page.locator("#notifications .said").allInnerTexts();
  const first = said.indexOf(MISSED[2]);
  assert.deepEqual(said.slice(first, first + 3), MISSED.toReversed(), "each once, the newest first");
  assert.equal(await shopper.told("#shop", "recovery"), "recovered");
  assert.deepEqual(await faintTexts(page), []);
  // The gap stands before the first sample since.
  await shopper.until(() => document.querySelector("#strip .gap ~ .thread ~ .thread ~ .thread") !== null);
  const longest = Number(await shopper.told("#pulse", "p99Ms"));
  assert.ok(longest < LONG_AGO_MS, `what waited for the connection is no sample of delivery, but the longest is ${longest} ms`);
  assert.equal(await page.locator("#strip .gap").count(), 1, "the strip shows where the connection was away");
  await picture(page, "recovered");
  await page.setViewportSize(PHONE);
  await page.emulateMedia({ colorScheme: "dark" });
  await picture(page, "phone-dark-recovered");
  await shopper.close();
});

test("recovered with nothing missed: the page says that, too", async () => {
  const { way, shopper } = await opened();
  way.answers(() => []);
  way.end(3010, "insufficient state");
  await untilNotice(shopper, /Back after \d+ s: nothing was missed\./);
  await shopper.close();
});

test("not recovered: the page reads the shop again before it says so, and names what may be missing", async () => {
  const { way, shopper, page } = await opened();
  let release;
  const held = new Promise((resolve) => (release = resolve));
  let asked = 0;
  await page.route(/\/demo\/snapshot/, async (route) => {
    asked += 1;
    await held;
    await route.continue();
  });
  way.answers((channel) => (channel.startsWith("wallet") ? [] : null));
  way.cut();
  await shopper.untilPhase("lost");
  way.mend();
  await untilNotice(shopper, /Back after \d+ s\.\s+Some updates could not be caught up; reloading/);
  assert.equal(await shopper.told("#shop", "recovery"), "reloading");
  release();
  await untilNotice(shopper, /Back after \d+ s: reloaded from the shop\./);
  assert.ok(asked > 0, "the snapshot was asked for");
  assert.match(await notice(page), /Some updates of .*notifications.* could not be caught up/);
  assert.match(await notice(page), /Notifications sent meanwhile may be missing/);
  assert.doesNotMatch(await notice(page), /wallet-updates/);
  assert.deepEqual(await faintTexts(page), []);
  await picture(page, "reloaded");
  await shopper.close();
});

test("a gap on the one channel that the page subscribed to itself is closed without a word of a lost connection", async () => {
  const { way, shopper, page } = await opened();
  const asked = page.waitForRequest(/\/demo\/product\//);
  way.answers(() => null);
  way.loses("products");
  await untilNotice(shopper, /A gap on one channel: reloaded from the shop\.\s+Some updates of products/);
  await asked;
  assert.equal(await shopper.told("#shop", "phase"), "live");

  way.answers(() => [{ data: { id: 1, price_cents: 1 }, tags: { id: "missed-price" } }]);
  way.loses("products");
  await untilNotice(shopper, /A gap on one channel: 1 missed update caught up\./);
  await shopper.close();
});

test("stopped: the page says why and does not try again, until one signs in again", async () => {
  const { way, shopper, page } = await opened();
  way.end(3500, "invalid token");
  await shopper.untilPhase("stopped");
  assert.equal(await page.locator("#phase").innerText(), "Stopped");
  assert.match(await notice(page), /ended this session: invalid token\./);
  assert.deepEqual(await faintTexts(page), []);
  await picture(page, "stopped");
  await page.locator("#notice-action").focus();
  await page.keyboard.press("Enter");
  await shopper.untilLoaded();
  assert.equal(await shopper.focused(), "shop-title");
  await shopper.close();
});

test("while the sign-in is under way the page says that it connects", async () => {
  let release;
  const held = new Promise((resolve) => (release = resolve));
  const shopper = await Shopper.open(browser, demo.facts.storefront, "42", {}, async (page) => {
    await page.route(/\/demo\/sign-in/, async (route) => {
      await held;
      await route.continue();
    });
  });
  await shopper.untilPhase("connecting");
  assert.equal(await shopper.page.locator("#phase").innerText(), "Connecting");
  release();
  await shopper.untilPhase("live");
  await shopper.close();
});

test("a page that never connected does not claim to have seen the shop live", async () => {
  const way = new Way();
  way.cut();
  const shopper = await Shopper.open(browser, demo.facts.storefront, "42", {}, way.prepare);
  await shopper.untilPhase("lost");
  await untilNotice(shopper, /The shop does not answer\.\s+It did not connect yet\./);
  way.mend();
  await shopper.untilPhase("live");
  assert.equal(await shopper.told("#shop", "recovery"), null, "there was nothing to recover");
  await shopper.close();
});
