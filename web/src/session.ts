// One signed-in user: sign in, connect, and load what publications alone cannot tell.

import { Refused, committedAtUs, fetchProduct, fetchSnapshot, signIn, text } from "./contract";
import type { Publication } from "./contract";
import { connect } from "./connection";
import type { Loading, Store } from "./store";

const PRODUCTS = "products";

/** Opens the session of `store.user`; the returned function ends it. */
export function open(store: Store): () => void {
  const ended = new AbortController();
  const { signal } = ended;
  let token = "";
  let productId = "1";
  let productCommit: number | null = null;
  let since = Date.now();

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
    productCommit = committedAtUs(publication.data);
    product();
  }

  async function start(): Promise<void> {
    const first = await retrying(signal, failed("shop"), () => signIn(store.user, signal));
    token = first.token;
    let connected = false;
    const close = connect(first, PRODUCTS, renew, {
      connection(connection) {
        if (connection.phase === "lost") since = connection.since;
        store.set(connection.phase === "live" ? { connection, continuity: null } : { connection });
        // What changed between the first snapshot and the subscription came by neither.
        if (connection.phase === "live" && !connected) {
          connected = true;
          snapshot();
        }
      },
      publication: received,
      resubscribed(channel, kept) {
        if (channel === PRODUCTS) {
          // The card shows what the shop says now, so reading it again repairs any gap.
          if (!kept) product();
          return;
        }
        const lostAlready = store.continuity?.kept === false;
        store.set({ continuity: { kept: kept && !lostAlready, since, at: Date.now() } });
        if (!kept) snapshot();
      },
    });
    signal.addEventListener("abort", close);
    snapshot();
  }

  start().catch((error: unknown) => {
    if (!signal.aborted) store.set({ connection: { phase: "stopped", reason: reasonOf(error) } });
  });
  return () => ended.abort();
}

/** A function that runs `task`; calls while it runs make it run once more afterwards. */
function coalesced(signal: AbortSignal, failed: (error: unknown) => void, task: () => Promise<void>): () => void {
  let running = false;
  let again = false;
  return async function run(): Promise<void> {
    again = true;
    if (running) return;
    running = true;
    while (again && !signal.aborted) {
      again = false;
      await retrying(signal, failed, task).catch(failed);
    }
    running = false;
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
