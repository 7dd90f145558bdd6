// The store drawn into the page. Rows keep their elements, and data enters as text only.

import type { User } from "./contract";
import type { ShownNotification, ShownOrder, Store } from "./store";

const SHOWN_ORDERS = 9;
const SHOWN_NOTIFICATIONS = 9;
const STEPS = ["placed", "paid", "packed", "shipped", "delivered"];

const cedi = new Intl.NumberFormat("en-GH", { style: "currency", currency: "GHS", currencyDisplay: "narrowSymbol" });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

function at<E extends HTMLElement = HTMLElement>(id: string): E {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`the page has no #${id}`);
  return found as E;
}

function make(tag: string, className: string, content = ""): HTMLElement {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = content;
  return made;
}

function say(element: HTMLElement, content: string): void {
  if (element.textContent !== content) element.textContent = content;
}

function mark(element: HTMLElement, name: string, value: string | number | null): void {
  if (value === null) delete element.dataset[name];
  else if (element.dataset[name] !== String(value)) element.dataset[name] = String(value);
}

/** Plays the highlight again, also while an earlier one is still fading. */
function flash(element: HTMLElement): void {
  for (const running of element.getAnimations()) running.cancel();
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  const colour = getComputedStyle(element).getPropertyValue("--flash");
  element.animate([{ backgroundColor: colour }, { backgroundColor: "transparent" }], { duration: 1400, easing: "ease-out" });
}

/** Makes the list's children those of `items`, in their order; a row keeps its element as long as its key is shown. */
function drawRows<T>(
  list: HTMLElement,
  items: readonly T[],
  key: (item: T) => string,
  create: () => HTMLElement,
  fill: (row: HTMLElement, item: T) => boolean,
): void {
  const old = new Map(Array.from(list.children, (row) => [(row as HTMLElement).dataset.key, row as HTMLElement]));
  const opened = old.size === 0;
  items.forEach((item, index) => {
    const row = old.get(key(item)) ?? create();
    old.delete(key(item));
    mark(row, "key", key(item));
    const news = fill(row, item);
    if (list.children[index] !== row) list.insertBefore(row, list.children[index] ?? null);
    if (news && !opened) flash(row);
  });
  for (const row of old.values()) row.remove();
}

function part(row: HTMLElement, name: string): HTMLElement {
  return row.querySelector<HTMLElement>(`.${name}`) ?? row;
}

function createOrder(): HTMLElement {
  const row = make("li", "row order");
  const steps = make("span", "steps");
  steps.ariaHidden = "true";
  steps.append(...STEPS.map(() => make("i", "")));
  row.append(make("span", "number"), make("span", "status"), make("span", "total"), steps, make("time", "time"));
  return row;
}

function fillOrder(row: HTMLElement, order: ShownOrder): boolean {
  const news = row.dataset.status !== order.status;
  mark(row, "order", order.id);
  mark(row, "owner", order.owner);
  mark(row, "status", order.status);
  say(part(row, "number"), `No. ${order.id}`);
  say(part(row, "status"), order.status);
  say(part(row, "total"), cedi.format(order.totalCents / 100));
  say(part(row, "time"), order.changedAt === null ? "" : clock.format(order.changedAt));
  const reached = STEPS.indexOf(order.status);
  part(row, "steps").hidden = reached < 0;
  Array.from(part(row, "steps").children, (step, index) => step.classList.toggle("done", index <= reached));
  return news;
}

function createNotification(): HTMLElement {
  const row = make("li", "row notification");
  row.append(make("span", "said"), make("time", "time"));
  return row;
}

function fillNotification(row: HTMLElement, notification: ShownNotification): boolean {
  const news = row.dataset.owner === undefined;
  mark(row, "owner", notification.owner);
  say(part(row, "said"), notification.text);
  say(part(row, "time"), clock.format(notification.at));
  return news;
}

function milliseconds(ms: number | null): string {
  if (ms === null) return "–";
  return ms < 10_000 ? `${Math.round(ms).toLocaleString("en-GB")} ms` : `${Math.round(ms / 1000)} s`;
}

