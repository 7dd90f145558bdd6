// As much of a browser as the pages of the guide need: `node page.js MODULE` with, in the environment, the page's
// ORIGIN, the visitor's COOKIE and the ROUTES that the site's proxy would take, by path. It prints what the page does.

import { WebSocket as Socket } from "ws";

const { ORIGIN, COOKIE } = process.env;
const routes = JSON.parse(process.env.ROUTES);
const tell = (what) => console.log(JSON.stringify(what));
const fetchOf = globalThis.fetch;

function routed(address) {
  const { pathname } = new URL(address, ORIGIN);
  return `${routes[pathname]}${pathname}`;
}

globalThis.location = new URL(ORIGIN);
globalThis.fetch = (address, options) => fetchOf(routed(address), { ...options, headers: { ...options?.headers, cookie: COOKIE } });
globalThis.WebSocket = class extends Socket {
  constructor(address, protocols = []) {
    super(routed(address), protocols, { origin: ORIGIN, headers: { cookie: COOKIE } });
    this.on("open", () => tell({ open: new URL(address).pathname }));
  }
};

const { client } = await import(process.argv[2]);
client?.on("connected", () => tell({ live: true }));
client?.on("disconnected", ({ code, reason }) => tell({ disconnected: { code, reason } }));
// Before the page itself hears of it, so that its line stands before the event's.
client?.prependListener("publication", ({ channel, offset = null, tags }) => tell({ position: { channel, offset, id: tags?.id ?? null } }));
