// The official JavaScript client, by every encoding and transport that it has.

import { EventSource } from "eventsource";
import { Centrifuge } from "centrifuge";
import { Centrifuge as Protobuf } from "centrifuge/build/protobuf";
import WebSocket from "ws";
import { PATIENCE_MS, within } from "../browser/demo.js";

const text = { encode: (value) => value, decode: (value) => value };
/** With protobuf the client hands over bytes, which are ours to read. */
const bytes = {
  encode: (value) => new TextEncoder().encode(JSON.stringify(value)),
  decode: (value) => (value instanceof Uint8Array ? JSON.parse(new TextDecoder().decode(value)) : value),
};

/** @typedef {{ name: string, client: typeof Centrifuge, transport: string, encode: (value: any) => any, decode: (value: any) => any }} Way */

/** @type {Way[]} */
export const WAYS = [
  { name: "JSON by WebSocket", client: Centrifuge, transport: "websocket", ...text },
  { name: "protobuf by WebSocket", client: Protobuf, transport: "websocket", ...bytes },
  { name: "JSON by http_stream", client: Centrifuge, transport: "http_stream", ...text },
  { name: "protobuf by http_stream", client: Protobuf, transport: "http_stream", ...bytes },
  { name: "JSON by sse", client: Centrifuge, transport: "sse", ...text },
];

const opened = new Set();

/**
 * A client that is not connected yet. `door` is a bridge's address, or an object that says where streams begin (`http`)
 * and where commands go when that is elsewhere (`emulation`): as a load balancer would, it may change its mind. Clients
 * try again quickly.
 */
export function client(way, door, options = {}) {
  if (typeof door === "string") door = { http: door };
  const at = (address) => {
    const { pathname, search } = new URL(address);
    const host = pathname === "/emulation" ? (door.emulation ?? door.http) : door.http;
    return `${host}${pathname}${search}`;
  };
  const Socket = class extends WebSocket {
    constructor(address, protocols) {
      super(at(address).replace("http", "ws"), protocols);
      door.cut = () => this.terminate();
    }
  };
  const Source = class extends EventSource {
    constructor(address, options) {
      super(at(address), { ...options, fetch: (address, options) => pass(door, at(address), options) });
    }
  };
  const scheme = way.transport === "websocket" ? "ws" : "http";
  const client = new way.client([{ transport: way.transport, endpoint: `${scheme}://door/connection/${way.transport}` }], {
    websocket: Socket,
    eventsource: Source,
    fetch: (address, options) => pass(door, at(address), options),
    readableStream: ReadableStream,
    emulationEndpoint: "http://door/emulation",
    minReconnectDelay: 20,
    maxReconnectDelay: 200,
    timeout: PATIENCE_MS,
    ...options,
  });
  opened.add(client);
  return client;
}

/** A request: a stream's is broken by `door.cut()` as a network would; commands are counted, and those not yet answered. */
function pass(door, address, options) {
  if (address.endsWith("/emulation")) {
    door.commands = (door.commands ?? 0) + 1;
    door.unanswered = (door.unanswered ?? 0) + 1;
    return fetch(address, options).finally(() => (door.unanswered -= 1));
  }
  const cut = new AbortController();
  door.cut = () => cut.abort(new TypeError("the network broke"));
  return fetch(address, { ...options, signal: AbortSignal.any([cut.signal, options.signal].filter(Boolean)) });
}

/** Ends every client of the file's tests. */
export function closeAll() {
  for (const client of opened) client.disconnect();
  opened.clear();
}

/** The next event of a name; ask before doing what causes it. */
export function next(emitter, event, suits = () => true) {
  const heard = new Promise((resolve) => {
    const listen = (context) => {
      if (!suits(context)) return;
      emitter.removeListener(event, listen);
      resolve(context);
    };
    emitter.on(event, listen);
  });
  return within(PATIENCE_MS, `"${event}"`, heard);
}

/** Connects; what the client says of it. */
export function connect(client) {
  const connected = next(client, "connected");
  client.connect();
  return connected;
}

/** A subscription that is there; what was said of it in `told`. */
export async function subscribe(client, channel, options = {}) {
  const subscription = client.newSubscription(channel, { minResubscribeDelay: 20, maxResubscribeDelay: 200, ...options });
  const subscribed = next(subscription, "subscribed");
  subscription.subscribe();
  subscription.told = await subscribed;
  return subscription;
}

/** Collects the data of every publication from now on. */
export function gather(way, emitter, channel) {
  const all = [];
  emitter.on("publication", (publication) => {
    if (channel === undefined || publication.channel === channel) all.push(way.decode(publication.data));
  });
  return all;
}

/** Waits until `holds` gives something true, and returns it. */
export async function eventually(what, holds) {
  const wait = async () => {
    for (;;) {
      const found = await holds();
      if (found) return found;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  };
  return within(PATIENCE_MS, what, wait());
}

/** The code that a promise is rejected with. */
export async function refused(promise) {
  try {
    await promise;
  } catch (error) {
    return error.code;
  }
  return undefined;
}

/** One connection without a client library, for what official clients never send. */
export class Bare {
  said = [];

  static async open(http, protocol = []) {
    const bare = new Bare();
    bare.socket = new WebSocket(`${http.replace("http", "ws")}/connection/websocket`, protocol);
    bare.closed = new Promise((resolve) => bare.socket.on("close", (code, reason) => resolve({ code, reason: String(reason) })));
    bare.socket.on("message", (data) => bare.said.push(...String(data).split("\n").map((line) => JSON.parse(line))));
    await within(PATIENCE_MS, "a socket to open", new Promise((resolve, reject) => bare.socket.on("open", resolve).on("error", reject)));
    return bare;
  }

  send(...commands) {
    this.socket.send(commands.map((command) => (typeof command === "string" ? command : JSON.stringify(command))).join("\n"));
  }

  /** Sends, and waits for the reply to the last of the commands. */
  async ask(...commands) {
    this.send(...commands);
    const { id } = commands.at(-1);
    return eventually(`a reply to ${JSON.stringify(commands.at(-1))}`, () => this.said.find((reply) => reply.id === id));
  }

  /** How the server ends it. */
  async end() {
    return within(PATIENCE_MS, "the server to close", this.closed);
  }
}