function seconds(ms: number): string {
  return `${Math.max(1, Math.round(ms / 1000))} s`;
}

export function drawFigures(store: Store): void {
  const shop = at("shop");
  mark(shop, "p50Ms", store.medianMs());
  mark(shop, "lastMs", store.lastMs);
  mark(shop, "received", store.received);
  mark(shop, "repeated", store.repeated);
  say(at("p50"), milliseconds(store.medianMs()));
  say(at("last"), milliseconds(store.lastMs));
  say(at("received"), store.received.toLocaleString("en-GB"));
  mark(at("product"), "freshMs", store.productMs);
  say(at("fresh"), store.productMs === null ? "" : `On screen ${milliseconds(store.productMs)} after its last change.`);
}

export function draw(store: Store): void {
  drawConnection(store);
  drawFigures(store);
  const orders = [...store.orders.values()].sort((a, b) => Number(b.id) - Number(a.id));
  drawRows(at("orders"), orders.slice(0, SHOWN_ORDERS), (order) => order.id, createOrder, fillOrder);
  const earlier = orders.length - SHOWN_ORDERS;
  say(at("orders-count"), earlier > 0 ? `and ${earlier} earlier` : "");
  at("orders-empty").hidden = orders.length > 0;
  say(at("orders-empty"), store.loaded ? "No orders yet." : store.troubles.has("shop") ? "Not loaded." : "Loading…");

  const latest = store.notifications.slice(0, SHOWN_NOTIFICATIONS);
  drawRows(at("notifications"), latest, (notification) => notification.key, createNotification, fillNotification);
  at("notifications-empty").hidden = latest.length > 0;
  drawWallet(store);
  drawProduct(store);
}

function drawWallet({ wallet }: Store): void {
  if (wallet === null) return;
  const balance = at("balance");
  const news = balance.dataset.balanceCents !== undefined && balance.dataset.balanceCents !== String(wallet.balanceCents);
  mark(balance, "balanceCents", wallet.balanceCents);
  mark(balance, "version", wallet.version);
  mark(balance, "owner", wallet.owner);
  say(balance, cedi.format(wallet.balanceCents / 100));
  if (news) flash(balance);
  if (wallet.change === null) return;
  const { cents, at: when } = wallet.change;
  mark(at("wallet-change"), "way", cents > 0 ? "in" : "out");
  say(at("wallet-change"), `${cents > 0 ? "+" : "−"}${cedi.format(Math.abs(cents) / 100)} at ${clock.format(when)}`);
}

function drawProduct({ product }: Store): void {
  if (product === null) return;
  const card = at("product");
  const news = card.dataset.priceCents !== undefined && card.dataset.priceCents !== String(product.priceCents);
  mark(card, "product", product.id);
  mark(card, "priceCents", product.priceCents);
  mark(card, "source", product.source);
  say(at("product-name"), product.name);
  say(at("price"), cedi.format(product.priceCents / 100));
  if (news) flash(at("price"));
  at("source").hidden = false;
  say(at("source"), product.source === "cache" ? "from cache" : "from database");
  say(at("stock"), product.stock === null ? "" : product.stock > 0 ? `${product.stock} in stock.` : "Sold out.");
}

interface Notice {
  readonly tone: "wait" | "good" | "warn" | "bad";
  readonly title: string;
  readonly text: string;
  readonly count?: string;
  readonly action?: string;
}

const CONTINUITY_SHOWN_MS = 20_000;

