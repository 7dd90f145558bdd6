// The Node recipe: ws and ioredis, written as a careful user would. A client names its channels in the path, the process
// subscribes once per channel in Redis, and what comes is sent to every socket of the channel, as it came.
//
// Careful means: bytes are taken from Redis as bytes and never parsed or encoded again, there is no compression, a client
// is let in only once Redis has confirmed its channels, and one that does not read is cut off instead of filling memory.

import { createServer } from "node:http";
import { Redis } from "ioredis";
import { WebSocketServer } from "ws";
import { channelsOf, listen, redis } from "./options.mjs";

/** What may wait for a socket that does not read: the default of Griot's `max_outbox_bytes`. */
const MAX_WAITING_BYTES = 1024 * 1024;
const FRAME = { binary: false, compress: false };

/** By name: its sockets, and the promise that Redis has confirmed it. */
const channels = new Map();
const subscriber = new Redis(redis);
const http = createServer((_, response) => response.writeHead(426).end());
const sockets = new WebSocketServer({ noServer: true, clientTracking: false, perMessageDeflate: false, maxPayload: 65536 });

subscriber.on("messageBuffer", (name, data) => {
  const channel = channels.get(name.toString());
  if (!channel) return;
  for (const socket of channel.sockets) {
    if (socket.bufferedAmount > MAX_WAITING_BYTES) socket.terminate();
    else socket.send(data, FRAME);
  }
});

http.on("upgrade", (request, socket, head) => {
  // Until ws takes it, the socket is nobody's, and an error of it would end the process.
  const ignore = () => {};
  socket.on("error", ignore);
  const names = channelsOf(request);
  Promise.all(names.map(hold)).then(
    (held) => {
      if (socket.destroyed) return names.forEach(release);
      socket.off("error", ignore);
      sockets.handleUpgrade(request, socket, head, (client) => {
        for (const channel of held) channel.sockets.add(client);
        client.on("error", ignore);
        client.on("close", () => {
          for (const channel of held) channel.sockets.delete(client);
          names.forEach(release);
        });
      });
    },
    () => socket.destroy(),
  );
});

/** The channel, once Redis has confirmed it; each holder releases it once. */
async function hold(name) {
  let channel = channels.get(name);
  if (!channel) {
    channel = { sockets: new Set(), holders: 0, confirmed: subscriber.subscribe(name) };
    channels.set(name, channel);
  }
  channel.holders += 1;
  await channel.confirmed;
  return channel;
}

function release(name) {
  const channel = channels.get(name);
  channel.holders -= 1;
  if (channel.holders > 0) return;
  channels.delete(name);
  // Commands of one connection keep their order, so a subscribe that follows is not undone.
  subscriber.unsubscribe(name).catch(() => {});
}

// Not before: a subscription that meets the client's own first look at Redis may fail.
subscriber.once("ready", () => http.listen(listen, () => console.log("listening")));
