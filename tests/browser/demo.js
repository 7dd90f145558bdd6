// The demo and the browser that the tests use: started here, stopped here.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const root = new URL("../../", import.meta.url);

/** How long anything may take on a small machine that is also compiling. */
export const PATIENCE_MS = 30_000;
const START_MS = 120_000;

const screenshots = fileURLToPath(new URL("screenshots/", import.meta.url));

/** A picture of the whole page as it is once every highlight and fading has ended. */
export async function picture(page, name) {
  await mkdir(screenshots, { recursive: true });
  await page.screenshot({ path: `${screenshots}${name}.png`, fullPage: true, animations: "disabled" });
}

/** Publishes a notification to a user by the HTTP API, as a backend would. @param {Facts} facts */
export async function notify(facts, user, text) {
  const response = await fetch(`${facts.api.replace(/\/$/, "")}/api/publish`, {
    method: "POST",
    headers: { "content-type": "application/json", "X-API-Key": facts.api_key },
    body: JSON.stringify({ channel: `notifications:#${user}`, data: { text } }),
  });
  const reply = await response.json();
  assert.equal(reply.error, undefined, JSON.stringify(reply.error));
}

/**
 * @typedef {{ storefront: string, redis: string, database: string, api: string, api_key: string, bridge_pid: number }} Facts
 * @returns {Promise<{ facts: Facts, stop: () => Promise<void> }>}
 */
export async function startDemo() {
  if (!existsSync(new URL("web/dist/index.html", root))) {
    throw new Error("web/dist is missing: run `npm ci && npm run build` in web/ first");
  }
  const target = process.env.CARGO_TARGET_DIR ?? fileURLToPath(new URL("target", root));
  const program = process.env.GRIOT_DEMO ?? `${target}/debug/demo`;
  const demo = spawn(program, ["--print-json"], { cwd: fileURLToPath(root), stdio: ["pipe", "pipe", "inherit"] });
  const ended = new Promise((resolve, reject) => {
    demo.once("error", (error) => reject(new Error(`${program} did not start: ${error.message}`)));
    demo.once("exit", (code, signal) => resolve(`code ${code}, signal ${signal}`));
  });

  demo.stdin.on("error", () => {}); // it ended first, which `ended` tells

  const lines = createInterface({ input: demo.stdout });
  const ready = (async () => {
    for await (const line of lines) {
      if (line.startsWith("{")) return JSON.parse(line);
    }
    throw new Error(`the demo ended before it was ready: ${await ended}`);
  })();
  try {
    const facts = await within(START_MS, "the demo to be ready", Promise.race([ready, ended.then(() => ready)]));
    demo.stdout.resume();
    return { facts, stop };
  } catch (error) {
    await stop();
    throw error;
  }

  /** The demo stops all that it started when its input ends. */
  async function stop() {
    if (demo.exitCode !== null || demo.signalCode !== null || demo.pid === undefined) return;
    demo.stdin.end();
    await within(PATIENCE_MS, "the demo to stop", ended).catch(async (error) => {
      demo.kill("SIGKILL");
      await once(demo, "exit");
      throw error;
    });
  }
}

export async function launchBrowser() {
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

/** @template T @param {number} ms @param {string} what @param {Promise<T>} promise @returns {Promise<T>} */
export async function within(ms, what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${ms / 1000} s in vain for ${what}`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
