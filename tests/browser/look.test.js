// What the page is to eyes and hands: on a phone, in the dark, with nothing but a keyboard.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { faintTexts, overflow, smallTargets } from "./look.js";
import { launchBrowser, picture } from "./chromium.js";
import { notify, startDemo } from "./demo.js";
import { Shopper } from "./shopper.js";

const LONG_WORD = "Donaudampfschifffahrtsgesellschaftskapitänspatent".repeat(2);
const THEMES = ["light", "dark"];
const DESKTOP = { width: 1360, height: 900 };
const PHONE = { width: 390, height: 844 };
const SMALL_PHONE = { width: 320, height: 568 };

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

async function opened(user, options) {
  const shopper = await Shopper.open(browser, demo.facts.storefront, user, options);
  if (user === null) await shopper.page.locator(".user").first().waitFor();
  else await shopper.untilLoaded();
  return shopper;
}

/** With something in every panel, so that there is something to look at. */
async function filled(options) {
  const shopper = await opened("42", options);
  await shopper.untilSamples(12);
  await shopper.until(() => document.querySelectorAll("#notifications .row").length >= 3);
  return shopper;
}

for (const viewport of [PHONE, SMALL_PHONE]) {
  test(`a phone ${viewport.width} wide: nothing overflows, all is in order and large enough for a thumb`, async () => {
    const options = { viewport, hasTouch: true, isMobile: true };
    const asked = await opened(null, options);
    assert.deepEqual(await overflow(asked.page), [], "asking who shops");
    assert.deepEqual(await smallTargets(asked.page), []);
    if (viewport === PHONE) await picture(asked.page, "phone-sign-in");
    await asked.close();

    const shopper = await opened("42", options);
    await notify(demo.facts, "42", LONG_WORD);
    await shopper.untilNotified(LONG_WORD);
    assert.deepEqual(await overflow(shopper.page), [], "the shop, with a word longer than the screen");
    assert.deepEqual(await smallTargets(shopper.page), []);
    if (viewport === SMALL_PHONE) await picture(shopper.page, "small-phone");
    const boxes = await Promise.all(
      [".top", ".wallet", ".pulse", ".orders", ".notifications", ".product"].map((part) => shopper.page.locator(part).boundingBox()),
    );
    const tops = boxes.map((box) => box?.y);
    assert.deepEqual(tops, tops.toSorted((a, b) => a - b), "from top to bottom as they stand in the document");
    assert.ok(boxes.every((box) => box !== null && box.height > 40), "every panel is seen");
    for (const shown of ["#phase", "#user-name", "#switch-user", "#balance", "#price", "#strip"]) {
      assert.ok(await shopper.page.locator(shown).isVisible(), `${shown} is seen`);
    }
    assert.ok((await shopper.page.locator("#balance").boundingBox()).y < viewport.height, "the balance needs no scrolling");
    await shopper.close();
  });
}

test("in the light and in the dark every text has the contrast of WCAG AA", async () => {
  const grounds = [];
  for (const colorScheme of THEMES) {
    const asked = await opened(null, { colorScheme });
    assert.deepEqual(await faintTexts(asked.page), [], `asking who shops, ${colorScheme}`);
    await picture(asked.page, `sign-in-${colorScheme}`);
    await asked.close();

    const shopper = await filled({ colorScheme, viewport: DESKTOP });
    assert.deepEqual(await faintTexts(shopper.page), [], `the shop, ${colorScheme}`);
    grounds.push(await shopper.page.evaluate(() => getComputedStyle(document.body).backgroundColor));
    if (colorScheme === "dark") await picture(shopper.page, "desktop-dark");
    await shopper.page.setViewportSize(PHONE);
    await picture(shopper.page, `phone-${colorScheme}`);
    await shopper.close();
  }
  assert.notEqual(grounds[0], grounds[1], "the dark is another theme");
});

test("the measure of contrast finds a text that is too faint", async () => {
  const shopper = await opened("42");
  await shopper.page.locator("#wallet-title").evaluate((title) => (title.style.color = "#999"));
  const found = await faintTexts(shopper.page);
  assert.ok(found.length === 1 && /Wallet/.test(found[0]), `it found ${JSON.stringify(found)}`);
  await shopper.close();
});

test("with the keyboard alone one skips, signs in, and switches to another user", async () => {
  const shopper = await opened(null);
  const { page } = shopper;
  assert.equal(await shopper.press("Tab"), "skip", "the first stop skips the head");
  assert.ok((await page.locator("#skip").boundingBox()).y >= 0, "and is seen when it has the keyboard");
  assert.equal(await shopper.press("Enter"), "sign-in-title");
  assert.equal(await shopper.press("Tab"), "42");
  assert.ok(await ringed(page), "the focus is seen");
  assert.equal(await shopper.press("Tab"), "4");
  assert.equal(await shopper.press("Shift+Tab"), "42");

  await page.keyboard.press("Enter");
  await shopper.untilLoaded();
  assert.equal(await shopper.focused(), "shop-title", "the keyboard goes on at the top of the shop");
  assert.match(await page.title(), /Awa Diop/);
  assert.equal(await shopper.press("Shift+Tab"), "switch-user");
  assert.ok(await ringed(page), "the focus is seen");
  assert.equal(await shopper.press("Shift+Tab"), "skip");
  await page.keyboard.press("Enter");
  assert.equal(await shopper.focused(), "shop-title");
  assert.match(page.url(), /#user=42$/, "skipping signs nobody out");

  await page.keyboard.press("Shift+Tab");
  await page.keyboard.press("Enter");
  await page.locator(".user").first().waitFor();
  assert.equal(await shopper.focused(), "sign-in-title");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await shopper.untilLoaded();
  assert.equal(await shopper.told("#shop", "user"), "4");
  assert.deepEqual(shopper.errors, []);
  await shopper.close();
});

/** Whether what has the keyboard is marked, by an outline or, as the skip link, by appearing. */
async function ringed(page) {
  return page.evaluate(() => {
    const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
    return outlineStyle !== "none" && parseFloat(outlineWidth) >= 2;
  });
}

test("who asked for less motion sees none, and who did not sees it", async () => {
  for (const [reducedMotion, moves] of [["reduce", false], ["no-preference", true]]) {
    const shopper = await opened("42", { reducedMotion });
    await shopper.page.evaluate(() => {
      const played = Element.prototype.animate;
      Element.prototype.animate = function (...how) {
        document.documentElement.dataset.moved = "true";
        return played.apply(this, how);
      };
    });
    await shopper.untilOrdersMove();
    assert.equal((await shopper.told("html", "moved")) === "true", moves, reducedMotion);
    const fading = await shopper.page.locator(".panel").first().evaluate((panel) => getComputedStyle(panel).transitionDuration);
    assert.equal(fading !== "0s", moves, `transitions of ${fading} with ${reducedMotion}`);
    await shopper.close();
  }
});
