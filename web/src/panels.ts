// The panels of the shop. Rows keep their elements as long as they are shown.

import { at, flash, make, mark, milliseconds, money, part, say, time } from "./dom";
import type { ShownNotification, ShownOrder, Store } from "./store";

const SHOWN_ORDERS = 9;
const SHOWN_NOTIFICATIONS = 9;
const STEPS = ["placed", "paid", "packed", "shipped", "delivered"];

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
  say(part(row, "total"), money(order.totalCents));
  say(part(row, "time"), order.changedAt === null ? "" : time(order.changedAt));
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
  say(part(row, "time"), time(notification.at));
  return news;
}

export function drawPanels(store: Store): void {
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
  say(balance, money(wallet.balanceCents));
  if (news) flash(balance);
  if (wallet.change === null) return;
  const { cents, at: when } = wallet.change;
  mark(at("wallet-change"), "way", cents > 0 ? "in" : "out");
  say(at("wallet-change"), `${cents > 0 ? "+" : "−"}${money(Math.abs(cents))} at ${time(when)}`);
}

function drawProduct({ product }: Store): void {
  if (product === null) return;
  const card = at("product");
  const news = card.dataset.priceCents !== undefined && card.dataset.priceCents !== String(product.priceCents);
  mark(card, "product", product.id);
  mark(card, "priceCents", product.priceCents);
  mark(card, "source", product.source);
  say(at("product-name"), product.name);
  say(at("price"), money(product.priceCents));
  if (news) flash(at("price"));
  at("source").hidden = false;
  say(at("source"), product.source === "cache" ? "from cache" : "from database");
  say(at("stock"), product.stock === null ? "" : product.stock > 0 ? `${product.stock} in stock.` : "Sold out.");
}

/** How long the refetched price was on its way; it is known only when the price is on screen. */
export function drawFreshness({ productMs }: Store): void {
  mark(at("product"), "freshMs", productMs);
  say(at("fresh"), productMs === null ? "" : `On screen ${milliseconds(productMs)} after its last change.`);
}
