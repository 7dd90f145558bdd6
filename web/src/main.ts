// The page: who is signed in stands in the address (`#user=42`), and everything follows from it.

import { fetchUsers } from "./contract";
import type { User } from "./contract";
import { onNoticeAction } from "./notice";
import { open, retrying } from "./session";
import type { Session } from "./session";
import { Store } from "./store";
import { draw, drawFigures, drawShop, drawSignIn, focusTitle, nameUser, onSkip, onSwitchUser } from "./view";

let users: readonly User[] = [];
let store: Store | null = null;
let session: Session | null = null;
let drawing = false;

function chosenUser(): string | null {
  return new URLSearchParams(location.hash.slice(1)).get("user");
}

function nameOf(user: string): string {
  return users.find(({ id }) => id === user)?.name ?? `User ${user}`;
}

function changed(): void {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    const drawn = store;
    if (drawn === null) return;
    draw(drawn);
    // The next task runs once the frame has been painted.
    setTimeout(() => {
      if (drawn === store && drawn.measure(Date.now())) drawFigures(drawn);
    });
  });
}

function show(): void {
  session?.close();
  session = null;
  store = null;
  const user = chosenUser();
  if (user === null) {
    drawSignIn(users, users.length === 0 ? "Asking the shop…" : "");
    return;
  }
  drawShop(user, nameOf(user));
  store = new Store(user, changed);
  session = open(store);
  changed();
}

function usersCame(came: readonly User[]): void {
  users = came;
  const user = chosenUser();
  if (user === null) drawSignIn(users, users.length === 0 ? "The shop knows no customers yet." : "");
  else nameUser(nameOf(user));
}

function usersFailed(): void {
  if (chosenUser() === null) drawSignIn([], "The shop does not answer. Trying again…");
}

addEventListener("hashchange", () => {
  show();
  focusTitle();
});
onSwitchUser(() => (location.hash = ""));
onNoticeAction((action) => {
  if (action === "try-now") {
    session?.tryNow();
  } else {
    show();
    focusTitle();
  }
});
onSkip();
addEventListener("visibilitychange", () => {
  if (document.hidden) store?.hide();
});
show();
// Moves the countdown while there is no connection, and takes down a notice whose time is over.
setInterval(() => {
  if (store !== null && (store.connection.phase === "lost" || store.recovery !== null)) changed();
}, 500);
retrying(new AbortController().signal, usersFailed, () => fetchUsers(new AbortController().signal)).then(usersCame, usersFailed);
