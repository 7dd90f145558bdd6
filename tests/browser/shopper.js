// One signed-in user in a browser context of its own, with everything that reached it.

import { EventEmitter, once } from "node:events";
import { PATIENCE_MS, within } from "./demo.js";

export class Shopper {
  #frames = new EventEmitter();
  /** Everything that the server sent over the socket, one JSON document each. */
  replies = [];
  /** Errors that the page itself raised. */
  errors = [];

  /**
   * Without a user the page asks who is shopping. `prepare` is called with the page before it loads anything.
   * @param {import("playwright-core").Browser} browser
   * @param {import("playwright-core").BrowserContextOptions} [options]
   * @param {(page: import("playwright-core").Page) => Promise<void>} [prepare]
   */
  static async open(browser, storefront, user, options = {}, prepare = async () => {}) {
    const context = await browser.newContext({ viewport: { width: 1360, height: 900 }, colorScheme: "light", ...options });
    const shopper = new Shopper();
    shopper.user = user;
    shopper.page = await context.newPage();
    await prepare(shopper.page);
    shopper.page.setDefaultTimeout(PATIENCE_MS);
    shopper.page.on("pageerror", (error) => shopper.errors.push(error.message));
    shopper.page.on("websocket", (socket) =>
      socket.on("framereceived", ({ payload }) => {
        for (const line of String(payload).split("\n")) if (line.trim() !== "") shopper.replies.push(JSON.parse(line));
        shopper.#frames.emit("frame");
      }),
    );
    await shopper.page.goto(user === null ? storefront : `${storefront}#user=${encodeURIComponent(user)}`);
    return shopper;
  }

  async close() {
    await this.page.context().close();
  }

  async untilLoaded() {
    await this.page.locator('#shop[data-phase="live"][data-loaded="true"] #product[data-product]').waitFor();
  }

  async untilSamples(count) {
    await this.until((wanted) => Number(document.querySelector("#pulse")?.dataset.samples) >= wanted, count);
  }

  /** Presses a key and says which element has the keyboard now. */
  async press(key) {
    await this.page.keyboard.press(key);
    return this.focused();
  }

  async focused() {
    return this.page.evaluate(() => document.activeElement?.id || document.activeElement?.dataset.user || document.activeElement?.tagName);
  }

  /** Waits until `condition` holds in the page; what it returns is returned. */
  async until(condition, argument) {
    const handle = await this.page.waitForFunction(condition, argument, { polling: 50, timeout: PATIENCE_MS });
    return handle.jsonValue();
  }

  async untilPhase(phase) {
    await this.until((wanted) => document.querySelector("#shop")?.dataset.phase === wanted, phase);
  }

  async untilNotified(text) {
    await this.page.locator("#notifications .said").getByText(text, { exact: true }).waitFor();
  }

  /** What a selector's `data-` attribute says now. */
  async told(selector, name) {
    return this.page.locator(selector).evaluate((element, key) => element.dataset[key] ?? null, name);
  }

  /** Waits until it says something else than `before`. */
  async untilTold(selector, name, before) {
    return this.until(
      ([where, key, old]) => {
        const now = document.querySelector(where)?.dataset[key] ?? null;
        return now !== null && now !== old ? now : false;
      },
      [selector, name, before],
    );
  }

  async orders() {
    return this.page.locator("#orders .order").evaluateAll((rows) => rows.map(({ dataset }) => ({ id: dataset.order, status: dataset.status, owner: dataset.owner })));
  }

  async untilOrdersMove() {
    const before = await this.orders();
    await this.until((old) => {
      const rows = [...document.querySelectorAll("#orders .order")].map(({ dataset }) => ({ id: dataset.order, status: dataset.status, owner: dataset.owner }));
      return rows.length > 0 && JSON.stringify(rows) !== old;
    }, JSON.stringify(before));
  }

  /** Owners named by anything personal on the page. */
  async owners() {
    return this.page.locator("[data-owner]").evaluateAll((rows) => [...new Set(rows.map((row) => row.dataset.owner))]);
  }

  /** Every personal channel that the server named to this browser. */
  personalChannels() {
    const named = this.replies.flatMap((reply) => [reply.push?.channel ?? "", ...Object.keys(reply.connect?.subs ?? {})]);
    return [...new Set(named.filter((channel) => channel.includes(":#")))].sort();
  }

  /** Waits until a text has come over the socket; the page shows only the latest, so it may have left the list already. */
  async untilSent(text) {
    const sent = async () => {
      while (!this.wasSent(text)) await once(this.#frames, "frame");
    };
    await within(PATIENCE_MS, `"${text}" to come over the socket of user ${this.user}`, sent());
  }

  /** Whether a text came over the socket at all, drawn or not. */
  wasSent(text) {
    return JSON.stringify(this.replies).includes(text);
  }
}
