// Publish → screen as a strip of threads, one per publication: its height is the time, its colour the path.

import { PATHS } from "./contract";
import type { Path } from "./contract";
import { at, make, mark, milliseconds, say } from "./dom";
import { SHOWN_SAMPLES } from "./latency";
import type { Latency, Sample } from "./latency";
import type { Store } from "./store";

const NAMES: Record<Path, string> = { row: "Row change", sql: "SQL", http: "HTTP API", raw: "Raw PUBLISH" };
const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 100;
const GAP = 0.28;
const LONGEST_LINE_MS = 100_000;

/** Powers of ten, so that 8 ms and 400 ms both can be read. The strip ends at the first one above all samples. */
function scaleOf(samples: readonly Sample[]): { lines: number[]; share: (ms: number) => number } {
  const longest = Math.max(100, ...samples.map(({ ms }) => ms));
  const lines = [1];
  for (let line = 10; line / 10 < longest && line <= LONGEST_LINE_MS; line *= 10) lines.push(line);
  const top = Math.log10(lines.at(-1) ?? 1);
  // Nothing is shown as nothing: the clock of a browser has whole milliseconds.
  return { lines, share: (ms) => Math.min(1, Math.max(0.03, Math.log10(Math.max(1, ms)) / top)) };
}

function shape(name: string, attributes: Record<string, string | number>): SVGElement {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  return made;
}

function drawStrip(latency: Latency): void {
  const { samples } = latency;
  const { lines, share } = scaleOf(samples);
  const y = (ms: number): number => HEIGHT * (1 - share(ms));
  const top = Math.log10(lines.at(-1) ?? 1);
  const grid = lines.map((line) => {
    const height = HEIGHT * (1 - Math.log10(line) / top);
    return shape("line", { class: "grid", x1: 0, x2: SHOWN_SAMPLES, y1: height, y2: height });
  });
  const first = SHOWN_SAMPLES - samples.length;
  const threads = samples.flatMap(({ path, ms, afterGap }, index) => {
    const x = first + index;
    const thread = shape("rect", {
      class: `thread by-${path}`,
      x: x + GAP / 2,
      y: y(ms),
      width: 1 - GAP,
      height: HEIGHT - y(ms),
    });
    return afterGap ? [shape("line", { class: "gap", x1: x, x2: x, y1: 0, y2: HEIGHT }), thread] : [thread];
  });
  const median = latency.percentile(50);
  const middle = median === null ? [] : [shape("line", { class: "median", x1: 0, x2: SHOWN_SAMPLES, y1: y(median), y2: y(median) })];
  at<HTMLElement>("strip").replaceChildren(...grid, ...threads, ...middle);
  drawScale(lines, top);
}

/** The strip is stretched, which its labels must not be. */
function drawScale(lines: readonly number[], top: number): void {
  const labels = at("scale");
  const wanted = lines.join();
  if (labels.dataset.lines === wanted) return;
  mark(labels, "lines", wanted);
  labels.replaceChildren(
    ...lines.map((line) => {
      const label = make("span", "", line < 1000 ? `${line} ms` : `${line / 1000} s`);
      label.style.bottom = `${(100 * Math.log10(line)) / top}%`;
      return label;
    }),
  );
}

function drawPaths(latency: Latency): void {
  const list = at("paths");
  if (list.childElementCount === 0) {
    list.replaceChildren(
      ...PATHS.map((path) => {
        const entry = make("div", `path by-${path}`);
        entry.dataset.path = path;
        entry.append(make("dt", "", NAMES[path]), make("dd", "", "–"));
        return entry;
      }),
    );
  }
  for (const entry of list.children as HTMLCollectionOf<HTMLElement>) {
    const path = entry.dataset.path as Path;
    mark(entry, "samples", latency.samples.filter((sample) => sample.path === path).length);
    if (entry.lastElementChild !== null) say(entry.lastElementChild as HTMLElement, milliseconds(latency.percentile(50, path)));
  }
}

/** The samples that were drawn last: a strip is drawn again only when there is a new one. */
let drawn: Sample | null | undefined;

export function drawPulse({ latency, received, repeated }: Store): void {
  const [p50, p99, last] = [latency.percentile(50), latency.percentile(99), latency.samples.at(-1) ?? null];
  const pulse = at("pulse");
  mark(pulse, "p50Ms", p50);
  mark(pulse, "p99Ms", p99);
  mark(pulse, "samples", latency.samples.length);
  mark(pulse, "received", received);
  mark(pulse, "repeated", repeated);
  say(at("received"), received.toLocaleString("en-GB"));
  if (drawn === last) return;
  drawn = last;
  say(at("p50"), milliseconds(p50));
  say(at("p99"), milliseconds(p99));
  say(at("last"), milliseconds(last?.ms ?? null));
  const many = latency.samples.length === 1 ? "publication" : `${latency.samples.length} publications`;
  at("strip").setAttribute(
    "aria-label",
    last === null
      ? "Publish to screen: nothing measured yet"
      : `Publish to screen, last ${many}: median ${milliseconds(p50)}, longest ${milliseconds(p99)}`,
  );
  drawPaths(latency);
  drawStrip(latency);
}
