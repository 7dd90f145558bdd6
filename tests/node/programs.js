// Programs that the tests start, each with what it has said so far. They end with the test that started them.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { PATIENCE_MS, within } from "../browser/demo.js";

export class Program {
  /** Lines of standard output; those that are JSON objects come parsed. */
  said = [];
  /** Lines of standard error. */
  complained = [];
  #heard = new Set();
  #child;

  /** @param {string[]} command @param {Record<string, string>} env and nothing of this process but where programs are */
  constructor(name, [program, ...args], env, options = {}) {
    this.name = name;
    const { PATH, HOME } = process.env;
    this.#child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"], env: { PATH, HOME, ...env }, ...options });
    this.ended = new Promise((resolve) => {
      this.#child.once("error", (error) => resolve(error.message));
      this.#child.once("close", (code, signal) => resolve(code ?? signal));
    }).then((how) => {
      this.how = how;
      this.#tell();
      return how;
    });
    this.#listen(this.#child.stdout, (line) => this.said.push(line.startsWith("{") ? JSON.parse(line) : line));
    this.#listen(this.#child.stderr, (line) => this.complained.push(line));
  }

  #listen(stream, take) {
    createInterface({ input: stream }).on("line", (line) => {
      take(line);
      this.#tell();
    });
  }

  #tell() {
    for (const look of this.#heard) look();
  }

  /** Waits until `find` finds something in what it says, and returns that. @template T @param {() => T} find @returns {Promise<T>} */
  async until(what, find) {
    let look;
    const found = new Promise((resolve, reject) => {
      look = () => {
        const found = find(this);
        if (found !== undefined && found !== false) resolve(found);
        else if (this.how !== undefined) reject(new Error(`${this.name} ended (${this.how}) before ${what}\n${this.complained.join("\n")}`));
      };
      this.#heard.add(look);
      look();
    });
    return within(PATIENCE_MS, `${this.name}: ${what}`, found).finally(() => this.#heard.delete(look));
  }

  async stop() {
    if (this.how === undefined) this.#child.kill("SIGTERM");
    await within(PATIENCE_MS, `${this.name} to end`, this.ended).catch(async (error) => {
      this.#child.kill("SIGKILL");
      await once(this.#child, "close");
      throw error;
    });
  }
}

/** Runs to its end, which must be a good one; its standard output. */
export async function run(command, env, options) {
  const program = new Program(command.join(" "), command, env, options);
  const how = await within(PATIENCE_MS, `${program.name} to end`, program.ended);
  if (how !== 0) throw new Error(`${program.name} ended with ${how}\n${program.complained.join("\n")}`);
  return program.said.join("\n");
}

/** Asks a worker's admin address until it is ready; it says so itself, there is nothing to listen to. */
export async function untilReady(worker, admin) {
  const ask = async () => {
    for (;;) {
      if (worker.how !== undefined) throw new Error(`${worker.name} ended (${worker.how})\n${worker.complained.join("\n")}`);
      const answer = await fetch(`http://${admin}/readyz`).catch(() => undefined);
      if (answer?.ok) return;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  };
  await within(PATIENCE_MS, `${worker.name} to be ready\n${worker.complained.join("\n")}`, ask());
}