function noticeOf({ connection, continuity, troubles }: Store): Notice | null {
  if (connection.phase === "lost") {
    const { since, attempt, nextBy } = connection;
    const left = nextBy - Date.now();
    return {
      tone: "warn",
      title: navigator.onLine ? "Connection lost." : "This device is offline.",
      text: `You see the shop as it was at ${clock.format(since)}. The page reconnects by itself.`,
      count: left > 0 ? `Reconnecting in ${seconds(left)} at most (try ${attempt})` : `Reconnecting now (try ${attempt})`,
    };
  }
  if (connection.phase === "stopped") {
    return { tone: "bad", title: "Signed out.", text: `The shop ended this session: ${connection.reason}.`, action: "Sign in again" };
  }
  const [trouble] = troubles.values();
  if (trouble !== undefined) return { tone: "warn", title: "Not everything could be loaded.", text: trouble };
  if (connection.phase === "connecting") return { tone: "wait", title: "Connecting to the shop…", text: "" };
  if (continuity === null || Date.now() - continuity.at > CONTINUITY_SHOWN_MS) return null;
  const away = `after ${seconds(continuity.at - continuity.since)}`;
  return continuity.kept
    ? { tone: "good", title: `Connected again ${away}.`, text: "Nothing was missed: what came in between was recovered." }
    : { tone: "warn", title: `Connected again ${away}.`, text: "Some updates may have been missed, so the page was reloaded from the shop." };
}

const PHASES = { connecting: "Connecting", live: "Live", lost: "Disconnected", stopped: "Signed out" } as const;

function drawConnection(store: Store): void {
  const { phase } = store.connection;
  const shop = at("shop");
  mark(shop, "phase", phase);
  mark(shop, "continuity", store.continuity === null ? null : store.continuity.kept ? "recovered" : "lost");
  mark(shop, "loaded", String(store.loaded));
  mark(at("phase"), "phase", phase);
  say(at("phase"), PHASES[phase]);

  const notice = noticeOf(store);
  at("notice").hidden = notice === null;
  mark(at("notice"), "tone", notice?.tone ?? null);
  say(at("notice-title"), notice?.title ?? "");
  say(at("notice-text"), notice?.text ?? "");
  say(at("notice-count"), notice?.count ?? "");
  at("notice-action").hidden = notice?.action === undefined;
  say(at("notice-action"), notice?.action ?? "");
}

export function drawSignIn(users: readonly User[], trouble: string): void {
  at("shop").hidden = true;
  at("who").hidden = true;
  at("sign-in").hidden = false;
  document.title = "Griot Market";
  say(at("users-trouble"), trouble);
  at("users").replaceChildren(
    ...users.map((user) => {
      const link = make("a", "user") as HTMLAnchorElement;
      link.href = `#${new URLSearchParams({ user: user.id })}`;
      link.dataset.user = user.id;
      const initials = user.name.split(/\s+/).map((word) => word.charAt(0)).join("").slice(0, 2);
      const face = make("span", "face", initials);
      face.ariaHidden = "true";
      link.append(face, make("span", "", user.name));
      const entry = make("li", "");
      entry.append(link);
      return entry;
    }),
  );
}

/** Shows an empty shop for `user`: nothing of an earlier session stays on the page. */
export function drawShop(user: string, name: string): void {
  for (const id of ["orders", "notifications"]) at(id).replaceChildren();
  for (const id of ["shop", "balance", "product", "wallet-change"]) {
    for (const key of Object.keys(at(id).dataset)) delete at(id).dataset[key];
  }
  for (const id of ["balance", "price"]) say(at(id), "–");
  say(at("wallet-change"), "No change yet");
  at("source").hidden = true;
  at("sign-in").hidden = true;
  at("shop").hidden = false;
  at("who").hidden = false;
  mark(at("shop"), "user", user);
  nameUser(name);
}

/** After a change of page the keyboard goes on at its top. */
export function focusTitle(): void {
  at(at("shop").hidden ? "sign-in-title" : "shop-title").focus();
}

export function nameUser(name: string): void {
  say(at("user-name"), name);
  say(at("shop-title"), `The shop of ${name}`);
  document.title = `${name} · Griot Market`;
}

export function onSwitchUser(act: () => void): void {
  at("switch-user").addEventListener("click", act);
}

export function onSignInAgain(act: () => void): void {
  at("notice-action").addEventListener("click", act);
}
