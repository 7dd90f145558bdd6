// docker/compose.yaml without Docker: what Compose would make of it, as far as these tests need.

import { readFile } from "node:fs/promises";
import { parse } from "yaml";

/** The file with its variables replaced, and what it says about secrets. @param {Record<string, string>} env as of .env */
export async function read(file, env) {
  const text = await readFile(file, "utf8");
  return interpolate(parse(text, { merge: true }), env);
}

/** The command that the file's head gives for making `.env`. */
export async function secretsCommand(file) {
  const command = /^# {5}(umask .+ > \.env)$/m.exec(await readFile(file, "utf8"))?.[1];
  if (!command) throw new Error(`the head of ${file} does not say how to make .env`);
  return command;
}

/** `KEY=value` lines. */
export function variables(text) {
  return Object.fromEntries(text.trim().split("\n").map((line) => /^(\w+)=(.*)$/.exec(line).slice(1)));
}

/** https://docs.docker.com/reference/compose-file/interpolation/: the forms that the file uses. */
function interpolate(value, env) {
  if (typeof value === "string") {
    return value.replace(/\$(?:\$|\{(\w+)(?:(:[?-])([^}]*))?\})/g, (whole, name, how, word) => {
      if (whole === "$$") return "$";
      if (env[name]) return env[name];
      if (how === ":-") return word;
      throw new Error(`${name} ${word ?? "is used before it is asked for, without a default"}`);
    });
  }
  if (Array.isArray(value)) return value.map((member) => interpolate(member, env));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, member]) => [key, interpolate(member, env)]));
}
