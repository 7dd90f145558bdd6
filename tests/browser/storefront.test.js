// The storefront as two users in two browser contexts: panels move, the right person only, and no silence when the
// connection is gone. Screenshots stay in screenshots/.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, before, test } from "node:test";
import { launchBrowser, picture } from "./chromium.js";
import { notify, startDemo } from "./demo.js";
import { Shopper } from "./shopper.js";

let demo;
let browser;
/** @type {Shopper} */
let awa;
/** @type {Shopper} */
let other;
/** Texts published to one user, which the other must never be sent. */
const secrets = new Map();

before(async () => {
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
  await notify(demo.facts, user, text);
  return text;
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
  await picture(page, "sign-in-light");
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

test("the page plots how long the way from publish to screen takes, for each path", async () => {
  await awa.until(() => {
    const paths = [...document.querySelectorAll("#paths .path")];
    return paths.length === 4 && paths.every(({ dataset }) => Number(dataset.samples) > 0);
  });
  const drawn = await awa.page.evaluate(() => ({
    samples: Number(document.querySelector("#pulse").dataset.samples),
    threads: [...document.querySelectorAll("#strip .thread")].map((thread) => thread.getBoundingClientRect().height),
    label: document.querySelector("#strip").getAttribute("aria-label"),
    figures: ["#p50", "#p99", "#last"].map((id) => document.querySelector(id).textContent),
    p50: Number(document.querySelector("#pulse").dataset.p50Ms),
    p99: Number(document.querySelector("#pulse").dataset.p99Ms),
  }));
  assert.ok(drawn.samples >= 4 && drawn.threads.length === drawn.samples, "one thread for each sample");
  assert.ok(drawn.threads.every((height) => height > 0), `every thread can be seen: ${drawn.threads}`);
  assert.match(drawn.label, new RegExp(`last ${drawn.samples} publications: median .+, longest .+`));
  for (const figure of drawn.figures) assert.match(figure, /^[\d,]+ m?s$/);
  assert.ok(drawn.p50 >= 0 && drawn.p50 <= drawn.p99, `${drawn.p50} ms is not above ${drawn.p99} ms`);
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

test("a picture of the desktop", async () => {
  await awa.until(() => document.querySelectorAll("#notifications .row").length >= 3);
  await picture(awa.page, "desktop-light");
});

test("when the bridge dies the page says so, and tells afterwards whether anything was missed", async (t) => {
  // The demo started this process and named it; it also starts the next one.
  process.kill(demo.facts.bridge_pid, "SIGKILL");
  await both((shopper) => shopper.untilPhase("lost"));
  const text = await publish("42", `Said while you were away: ${unique()}`);
  await awa.until(() => /^Try \d+ (within \d+ s|is under way)$/.test(document.querySelector("#notice-count")?.textContent ?? ""));
  assert.match(await awa.page.locator("#notice").innerText(), /Connection lost.+as it was at \d\d:\d\d:\d\d/);
  await picture(awa.page, "bridge-killed");

  await both((shopper) => shopper.untilPhase("live"));
  await awa.until(() => document.querySelector("#shop").dataset.recovery === "recovered");
  t.diagnostic(`the page says: ${await awa.page.locator("#notice-title").innerText()}`);
  await awa.untilSent(text);
  assert.match(await awa.page.locator("#notice").innerText(), /Back after \d+ s: \d+ missed updates? caught up/);
  await picture(awa.page, "bridge-back");
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
