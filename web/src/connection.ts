// The socket, through the ordinary Centrifugal client: what it reports, said in the page's words.

import { Centrifuge } from "centrifuge";
import { fields } from "./contract";
import type { Publication, SignIn } from "./contract";
import { Recovery } from "./recovery";
import type { Connection } from "./store";

export interface Listener {
  connection(now: Connection): void;
  publication(publication: Publication): void;
  /** Channels are subscribed again after a time away; each of them will answer. */
  back(recovery: Recovery): void;
  /** A channel is subscribed again: `kept` if every publication in between follows now, in order. */
  resubscribed(channel: string, kept: boolean): void;
}

export interface Socket {
  /** Ends the wait before the next try. */
  tryNow(): void;
  close(): void;
}

const MIN_DELAY_MS = 500;
const MAX_DELAY_MS = 5000;

/** The client waits a random time; this is the longest that it may wait before a given attempt. */
function longestDelayMs(attempt: number): number {
  return Math.min(MAX_DELAY_MS, MIN_DELAY_MS + MIN_DELAY_MS * 2 ** (attempt - 1));
}

interface Subscribed {
  readonly channel: string;
  readonly wasRecovering: boolean;
  readonly recovered: boolean;
}

interface Arrived {
  readonly channel: string;
  readonly data: unknown;
  readonly tags?: Record<string, string>;
}

/** Connects and stays connected until it is closed. */
export function connect(first: SignIn, broadcast: string, renew: () => Promise<string>, on: Listener): Socket {
  const network = networkEvents();
  const client = new Centrifuge(first.socket, {
    token: first.token,
    getToken: renew,
    minReconnectDelay: MIN_DELAY_MS,
    maxReconnectDelay: MAX_DELAY_MS,
    networkEventTarget: network.target,
    name: "griot-market",
  });
  const known = new Set<string>();
  /** Channels whose missed publications are being handed over right now. */
  const catchingUp = new Set<string>();
  let since: number | null = null;
  let lastLive: number | null = null;
  let attempt = 0;

  function waiting(nextBy: number): void {
    on.connection({ phase: "lost", lastLive, attempt, nextBy });
  }

  function lost(): void {
    since ??= Date.now();
    attempt += 1;
    waiting(Date.now() + longestDelayMs(attempt));
  }

  function subscribed({ channel, wasRecovering, recovered }: Subscribed): void {
    if (known.has(channel)) on.resubscribed(channel, wasRecovering && recovered);
    known.add(channel);
    if (!recovered) return;
    // The client hands over what was missed before it lets go of the thread, and what is live only afterwards.
    catchingUp.add(channel);
    queueMicrotask(() => catchingUp.delete(channel));
  }

  function publication({ channel, data, tags }: Arrived): void {
    on.publication({ channel, id: tags?.id ?? null, data: fields(data) ?? {}, recovered: catchingUp.has(channel) });
  }

  client.on("state", ({ newState, oldState }) => {
    if (newState !== "connecting" || oldState !== "connected") return;
    lastLive = Date.now();
    lost();
  });
  client.on("error", () => {
    if (client.state === "connecting") lost();
  });
  client.on("connected", () => {
    const away = since;
    since = null;
    attempt = 0;
    on.connection({ phase: "live" });
    if (away !== null && known.size > 0) on.back(new Recovery(away, Date.now(), true, known));
  });
  client.on("disconnected", ({ reason }) => on.connection({ phase: "stopped", reason }));
  client.on("subscribed", subscribed);
  client.on("unsubscribed", ({ channel }) => known.delete(channel));
  client.on("publication", publication);

  const broadcasts = client.newSubscription(broadcast);
  broadcasts.on("subscribing", () => {
    // While the connection stays, it is this one channel that had a gap.
    if (client.state === "connected" && known.has(broadcast)) on.back(new Recovery(Date.now(), Date.now(), false, [broadcast]));
  });
  broadcasts.on("subscribed", subscribed);
  broadcasts.on("publication", publication);
  broadcasts.subscribe();

  client.connect();
  return {
    tryNow() {
      if (client.state !== "connecting") return;
      waiting(Date.now());
      network.online();
    },
    close() {
      client.removeAllListeners();
      broadcasts.removeAllListeners();
      client.disconnect();
      network.close();
    },
  };
}

/** The window's network events for the client. It tries again at once when told that the device is online. */
function networkEvents(): { target: EventTarget; online: () => void; close: () => void } {
  const target = new EventTarget();
  const heard = new AbortController();
  for (const name of ["online", "offline"]) {
    addEventListener(name, () => target.dispatchEvent(new Event(name)), { signal: heard.signal });
  }
  return { target, online: () => target.dispatchEvent(new Event("online")), close: () => heard.abort() };
}
