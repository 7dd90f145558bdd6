// What the page knows. It changes only through these methods, and each change asks for one drawing.

import { order, origin, text, wallet } from "./contract";
import type { OrderFact, Product, Publication, Snapshot } from "./contract";
import { Latency } from "./latency";
import type { Recovery } from "./recovery";

export type Connection =
  | { readonly phase: "connecting" }
  | { readonly phase: "live" }
  /** Trying again by itself: try number `attempt` begins by `nextBy` at the latest. `lastLive` is null if it never was. */
  | { readonly phase: "lost"; readonly lastLive: number | null; readonly attempt: number; readonly nextBy: number }
  | { readonly phase: "stopped"; readonly reason: string };

export interface ShownOrder extends OrderFact {
  readonly owner: string;
  readonly changedAt: number | null;
}

export interface ShownNotification {
  readonly key: string;
  readonly owner: string;
  readonly text: string;
  readonly at: number;
}

export interface ShownWallet {
  readonly owner: string;
  readonly balanceCents: number;
  readonly version: number | null;
  readonly change: { readonly cents: number; readonly at: number } | null;
}

export type Loading = "shop" | "product";

const KEPT_ORDERS = 100;
const KEPT_NOTIFICATIONS = 50;
const KEPT_IDS = 4096;

export class Store {
  connection: Connection = { phase: "connecting" };
  /** The last time away, and what became of the publications meanwhile. */
  recovery: Recovery | null = null;
  readonly latency = new Latency();
  readonly orders = new Map<string, ShownOrder>();
  notifications: ShownNotification[] = [];
  wallet: ShownWallet | null = null;
  product: Product | null = null;
  /** Milliseconds from the commit of the last product push until the refetched price was on screen. */
  productMs: number | null = null;
  /** What could not be loaded, and why. */
  readonly troubles = new Map<Loading, string>();
  loaded = false;
  received = 0;
  repeated = 0;

  readonly user: string;
  readonly #changed: () => void;
  readonly #seen = new Set<string>();
  #liveSince = Infinity;
  #unmeasuredProduct: number | null = null;
  /** Publications that came while a snapshot was on its way: they are applied again over it. */
  #overtaking: Publication[] | null = null;

  constructor(user: string, changed: () => void) {
    this.user = user;
    this.#changed = changed;
  }

  setConnection(connection: Connection): void {
    this.connection = connection;
    if (connection.phase === "live") {
      this.#liveSince = Date.now();
      this.latency.gap();
    }
    this.#changed();
  }

  setRecovery(recovery: Recovery): void {
    this.recovery = recovery;
    this.#changed();
  }

  answered(channel: string, kept: boolean): void {
    this.recovery?.answered(channel, kept);
    this.#changed();
  }

  reloaded(recovery: Recovery): void {
    recovery.reloaded();
    this.#changed();
  }

  failed(what: Loading, reason: string): void {
    this.troubles.set(what, reason);
    this.#changed();
  }

  /** False for a repeat. */
  receive(publication: Publication): boolean {
    if (publication.id !== null) {
      if (this.#seen.has(publication.id)) {
        this.repeated += 1;
        this.#changed();
        return false;
      }
      this.#seen.add(publication.id);
      if (this.#seen.size > KEPT_IDS) this.#seen.delete(first(this.#seen));
    }
    this.received += 1;
    this.#overtaking?.push(publication);
    const shown = this.#apply(publication, true);
    if (publication.recovered && this.recovery !== null) this.recovery.caughtUp += 1;
    const from = origin(publication.data);
    if (shown && from !== null && !publication.recovered && this.#measurable(from.atUs)) this.latency.expect(from);
    this.#changed();
    return true;
  }

  expectSnapshot(): void {
    this.#overtaking = [];
  }

  takeSnapshot(snapshot: Snapshot): void {
    this.orders.clear();
    const oldestFirst = snapshot.orders.toSorted((a, b) => Number(a.id) - Number(b.id));
    for (const fact of oldestFirst) this.orders.set(fact.id, { ...fact, owner: this.user, changedAt: moment(fact.atUs) });
    // It comes from a cache, and is older when the push of a payment was faster than its write-through.
    if (snapshot.wallet !== null && (snapshot.wallet.version ?? Infinity) >= (this.wallet?.version ?? -Infinity)) {
      const version = snapshot.wallet.version ?? this.wallet?.version ?? null;
      this.wallet = { change: null, ...this.wallet, owner: this.user, balanceCents: snapshot.wallet.balanceCents, version };
    }
    for (const publication of this.#overtaking ?? []) this.#apply(publication, false);
    this.#overtaking = null;
    this.loaded = true;
    this.troubles.delete("shop");
    this.#changed();
  }

  takeProduct(product: Product, committedUs: number | null): void {
    this.product = product;
    this.troubles.delete("product");
    if (this.#measurable(committedUs)) this.#unmeasuredProduct = committedUs / 1000;
    this.#changed();
  }

  /** To be called when what was drawn is on screen; true if a figure changed. */
  measure(now: number): boolean {
    const product = this.#unmeasuredProduct;
    this.#unmeasuredProduct = null;
    if (product !== null && now >= product) this.productMs = now - product;
    return this.latency.measure(now) || product !== null;
  }

  /** The page is hidden: what is not drawn yet will not be for a long time. */
  hide(): void {
    this.#unmeasuredProduct = null;
    this.latency.forget();
  }

  /** A hidden page draws nothing, and what was recovered waited for the connection: neither says how fast delivery is. */
  #measurable(us: number | null): us is number {
    return us !== null && us / 1000 >= this.#liveSince && !document.hidden;
  }

  /** True if something on screen follows from it. `fresh` is false when it is applied again over a snapshot. */
  #apply(publication: Publication, fresh: boolean): boolean {
    const { channel, data } = publication;
    const [topic, name] = split(channel);
    const owner = text(data.user_id) ?? text(data.userId) ?? (name.startsWith("#") ? name.slice(1) : this.user);
    const at = moment(origin(data)?.atUs ?? null) ?? Date.now();
    if (topic === "orders") {
      const fact = order(data);
      if (fact === null) return false;
      this.orders.set(fact.id, { ...fact, owner, changedAt: at });
      if (this.orders.size > KEPT_ORDERS) this.orders.delete(first(this.orders.keys()));
      return true;
    }
    if (topic === "notifications") {
      const said = text(data.text);
      if (said === null || !fresh) return false;
      const key = publication.id ?? `raw-${this.received}`;
      this.notifications = [{ key, owner, text: said, at }, ...this.notifications].slice(0, KEPT_NOTIFICATIONS);
      return true;
    }
    if (topic === "wallet-updates") {
      const fact = wallet(data);
      const known = this.wallet;
      if (fact === null || (fact.version ?? Infinity) < (known?.version ?? -Infinity)) return false;
      const cents = known === null ? 0 : fact.balanceCents - known.balanceCents;
      const change = cents === 0 ? (known?.change ?? null) : { cents, at };
      this.wallet = { owner, balanceCents: fact.balanceCents, version: fact.version ?? known?.version ?? null, change };
      return true;
    }
    return false;
  }
}

function moment(us: number | null): number | null {
  return us === null ? null : us / 1000;
}

/** `orders:#42` is the topic `orders` and the name `#42`. */
export function split(channel: string): [topic: string, name: string] {
  const colon = channel.indexOf(":");
  return colon < 0 ? [channel, ""] : [channel.slice(0, colon), channel.slice(colon + 1)];
}

function first(keys: Iterable<string>): string {
  for (const key of keys) return key;
  return "";
}
