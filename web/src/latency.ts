// How long the last publications were on their way from the shop to the screen. It reads no clock.

import type { Origin, Path } from "./contract";

export interface Sample {
  readonly path: Path;
  readonly ms: number;
  /** The connection was away since the sample before. */
  readonly afterGap: boolean;
}

/** As many as the plot shows: figures and plot speak of the same publications. */
export const SHOWN_SAMPLES = 60;

export class Latency {
  readonly samples: Sample[] = [];
  #waiting: Origin[] = [];
  #gap = false;

  /** A publication will be on screen with the next drawing. */
  expect(origin: Origin): void {
    this.#waiting.push(origin);
  }

  /** What was expected will not be drawn at once, because the page is hidden. */
  forget(): void {
    this.#waiting = [];
  }

  gap(): void {
    this.#gap = this.samples.length > 0;
  }

  /** What was expected is on screen now; true if there is a new sample. */
  measure(now: number): boolean {
    const before = this.samples.at(-1);
    for (const { path, atUs } of this.#waiting) {
      const ms = now - atUs / 1000;
      // Below zero the clocks of shop and browser differ, and the figure would mean nothing.
      if (ms < 0) continue;
      this.samples.push({ path, ms, afterGap: this.#gap });
      this.#gap = false;
      if (this.samples.length > SHOWN_SAMPLES) this.samples.shift();
    }
    this.#waiting = [];
    return this.samples.at(-1) !== before;
  }

  /** The nearest rank: of fewer than 100 samples, the 99th percentile is the longest. */
  percentile(share: number, path?: Path): number | null {
    const chosen = path === undefined ? this.samples : this.samples.filter((sample) => sample.path === path);
    const sorted = chosen.map(({ ms }) => ms).sort((a, b) => a - b);
    return sorted[Math.ceil((share / 100) * sorted.length) - 1] ?? null;
  }
}
