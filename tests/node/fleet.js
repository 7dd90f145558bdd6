// A fleet of official clients (npm `centrifuge`, with `ws` as their WebSocket), driven over stdin and told about on
// stdout, one line of JSON each. Tests in other languages start it as a child process:
//
//   node tests/node/fleet.js
//   > {"socket":"ws://…/connection/websocket","users":[{"user":"42","token":"…","subscribe":["products"]}],
//      "min_delay_ms":100,"max_delay_ms":2000}                 the configuration, the first line; one client per entry
//   > {"do":"disconnect","c":0}   {"do":"connect","c":0}       a client goes away, and comes back
//   > {"do":"stop"}                                            all go away and the program ends; so does the end of stdin
//
//   < {"e":"connecting","c":0,"t":12,"code":0,"reason":"…"}    `c` is the client's index, `t` milliseconds since the start
//   < {"e":"connected","c":0,"t":19}
//   < {"e":"subscribed","c":0,"t":19,"channel":"orders:#42","server":true,"was_recovering":false,"recovered":false,
//      "recoverable":true,"offset":7,"epoch":"…"}              offset and epoch are null where there is no position
//   < {"e":"pub","c":0,"t":25,"channel":"orders:#42","offset":8,"id":"…","data":…}     offset and id may be null
//   < {"e":"subscribing"|"unsubscribed","c":0,"t":…,"channel":"…","server":false,"code":…,"reason":"…"}
//                                                              code and reason are null for server-side subscriptions
//   < {"e":"error","c":0,"t":…,"type":"…","code":…,"message":"…","channel":"…"|null}
//   < {"e":"disconnected","c":0,"t":…,"code":…,"reason":"…"}   terminal: this client does not come back by itself
//
// `t` counts from the start of the process. Lines come in the order of the clients' events. After `disconnect` and
// `connect` a client asks to recover from where it was, on both kinds of subscriptions: `disconnect()` of centrifuge
// 5.8.0 leaves `_serverSubs` alone but for its `subscribed` mark, and the next connect command takes `recover`, offset
// and epoch from there. Tokens are not renewed: one that expires ends its client.

import { createWriteStream } from "node:fs";
import { createInterface } from "node:readline";
import { Centrifuge } from "centrifuge";
import WebSocket from "ws";

/** A reader that leaves this much unread has gone astray: better an end that says so than a growing process. */
const MAX_UNREAD_CHARS = 64 * 1024 * 1024;
/** Sockets whose peer does not answer the close handshake are not waited for longer than this. */
const CLOSE_MS = 2_000;

// Not process.stdout: its writes to a pipe block, and a slow reader would stop all clients.
const output = createWriteStream("", { fd: 1, autoClose: false, encoding: "utf8" });
output.on("error", (error) => process.exit(error.code === "EPIPE" ? 0 : 1));

let unwritten = "";
let scheduled = false;

/** What happens in one turn of the event loop leaves in one write. */
function tell(line) {
  unwritten += `${JSON.stringify(line)}\n`;
  if (unwritten.length > MAX_UNREAD_CHARS) fail("the reader of stdout does not read");
  if (scheduled) return;
  scheduled = true;
  setImmediate(write);
}

function write() {
  if (output.writableNeedDrain) {
    output.once("drain", write);
    return;
  }
  scheduled = false;
  const lines = unwritten;
  unwritten = "";
  output.write(lines);
}

function fail(reason) {
  process.stderr.write(`fleet: ${reason}\n`);
  process.exit(1);
}

const now = () => Math.floor(performance.now());

/** @type {Centrifuge[]} */
let clients = [];

function start({ socket, users, min_delay_ms, max_delay_ms }) {
  const delays = { minReconnectDelay: min_delay_ms ?? 500, maxReconnectDelay: max_delay_ms ?? 20_000 };
  clients = users.map(({ token, subscribe }, c) => {
    const client = new Centrifuge(socket, { token, websocket: WebSocket, ...delays });
    listen(client, c);
    for (const channel of subscribe ?? []) follow(client.newSubscription(channel), c, false);
    return client;
  });
  for (const client of clients) client.connect();
}

function listen(client, c) {
  client.on("connecting", ({ code, reason }) => tell({ e: "connecting", c, t: now(), code, reason }));
  client.on("connected", () => tell({ e: "connected", c, t: now() }));
  client.on("disconnected", ({ code, reason }) => tell({ e: "disconnected", c, t: now(), code, reason }));
  follow(client, c, true);
}

/** Events of one client-side subscription, or of all server-side ones, which the client itself emits. */
function follow(emitter, c, server) {
  emitter.on("subscribing", ({ channel, code = null, reason = null }) => tell({ e: "subscribing", c, t: now(), channel, server, code, reason }));
  emitter.on("subscribed", ({ channel, wasRecovering, recovered, recoverable, streamPosition }) =>
    tell({
      e: "subscribed",
      c,
      t: now(),
      channel,
      server,
      was_recovering: wasRecovering,
      recovered,
      recoverable,
      offset: streamPosition?.offset ?? null,
      epoch: streamPosition?.epoch ?? null,
    }),
  );
  emitter.on("unsubscribed", ({ channel, code = null, reason = null }) => tell({ e: "unsubscribed", c, t: now(), channel, server, code, reason }));
  emitter.on("publication", ({ channel, offset = null, tags, data }) => tell({ e: "pub", c, t: now(), channel, offset, id: tags?.id ?? null, data }));
  emitter.on("error", ({ type, error, channel = null }) => tell({ e: "error", c, t: now(), type, code: error.code, message: error.message, channel }));
  if (!server) emitter.subscribe();
}

function obey(command) {
  if (command.do === "stop") return stop();
  const client = clients[command.c];
  if (command.do === "disconnect" && client) return client.disconnect();
  if (command.do === "connect" && client) return client.connect();
  return fail(`not a command: ${JSON.stringify(command)}`);
}

/** Ends by itself once the last socket has closed and the last line is written. */
function stop() {
  input.removeListener("close", stop);
  input.close();
  process.stdin.destroy();
  for (const client of clients) client.disconnect();
  setTimeout(() => output.write("", () => process.exit(0)), CLOSE_MS).unref();
}

const input = createInterface({ input: process.stdin });
input.once("line", (line) => {
  try {
    start(JSON.parse(line));
  } catch (error) {
    // Not the line itself: it holds tokens.
    fail(`not a configuration: ${error.message}`);
  }
  input.on("line", (command) => obey(JSON.parse(command)));
});
input.on("close", stop);
