// The socket, through the ordinary Centrifugal client: what it reports, said in the page's words.

import { Centrifuge } from "centrifuge";
import { fields } from "./contract";
import type { Publication, SignIn } from "./contract";
import type { Connection } from "./store";

export interface Listener {
  connection(now: Connection): void;
  publication(publication: Publication): void;
  /** A channel is subscribed again: `kept` if every publication in between follows now, in order. */
  resubscribed(channel: string, kept: boolean): void;
}

const MIN_DELAY_MS = 500;
const MAX_DELAY_MS = 5000;

/** The client waits a random time; this is the longest that it may wait before a given attempt. */
function longestDelayMs(attempt: number): number {
  return Math.min(MAX_DELAY_MS, MIN_DELAY_MS + MIN_DELAY_MS * 2 ** (attempt - 1));
}

/** Connects and stays connected until the returned function is called. */
export function connect(first: SignIn, broadcast: string, renew: () => Promise<string>, on: Listener): () => void {
  const client = new Centrifuge(first.socket, {
    token: first.token,
    getToken: renew,
    minReconnectDelay: MIN_DELAY_MS,
    maxReconnectDelay: MAX_DELAY_MS,
    name: "griot-market",
  });
  const known = new Set<string>();
  let since: number | null = null;
  let attempt = 0;

  function lost(): void {
    attempt += 1;
    on.connection({ phase: "lost", since: (since ??= Date.now()), attempt, nextBy: Date.now() + longestDelayMs(attempt) });
  }

  function subscribed(context: { channel: string; wasRecovering: boolean; recovered: boolean }): void {
    if (known.has(context.channel)) on.resubscribed(context.channel, context.wasRecovering && context.recovered);
    known.add(context.channel);
  }

  function publication(context: { channel: string; data: unknown; tags?: Record<string, string> }): void {
    on.publication({ channel: context.channel, id: context.tags?.id ?? null, data: fields(context.data) ?? {} });
  }

  client.on("state", ({ newState, oldState }) => {
    if (newState === "connecting" && oldState === "connected") lost();
  });
  client.on("error", () => {
    if (client.state === "connecting") lost();
  });
  client.on("connected", () => {
    since = null;
    attempt = 0;
    on.connection({ phase: "live" });
  });
  client.on("disconnected", ({ reason }) => on.connection({ phase: "stopped", reason }));
  client.on("subscribed", subscribed);
  client.on("publication", publication);

  const broadcasts = client.newSubscription(broadcast);
  broadcasts.on("subscribed", subscribed);
  broadcasts.on("publication", publication);
  broadcasts.subscribe();

  client.connect();
  return () => {
    client.removeAllListeners();
    broadcasts.removeAllListeners();
    client.disconnect();
  };
}
