// The way between one page and the bridge, in the test's hands: it is cut when the test says so, and what was missed is
// handed over as the test says, by the words of the protocol. So the page is tested against every answer that a bridge
// may give, whichever this bridge gives today.

import { EventEmitter, once } from "node:events";
import { PATIENCE_MS, within } from "./demo.js";

export class Way {
  /** @type {import("playwright-core").WebSocketRoute | null} */
  #page = null;
  /** @type {import("playwright-core").WebSocketRoute | null} */
  #server = null;
  #events = new EventEmitter();
  #open = true;
  #refused = 0;
  /** What is said of a channel that is subscribed again; null leaves the bridge's own answer. */
  #answer = null;
  /** Replies to subscribe commands of these channels come from here, not from the bridge. */
  #own = new Set();

  /** To be given to `Shopper.open`. */
  prepare = async (page) => {
    await page.routeWebSocket(/\/connection\/websocket/, (socket) => this.#opened(socket));
  };

  #opened(socket) {
    if (!this.#open) {
      this.#refused += 1;
      this.#events.emit("refused");
      return socket.close({ code: 1001, reason: "not open" });
    }
    const server = socket.connectToServer();
    [this.#page, this.#server] = [socket, server];
    socket.onMessage((text) => {
      for (const command of lines(text)) {
        if (command.subscribe && this.#own.has(command.subscribe.channel)) {
          const subscribe = this.#said(command.subscribe.channel, { recoverable: true, positioned: true, epoch: "own", offset: 0 });
          socket.send(JSON.stringify({ id: command.id, subscribe }));
        } else {
          server.send(JSON.stringify(command));
        }
      }
    });
    server.onMessage((text) => socket.send(lines(text).map((reply) => JSON.stringify(this.#replied(reply))).join("\n")));
  }

  #replied(reply) {
    if (this.#answer === null) return reply;
    if (reply.connect?.subs) {
      for (const [channel, result] of Object.entries(reply.connect.subs)) reply.connect.subs[channel] = this.#said(channel, result);
    }
    if (reply.subscribe) reply.subscribe = this.#said("products", reply.subscribe);
    return reply;
  }

  #said(channel, { recovered: _, was_recovering: __, publications: ___, ...result }) {
    const missed = this.#answer?.(channel) ?? null;
    if (missed === null) return { ...result, was_recovering: true };
    return { ...result, was_recovering: true, recovered: true, publications: missed.map((publication) => ({ ...publication, offset: 0 })) };
  }

  /** From the next subscribe on: `answer(channel)` gives what was missed, or null for "cannot be recovered". */
  answers(answer) {
    this.#answer = answer;
  }

  /** The connection ends, and no other can be made. */
  cut() {
    this.#open = false;
    this.end(1006);
  }

  /** The bridge ends the connection with a code of the protocol. */
  end(code, reason = "") {
    this.#server?.close();
    this.#page?.close(code === 1006 ? {} : { code, reason });
  }

  mend() {
    this.#open = true;
  }

  /** The channel's client-side subscription has lost its place, as a bridge says it; the way answers what follows. */
  loses(channel) {
    this.#own.add(channel);
    this.#page?.send(JSON.stringify({ push: { channel, unsubscribe: { code: 2500, reason: "insufficient state" } } }));
  }

  /** Waits until the page has tried in vain `count` times since the beginning. */
  async untilRefused(count) {
    const refused = async () => {
      while (this.#refused < count) await once(this.#events, "refused");
    };
    await within(PATIENCE_MS, `${count} tries to connect`, refused());
  }
}

function lines(text) {
  return String(text).split("\n").filter((line) => line.trim() !== "").map((line) => JSON.parse(line));
}
