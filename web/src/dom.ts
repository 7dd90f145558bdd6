// The few helpers by which everything is drawn: data enters as text only.

const cedi = new Intl.NumberFormat("en-GH", { style: "currency", currency: "GHS", currencyDisplay: "narrowSymbol" });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

export function money(cents: number): string {
  return cedi.format(cents / 100);
}

export function time(ms: number): string {
  return clock.format(ms);
}

export function at<E extends HTMLElement = HTMLElement>(id: string): E {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`the page has no #${id}`);
  return found as E;
}

export function make(tag: string, className: string, content = ""): HTMLElement {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = content;
  return made;
}

export function say(element: HTMLElement, content: string): void {
  if (element.textContent !== content) element.textContent = content;
}

export function mark(element: HTMLElement, name: string, value: string | number | null): void {
  if (value === null) delete element.dataset[name];
  else if (element.dataset[name] !== String(value)) element.dataset[name] = String(value);
}

/** Plays the highlight again, also while an earlier one is still fading. */
export function flash(element: HTMLElement): void {
  for (const running of element.getAnimations()) running.cancel();
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  const colour = getComputedStyle(element).getPropertyValue("--flash");
  element.animate([{ backgroundColor: colour }, { backgroundColor: "transparent" }], { duration: 1400, easing: "ease-out" });
}

export function part(row: HTMLElement, name: string): HTMLElement {
  return row.querySelector<HTMLElement>(`.${name}`) ?? row;
}

export function milliseconds(ms: number | null): string {
  if (ms === null) return "–";
  return ms < 10_000 ? `${Math.round(ms).toLocaleString("en-GB")} ms` : `${Math.round(ms / 1000)} s`;
}

/** At least a second: to the eye nothing is shorter. */
export function duration(ms: number): string {
  const seconds = Math.max(1, Math.round(ms / 1000));
  return seconds < 120 ? `${seconds} s` : `${Math.round(seconds / 60)} min`;
}
