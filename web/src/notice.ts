// The state of the connection and what a time away has cost, in words.

import { at, duration, mark, say, time } from "./dom";
import type { Recovery } from "./recovery";
import { split } from "./store";
import type { Connection, Store } from "./store";

export type Action = "try-now" | "sign-in";

interface Notice {
  readonly tone: "wait" | "good" | "warn" | "bad";
  readonly title: string;
  readonly text: string;
  /** Changes every second, so it is for the eye only. */
  readonly count?: string;
  readonly action?: Action;
}

const RECOVERY_SHOWN_MS = 20_000;
const list = new Intl.ListFormat("en-GB");
const PHASES = { connecting: "Connecting", live: "Live", lost: "Lost", stopped: "Stopped" } as const;
const ACTIONS = { "try-now": "Try now", "sign-in": "Sign in again" } as const;

function lost({ lastLive, attempt, nextBy }: Connection & { phase: "lost" }): Notice {
  const left = nextBy - Date.now();
  const seen = lastLive === null ? "It did not connect yet." : `You see the shop as it was at ${time(lastLive)}.`;
  if (!navigator.onLine) {
    return { tone: "warn", title: "This device is offline.", text: `${seen} The page connects as soon as the network is back.` };
  }
  return {
    tone: "warn",
    title: lastLive === null ? "The shop does not answer." : "Connection lost.",
    text: `${seen} The page tries again by itself.`,
    count: left > 0 ? `Try ${attempt} within ${duration(left)}` : `Try ${attempt} is under way`,
    action: "try-now",
  };
}

function updates(count: number): string {
  return `${count} missed update${count === 1 ? "" : "s"} caught up`;
}

function outcome(recovery: Recovery): Notice {
  const { since, at: when, reconnected, caughtUp, lost: channels } = recovery;
  const back = reconnected ? `Back after ${duration(when - since)}` : "A gap on one channel";
  const topics = [...new Set([...channels].map((channel) => split(channel)[0]))];
  // The shop keeps orders, wallet and price; what it only said is gone.
  const unsaid = topics.includes("notifications") ? " Notifications sent meanwhile may be missing." : "";
  switch (recovery.outcome) {
    case "waiting":
      return { tone: "wait", title: `${back}.`, text: "Catching up…" };
    case "recovered":
      return { tone: "good", title: caughtUp > 0 ? `${back}: ${updates(caughtUp)}.` : `${back}: nothing was missed.`, text: "" };
    case "reloading":
      return { tone: "wait", title: `${back}.`, text: "Some updates could not be caught up; reloading from the shop…" };
    case "reloaded":
      return {
        tone: "warn",
        title: `${back}: reloaded from the shop.`,
        text: `Some updates of ${list.format(topics)} could not be caught up, so the page has read the present state.${unsaid}`,
      };
  }
}

function noticeOf({ connection, recovery, troubles }: Store): Notice | null {
  if (connection.phase === "lost") return lost(connection);
  if (connection.phase === "stopped") {
    const text = `The shop ended this session: ${connection.reason}. Nothing on this page moves until you sign in again.`;
    return { tone: "bad", title: "Stopped.", text, action: "sign-in" };
  }
  const [trouble] = troubles.values();
  if (trouble !== undefined) return { tone: "warn", title: "Not everything could be loaded.", text: trouble };
  return recovery === null || Date.now() - recovery.at > RECOVERY_SHOWN_MS ? null : outcome(recovery);
}

export function drawNotice(store: Store): void {
  const { phase } = store.connection;
  const known = store.recovery?.outcome;
  const shop = at("shop");
  mark(shop, "phase", phase);
  mark(shop, "recovery", known ?? null);
  mark(shop, "caughtUp", store.recovery?.caughtUp ?? null);
  mark(shop, "loaded", String(store.loaded));
  mark(document.documentElement, "phase", phase);
  mark(at("phase"), "phase", phase);
  say(at("phase"), PHASES[phase]);

  const notice = noticeOf(store);
  mark(at("notice"), "tone", notice?.tone ?? null);
  say(at("notice-title"), notice?.title ?? "");
  say(at("notice-text"), notice?.text ?? "");
  say(at("notice-count"), notice?.count ?? "");
  drawAction(notice?.action ?? null);
}

function drawAction(action: Action | null): void {
  const button = at("notice-action");
  const hadFocus = document.activeElement === button;
  button.hidden = action === null;
  mark(button, "action", action);
  say(button, action === null ? "" : ACTIONS[action]);
  // A button that goes must not take the keyboard's place with it.
  if (hadFocus && action === null) at("shop-title").focus();
}

export function onNoticeAction(act: (action: Action) => void): void {
  const button = at("notice-action");
  button.addEventListener("click", () => act(button.dataset.action as Action));
}
