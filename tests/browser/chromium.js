// The browser that the tests use, and the pages that it needs.

import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const screenshots = fileURLToPath(new URL("screenshots/", import.meta.url));

/** A picture of the whole page as it is once every highlight and fading has ended. */
export async function picture(page, name) {
  await mkdir(screenshots, { recursive: true });
  await page.screenshot({ path: `${screenshots}${name}.png`, fullPage: true, animations: "disabled" });
}

export async function launchBrowser() {
  if (!existsSync(new URL("../../web/dist/index.html", import.meta.url))) {
    throw new Error("web/dist is missing: run `npm ci && npm run build` in web/ first");
  }
  return chromium.launch({
    executablePath: chromiumPath(),
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--disable-dev-shm-usage",
    ],
  });
}

function chromiumPath() {
  if (process.env.CHROMIUM) return process.env.CHROMIUM;
  const found = spawnSync("sh", ["-c", "command -v chromium || command -v chromium-browser || command -v google-chrome"], { encoding: "utf8" });
  const path = found.stdout.trim();
  if (path === "") throw new Error("no Chromium found: install the package chromium, or name the program in CHROMIUM");
  return path;
}
