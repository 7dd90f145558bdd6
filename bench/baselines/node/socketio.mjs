// socket.io 4 with its Redis adapter: a room per channel, and publications that come through the adapter, as those of
// another process or of `@socket.io/redis-emitter` do. WebSocket only, without compression.

import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import { Redis } from "ioredis";
import { Server } from "socket.io";
import { channelsOf, listen, redis } from "./options.mjs";

const publisher = new Redis(redis);
const subscriber = publisher.duplicate();
const http = createServer();
const io = new Server(http, {
  adapter: createAdapter(publisher, subscriber),
  transports: ["websocket"],
  serveClient: false,
  perMessageDeflate: false,
  httpCompression: false,
});

// What socket.io's own page on memory advises: the first request is otherwise kept for as long as the connection lives.
// https://socket.io/docs/v4/memory-usage/
io.engine.on("connection", (connection) => {
  connection.channels = channelsOf(connection.request);
  connection.request = null;
});
// The answer to the client's CONNECT leaves in the same turn, so nothing falls between.
io.on("connection", (socket) => socket.join(socket.conn.channels));

// The adapter has said what it subscribes to by now; commands of one connection keep their order.
await subscriber.ping().catch(() => {});
http.listen(listen, () => console.log("listening"));
