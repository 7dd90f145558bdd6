// A private Redis with a publisher and bridges, as target/debug/site starts them; and tokens as a backend would sign them.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHmac } from "node:crypto";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { PATIENCE_MS, binary, within } from "../browser/demo.js";

/** One of each kind of topic, so that a test finds what it needs. */
export const TOPICS = `
[topics.orders]
history_size = 100

[topics.chat]
personal = "off"
named = true
broadcast = true
presence = true
join_leave = true
force_join_leave = true
publish = "subscribers"
see_presence = "subscribers"
see_history = "subscribers"

# What only a token opens, and nobody looks into.
[topics.closed]
personal = "off"

[topics.plain]
personal = "off"
named = true
history_size = 0
publish = "users"
`;

/** Every way for a page to come in. */
export const EVERY_WAY = "sse = true\nhttp_stream = true\nuni_websocket = true\nuni_sse = true\nuni_http_stream = true\n";

const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
export const seconds = () => Math.floor(Date.now() / 1000);

/** A JWT by HS256 with exactly these claims. */
export function sign(secret, claims) {
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}

export class Site {
  #program;
  #lines;

  /** @param {{ topics?: string, bridges?: string[], publisher?: string }} plan lines of TOML */
  static async start({ topics = TOPICS, bridges = [EVERY_WAY], publisher = "" } = {}) {
    const site = new Site();
    site.#program = spawn(binary("site"), { stdio: ["pipe", "pipe", "inherit"] });
    site.#program.stdin.on("error", () => {}); // it ended first, which the next line tells
    site.#lines = createInterface({ input: site.#program.stdout })[Symbol.asyncIterator]();
    const { api, ...facts } = await site.#ask({ topics, bridges, publisher });
    return Object.assign(site, facts, { backends: api });
  }

  async #ask(line) {
    this.#program.stdin.write(`${JSON.stringify(line)}\n`);
    const { value, done } = await within(2 * PATIENCE_MS, `the site to answer ${JSON.stringify(line)}`, this.#lines.next());
    if (done) throw new Error("the site ended");
    const told = JSON.parse(value);
    assert.equal(told.failed, undefined, told.failed);
    return told;
  }

  /** SIGKILL. */
  kill = (bridge) => this.#ask({ do: "kill", bridge });
  /** SIGTERM, and waits for a good end. */
  end = (bridge) => this.#ask({ do: "stop", bridge });
  /** Brings a bridge back where it was. */
  again = (bridge) => this.#ask({ do: "start", bridge });
  /** A new Redis in the place of the old one, with nothing in it. */
  restartRedis = () => this.#ask({ do: "restart-redis" });

  async stop() {
    if (this.#program.exitCode !== null) return;
    const ended = once(this.#program, "exit");
    this.#program.stdin.end();
    await within(PATIENCE_MS, "the site to stop", ended);
  }

  /** A connection token of `user`, for an hour unless the claims say otherwise. */
  token(user, claims = {}) {
    return sign(this.secret, { sub: user, exp: seconds() + 3600, ...claims });
  }

  /** A subscription token. */
  ticket(user, channel, claims = {}) {
    return this.token(user, { channel, ...claims });
  }

  /** Calls the publisher's API; the result, or the error. */
  async api(method, body) {
    const response = await fetch(`${this.backends}/api/${method}`, {
      method: "POST",
      headers: { "X-API-Key": this.api_key, "content-type": "application/json" },
      body: JSON.stringify(body),
    });
    assert.equal(response.status, 200, `${method}: ${response.status}`);
    const answer = await response.json();
    return answer.result ?? answer;
  }

  /** Publishes, and must succeed. */
  async publish(channel, data, more = {}) {
    const answer = await this.api("publish", { channel, data, ...more });
    assert.equal(answer.error, undefined, JSON.stringify(answer));
    return answer;
  }

  /** The value of a counter of a bridge, 0 where it has counted nothing. */
  async metric(bridge, line) {
    const text = await (await fetch(`${this.bridges[bridge].admin}/metrics`)).text();
    return Number(text.split("\n").find((metric) => metric.startsWith(`${line} `))?.split(" ").at(-1) ?? 0);
  }
}
