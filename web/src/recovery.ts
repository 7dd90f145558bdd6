// What became of the publications of a time away. Each channel answers for itself when it is subscribed again.

/** One time away and what it cost. It changes only through its methods and reads no clock. */
export class Recovery {
  readonly since: number;
  readonly at: number;
  /** False when the connection stayed and only a channel had a gap. */
  readonly reconnected: boolean;
  /** Channels whose missed publications cannot be had any more. */
  readonly lost = new Set<string>();
  /** Missed publications that were delivered afterwards. */
  caughtUp = 0;
  readonly #awaited: Set<string>;
  #reloads = 0;

  constructor(since: number, at: number, reconnected: boolean, channels: Iterable<string>) {
    this.since = since;
    this.at = at;
    this.reconnected = reconnected;
    this.#awaited = new Set(channels);
  }

  answered(channel: string, kept: boolean): void {
    this.#awaited.delete(channel);
    if (!kept) this.lost.add(channel);
  }

  reloading(): void {
    this.#reloads += 1;
  }

  reloaded(): void {
    this.#reloads -= 1;
  }

  /** Nothing is known for good before every channel has answered and what is lost has been read from the shop. */
  get outcome(): "waiting" | "recovered" | "reloading" | "reloaded" {
    if (this.lost.size > 0) return this.#awaited.size === 0 && this.#reloads === 0 ? "reloaded" : "reloading";
    return this.#awaited.size === 0 ? "recovered" : "waiting";
  }
}
