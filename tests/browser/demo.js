// The demo that the tests use, these and those of tests/node: started here, stopped here.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const root = new URL("../../", import.meta.url);

/** How long anything may take on a small machine that is also compiling. */
export const PATIENCE_MS = 30_000;
const START_MS = 120_000;

/** A program of this repository, built before. */
export function binary(name) {
  const target = process.env.CARGO_TARGET_DIR ?? fileURLToPath(new URL("target", root));
  return `${target}/debug/${name}`;
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
 * @typedef {{ storefront: string, redis: string, database: string, api: string, api_key: string, socket: string, token_secret: string, bridge_pid: number }} Facts
 * @returns {Promise<{ facts: Facts, stop: () => Promise<void> }>}
 */
export async function startDemo() {
  const program = process.env.GRIOT_DEMO ?? binary("demo");
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
