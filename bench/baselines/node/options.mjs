// What both servers are started with: `--port P --redis P`, both on 127.0.0.1.

import { parseArgs } from "node:util";

const { values } = parseArgs({ options: { port: { type: "string" }, redis: { type: "string" } } });
if (!values.port || !values.redis) {
  console.error("usage: node SERVER.mjs --port PORT --redis PORT");
  process.exit(2);
}

/** Where clients come, for `listen`. The backlog is that of the other subjects: storms of connections are measured too. */
export const listen = { host: "127.0.0.1", port: Number(values.port), backlog: 4096 };

/** Where Redis is, for `new Redis(…)`. */
export const redis = { host: "127.0.0.1", port: Number(values.redis), enableReadyCheck: true };

/** The channels that a client names: `?channel=A&channel=B`. */
export function channelsOf(request) {
  return new URL(request.url, "http://localhost").searchParams.getAll("channel");
}
