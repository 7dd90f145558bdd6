// The page as a whole: who is asked to sign in, or whose shop is shown.

import type { User } from "./contract";
import { at, make, mark, say } from "./dom";
import { drawNotice } from "./notice";
import { drawFreshness, drawPanels } from "./panels";
import { drawPulse } from "./pulse";
import type { Store } from "./store";

export function draw(store: Store): void {
  drawNotice(store);
  drawPanels(store);
  drawFigures(store);
}

/** What is known only once the rest has been painted. */
export function drawFigures(store: Store): void {
  drawPulse(store);
  drawFreshness(store);
}

export function drawSignIn(users: readonly User[], trouble: string): void {
  at("shop").hidden = true;
  at("who").hidden = true;
  at("sign-in").hidden = false;
  mark(document.documentElement, "phase", null);
  document.title = "Griot Market";
  say(at("users-trouble"), trouble);
  at("users").replaceChildren(
    ...users.map((user, index) => {
      const link = make("a", "user") as HTMLAnchorElement;
      link.href = `#${new URLSearchParams({ user: user.id })}`;
      link.dataset.user = user.id;
      const initials = user.name.split(/\s+/).map((word) => word.charAt(0)).join("").slice(0, 2);
      const face = make("span", "face", initials);
      face.dataset.thread = String(index % 4);
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
  for (const id of ["shop", "pulse", "balance", "product", "wallet-change"]) {
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

/** The address says who is signed in, so the link must not go by it. */
export function onSkip(): void {
  at("skip").addEventListener("click", (event) => {
    event.preventDefault();
    focusTitle();
  });
}
