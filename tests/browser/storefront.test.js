// The storefront as two users in two browser contexts: panels move, the right person only, and no silence when the
// connection is gone. Screenshots stay in screenshots/.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdir } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { after, before, test } from "node:test";
import { launchBrowser } from "./chromium.js";
import { startDemo } from "./demo.js";
import { Shopper } from "./shopper.js";

const screenshots = fileURLToPath(new URL("screenshots/", import.meta.url));
let demo;
let browser;
/** @type {Shopper} */
let awa;
/** @type {Shopper} */
let other;
/** Texts published to one user, which the other must never be sent. */
const secrets = new Map();

before(async () => {
  await mkdir(screenshots, { recursive: true });
  demo = await startDemo();
  browser = await launchBrowser();
  const { storefront } = demo.facts;
  const users = await (await fetch(new URL("/demo/users", storefront))).json();
  const second = users.find(({ id }) => id !== "42");
  assert.ok(second, "the demo has a user beside 42");
  awa = await Shopper.open(browser, storefront, "42");
  other = await Shopper.open(browser, storefront, second.id);
});

after(async () => {
  await browser?.close();
  await demo?.stop();
});

async function publish(user, text) {
  secrets.set(text, user);
  const response = await fetch(`${demo.facts.api.replace(/\/$/, "")}/api/publish`, {
    method: "POST",
    headers: { "content-type": "application/json", "X-API-Key": demo.facts.api_key },
    body: JSON.stringify({ channel: `notifications:#${user}`, data: { text } }),
  });
  const reply = await response.json();
  assert.equal(reply.error, undefined, JSON.stringify(reply.error));
  return text;
}

/** A picture of the whole page as it is once every highlight and fading has ended. */
async function picture(page, name) {
  await page.screenshot({ path: `${screenshots}${name}.png`, fullPage: true, animations: "disabled" });
}

/** So short that the pictures stay readable, and still no other text. */
function unique() {
  return randomUUID().slice(0, 8);
}

async function both(act) {
  await Promise.all([act(awa), act(other)]);
}

test("the sign-in page lists the users, and a click signs in", async () => {
  const context = await browser.newContext({ viewport: { width: 1360, height: 900 } });
  const page = await context.newPage();
  await page.goto(demo.facts.storefront);
  await page.locator('.user[data-user="42"]').waitFor();
  await picture(page, "sign-in");
  await page.locator('.user[data-user="42"]').click();
  await page.locator('#shop[data-user="42"][data-phase="live"]').waitFor();
  assert.match(page.url(), /#user=42$/);
  await context.close();
});

test("both pages become live and load their shop", async () => {
  await both(async (shopper) => {
    await shopper.untilPhase("live");
    await shopper.until(() => document.querySelector("#shop")?.dataset.loaded === "true");
    assert.equal(await shopper.told("#shop", "user"), shopper.user);
  });
});

test("orders move by themselves, and each user sees only their own", async () => {
  await both((shopper) => shopper.untilOrdersMove());
  const [mine, theirs] = await Promise.all([awa.orders(), other.orders()]);
  assert.ok(mine.length > 0 && theirs.length > 0);
  const ids = new Set(mine.map(({ id }) => id));
  assert.deepEqual(theirs.filter(({ id }) => ids.has(id)), [], "no order is on both pages");
});

test("the wallet moves by itself", async () => {
  await both(async (shopper) => {
    const balance = await shopper.told("#balance", "balanceCents");
    await shopper.untilTold("#balance", "balanceCents", balance);
  });
});

test("the product's price changes on the card, read through the cache", async () => {
  const price = await awa.told("#product", "priceCents");
  await awa.untilTold("#product", "priceCents", price);
  await awa.untilTold("#product", "freshMs", null);
  assert.match(await awa.page.locator("#source").innerText(), /^from (cache|database)$/);
});

test("the page measures how long the way from commit to screen takes", async () => {
  await both(async (shopper) => {
    await shopper.untilTold("#shop", "p50Ms", null);
    assert.match(await shopper.page.locator("#p50").innerText(), /^[\d,]+ m?s$/);
    assert.ok(Number(await shopper.told("#shop", "received")) > 0);
  });
});

test("what is published to one user appears for that user only", async () => {
  const mine = await publish("42", `A voucher for you: ${unique()}`);
  await awa.untilNotified(mine);
  // A later publication to the other user has arrived, so an earlier stray one would have too.
  const theirs = await publish(other.user, `Your size is back: ${unique()}`);
  await other.untilNotified(theirs);
  assert.equal(other.wasSent(mine), false);
  assert.equal(awa.wasSent(theirs), false);
});

test("screenshots: light, dark, phone", async () => {
  const { page } = awa;
  await awa.until(() => document.querySelectorAll("#notifications .row").length >= 3);
  await picture(page, "desktop-light");
  await page.emulateMedia({ colorScheme: "dark" });
  await picture(page, "desktop-dark");
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize({ width: 390, height: 844 });
  await picture(page, "phone");
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(overflow <= 0, `the page is ${overflow} pixels wider than a phone`);
  await page.setViewportSize({ width: 1360, height: 900 });
});

test("when the bridge dies the page says so, and tells afterwards whether anything was missed", async (t) => {
  // The demo started this process and named it; it also starts the next one.
  process.kill(demo.facts.bridge_pid, "SIGKILL");
  await both((shopper) => shopper.untilPhase("lost"));
  const text = await publish("42", `Said while you were away: ${unique()}`);
  await awa.until(() => /Reconnecting/.test(document.querySelector("#notice-count")?.textContent ?? ""));
  assert.match(await awa.page.locator("#notice").innerText(), /Connection lost/);
  await picture(awa.page, "disconnected");

  await both((shopper) => shopper.untilPhase("live"));
  const continuity = await awa.untilTold("#shop", "continuity", null);
  t.diagnostic(`continuity: ${continuity}`);
  if (continuity === "recovered") await awa.untilSent(text);
  else assert.match(await awa.page.locator("#notice").innerText(), /may have been missed/);
  await picture(awa.page, "connected-again");
  await both((shopper) => shopper.untilOrdersMove());
});

test("text in data stays text", async () => {
  const text = await publish("42", `<img src=x onerror="document.title='broken'"> ${unique()}`);
  await awa.untilNotified(text);
  assert.equal(await awa.page.locator("#notifications img").count(), 0);
});

test("to the end, nobody was sent anything of another user", async () => {
  await both(async (shopper) => {
    assert.deepEqual(await shopper.owners(), [shopper.user]);
    const channels = shopper.personalChannels();
    assert.ok(channels.length > 0, "personal channels were seen at all");
    assert.deepEqual(channels.filter((channel) => !channel.endsWith(`:#${shopper.user}`)), []);
    for (const [text, user] of secrets) {
      if (user !== shopper.user) assert.equal(shopper.wasSent(text), false, `${shopper.user} was sent: ${text}`);
    }
    assert.deepEqual(shopper.errors, []);
  });
});
