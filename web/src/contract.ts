// What the demo server and the channels say, checked where it enters: everything behind this file is typed.

export interface User {
  readonly id: string;
  readonly name: string;
}

export interface SignIn {
  readonly token: string;
  readonly socket: string;
}

export interface OrderFact {
  readonly id: string;
  readonly status: string;
  readonly totalCents: number;
  readonly atUs: number | null;
}

export interface WalletFact {
  readonly balanceCents: number;
  readonly version: number | null;
}

export interface Product {
  readonly id: string;
  readonly name: string;
  readonly priceCents: number;
  readonly stock: number | null;
  readonly source: "cache" | "database";
}

export interface Snapshot {
  readonly orders: readonly OrderFact[];
  readonly wallet: WalletFact | null;
  readonly productId: string | null;
}

/** One publication as the client hands it over. */
export interface Publication {
  readonly channel: string;
  /** The public id: the same on every repeat of one publication. Absent on raw ones. */
  readonly id: string | null;
  readonly data: Fields;
  /** It was missed first and delivered when its channel was subscribed again. */
  readonly recovered: boolean;
}

/** The ways into Griot: a row change by a rule, SQL in a transaction, the HTTP API, plain `PUBLISH`. */
export const PATHS = ["row", "sql", "http", "raw"] as const;
export type Path = (typeof PATHS)[number];

/** What the shop says about the beginning of a publication's way. */
export interface Origin {
  readonly path: Path;
  /** Microseconds since 1970; such numbers stay exact until the year 2255. */
  readonly atUs: number;
}

export type Fields = Readonly<Record<string, unknown>>;

export function fields(value: unknown): Fields | null {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Fields) : null;
}

export function number(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

export function text(value: unknown): string | null {
  if (typeof value === "string") return value;
  return typeof value === "number" && Number.isFinite(value) ? String(value) : null;
}

export function order(value: unknown): OrderFact | null {
  const from = fields(value);
  const id = text(from?.id);
  const status = text(from?.status);
  if (id === null || status === null) return null;
  return { id, status, totalCents: number(from?.total_cents) ?? 0, atUs: number(from?.committed_at_us) };
}

export function wallet(value: unknown): WalletFact | null {
  const from = fields(value);
  const balanceCents = number(from?.balance_cents);
  return balanceCents === null ? null : { balanceCents, version: number(from?.version) };
}

/** The shop names path and moment of what it publishes itself; a changed row brings the moment in its own column. */
export function origin(data: Fields): Origin | null {
  const changedUs = number(data.committed_at_us);
  if (changedUs !== null) return { path: "row", atUs: changedUs };
  const path = PATHS.find((known) => known === data.path);
  const atUs = number(data.at_us);
  return path === undefined || atUs === null ? null : { path, atUs };
}

/** Refused for good: the same request would be refused again. */
export class Refused extends Error {}

async function request(path: string, init: RequestInit = {}): Promise<unknown> {
  const response = await fetch(path, { cache: "no-store", ...init });
  if (response.ok) return response.json();
  const reason = `${path.split("?")[0]} answered ${response.status}`;
  throw response.status >= 400 && response.status < 500 ? new Refused(reason) : new Error(reason);
}

function malformed(what: string): Error {
  return new Error(`the shop sent ${what} that this page cannot read`);
}

export async function fetchUsers(signal: AbortSignal): Promise<User[]> {
  const list = await request("/demo/users", { signal });
  if (!Array.isArray(list)) throw malformed("a list of users");
  return list.flatMap((entry) => {
    const id = text(fields(entry)?.id);
    return id === null ? [] : [{ id, name: text(fields(entry)?.name) ?? `User ${id}` }];
  });
}

export async function signIn(user: string, signal: AbortSignal): Promise<SignIn> {
  const reply = fields(
    await request("/demo/sign-in", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ user }),
      signal,
    }),
  );
  const token = text(reply?.token);
  const socket = text(reply?.socket);
  if (token === null || socket === null) throw malformed("a sign-in");
  return { token, socket };
}

export async function fetchSnapshot(user: string, token: string, signal: AbortSignal): Promise<Snapshot> {
  const reply = fields(
    await request(`/demo/snapshot?user=${encodeURIComponent(user)}`, {
      headers: { authorization: `Bearer ${token}` },
      signal,
    }),
  );
  if (reply === null || !Array.isArray(reply.orders)) throw malformed("a snapshot");
  return {
    orders: reply.orders.flatMap((entry) => order(entry) ?? []),
    wallet: wallet(reply.wallet),
    productId: text(fields(reply.product)?.id),
  };
}

export async function fetchProduct(id: string, signal: AbortSignal): Promise<Product> {
  const reply = fields(await request(`/demo/product/${encodeURIComponent(id)}`, { signal }));
  const priceCents = number(reply?.price_cents);
  if (reply === null || priceCents === null) throw malformed("a product");
  return {
    id: text(reply.id) ?? id,
    name: text(reply.name) ?? `Product ${id}`,
    priceCents,
    stock: number(reply.stock),
    source: reply.source === "cache" ? "cache" : "database",
  };
}
