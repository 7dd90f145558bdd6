// One signed-in user: sign in, connect, and load what publications alone cannot tell.

import { Refused, fetchProduct, fetchSnapshot, number, signIn, text } from "./contract";
import type { Publication } from "./contract";
import { connect } from "./connection";
import type { Socket } from "./connection";
import type { Loading, Store } from "./store";

const PRODUCTS = "products";

export interface Session {
  /** Ends the wait before the next try to connect. */
  tryNow(): void;
  close(): void;
}

/** Opens the session of `store.user`. */
export function open(store: Store): Session {
  const ended = new AbortController();
  const { signal } = ended;
  let token = "";
  let productId = "1";
  let productCommit: number | null = null;
  let socket: Socket | null = null;

  const snapshot = coalesced(signal, failed("shop"), async () => {
    store.expectSnapshot();
    const taken = await fetchSnapshot(store.user, token, signal).catch(async (error: unknown) => {
      if (!(error instanceof Refused)) throw error;
      return fetchSnapshot(store.user, await renew(), signal);
    });
    store.takeSnapshot(taken);
    productId = taken.productId ?? productId;
    product();
  });

  const product = coalesced(signal, failed("product"), async () => {
    const committed = productCommit;
    productCommit = null;
    store.takeProduct(await fetchProduct(productId, signal), committed);
  });

  /** Tokens are short-lived: the socket asks for a new one by itself, a refused snapshot here. */
  async function renew(): Promise<string> {
    token = (await signIn(store.user, signal)).token;
    return token;
  }

  function failed(what: Loading): (error: unknown) => void {
    return (error) => store.failed(what, `${reasonOf(error)}${error instanceof Refused ? "" : "; trying again"}.`);
  }

  function received(publication: Publication): void {
    if (!store.receive(publication)) return;
    if (publication.channel !== PRODUCTS || text(publication.data.id) !== productId) return;
    productCommit = number(publication.data.committed_at_us);
    product();
  }

  /** A channel has lost publications: what the shop says now repairs it. */
  async function repair(channel: string): Promise<void> {
    const { recovery } = store;
    recovery?.reloading();
    await (channel === PRODUCTS ? product() : snapshot());
    if (recovery !== null && !store.troubles.has(channel === PRODUCTS ? "product" : "shop")) store.reloaded(recovery);
  }

  async function start(): Promise<void> {
    const first = await retrying(signal, failed("shop"), () => signIn(store.user, signal));
    token = first.token;
    let connected = false;
    socket = connect(first, PRODUCTS, renew, {
      connection(connection) {
        store.setConnection(connection);
        // What changed between the first snapshot and the subscription came by neither.
        if (connection.phase === "live" && !connected) {
          connected = true;
          snapshot();
        }
      },
      publication: received,
      back: (recovery) => store.setRecovery(recovery),
      resubscribed(channel, kept) {
        store.answered(channel, kept);
        if (!kept) repair(channel);
      },
    });
    signal.addEventListener("abort", socket.close);
    snapshot();
  }

  start().catch((error: unknown) => {
    if (!signal.aborted) store.setConnection({ phase: "stopped", reason: reasonOf(error) });
  });
  return { tryNow: () => socket?.tryNow(), close: () => ended.abort() };
}

/** A function that runs `task`; calls while it runs make it run once more, and all of them wait for that. */
function coalesced(signal: AbortSignal, failed: (error: unknown) => void, task: () => Promise<void>): () => Promise<void> {
  let running: Promise<void> | null = null;
  let again = false;
  async function run(): Promise<void> {
    while (again && !signal.aborted) {
      again = false;
      await retrying(signal, failed, task).catch(failed);
    }
    running = null;
  }
  return () => {
    again = true;
    return (running ??= run());
  };
}

/** Tries until it succeeds, is refused for good, or the session ends. */
export async function retrying<T>(signal: AbortSignal, failed: (error: unknown) => void, task: () => Promise<T>): Promise<T> {
  for (let delayMs = 500; ; delayMs = Math.min(2 * delayMs, 8000)) {
    try {
      return await task();
    } catch (error) {
      if (signal.aborted || error instanceof Refused) throw error;
      failed(error);
      await new Promise((resolve) => setTimeout(resolve, delayMs));
    }
  }
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
