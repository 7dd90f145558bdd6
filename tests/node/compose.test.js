// docker/compose.yaml: its commands and environments started here without Docker, on a Redis of its command and the
// demo's PostgreSQL, until its own healthchecks pass and a publication has gone the whole way.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { existsSync } from "node:fs";
import { chmod, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { Centrifuge } from "centrifuge";
import pg from "pg";
import WebSocket from "ws";
import { PATIENCE_MS, binary, startDemo, within } from "../browser/demo.js";
import { read, secretsCommand, variables } from "./compose.js";
import { Program, run } from "./programs.js";

const DOCKER = fileURLToPath(new URL("../../docker/", import.meta.url));
const FILE = join(DOCKER, "compose.yaml");
const WORKERS = ["invalidation-worker", "publisher", "subscriber-bridge"];
/** The default of every worker's grace_seconds, which the file does not change. */
const GRACE_SECONDS = 10;

let folder, secrets, file, demo, redisPort, database;
const running = {};

before(async () => {
  folder = await mkdtemp(join(tmpdir(), "griot-compose-"));
  await run(["sh", "-euc", await secretsCommand(FILE)], {}, { cwd: folder });
  secrets = variables(await readFile(join(folder, ".env"), "utf8"));
  file = await read(FILE, secrets);
  demo = await startDemo();
  redisPort = await freePort();
  await standIns();
});

after(async () => {
  await database?.end();
  await Promise.all(Object.values(running).map((program) => program.stop()));
  await demo?.stop();
  await rm(folder, { recursive: true });
});

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/** Programs that the containers find under these names, led to this test's ports and folder. */
async function standIns() {
  const { port } = new URL(demo.facts.database);
  const scripts = {
    "redis-server": `exec "${await which("redis-server")}" "$@" --port ${redisPort} --bind 127.0.0.1 --dir "${folder}"`,
    "redis-cli": `exec "${await which("redis-cli")}" -p ${redisPort} "$@"`,
    pg_isready: `exec "${await which("pg_isready")}" --port ${port} "$@"`,
    ...Object.fromEntries(WORKERS.map((name) => [name, `exec "${binary(name)}" "$@"`])),
  };
  for (const [name, script] of Object.entries(scripts)) {
    await writeFile(join(folder, name), `#!/bin/sh\n${script}\n`);
    await chmod(join(folder, name), 0o755);
  }
}

async function which(program) {
  return run(["sh", "-c", `command -v ${program}`], {});
}

/** What is inside the containers' network or file system, outside of them. */
function outside(name, text) {
  const [mounts] = (file.services[name].volumes ?? []).map((volume) => volume.split(":")).filter(([source]) => source.startsWith("."));
  const { port } = new URL(demo.facts.database);
  const moved = text
    .replace("redis:6379", `127.0.0.1:${redisPort}`)
    .replace("postgres:5432", `127.0.0.1:${port}`)
    .replace(/^0\.0\.0\.0:\d+$/, "127.0.0.1:0");
  return mounts ? moved.replace(mounts[1], join(DOCKER, mounts[0])) : moved;
}

function launch(name, command = file.services[name].command) {
  const env = Object.entries(file.services[name].environment).map(([key, value]) => [key, outside(name, String(value))]);
  const moved = command.map((word) => outside(name, word));
  return new Program(name, moved, { ...Object.fromEntries(env), PATH: `${folder}:${process.env.PATH}` });
}

/** Its own healthcheck, until it passes; where a worker listens here, it has said. */
async function untilHealthy(name) {
  const { test } = file.services[name].healthcheck;
  const command = test[0] === "CMD-SHELL" ? ["sh", "-c", test[1]] : test.slice(1);
  const { operators } = running[name].addresses ?? {};
  const moved = command.map((word) => (operators ? word.replace(/(\/dev\/tcp\/127\.0\.0\.1\/)\d+/, `$1${operators.split(":")[1]}`) : word));
  const pass = async () => {
    for (;;) {
      if (running[name].how !== undefined) throw new Error(`${name} ended (${running[name].how})\n${running[name].complained.join("\n")}`);
      if ((await launch(name, moved).ended) === 0) return;
    }
  };
  await within(PATIENCE_MS, `${name} to be healthy\n${running[name].complained.join("\n")}`, pass());
}

function listening(program) {
  const entries = program.complained.filter((line) => line.startsWith("{")).map((line) => JSON.parse(line));
  return entries.find(({ fields }) => fields.operators)?.fields;
}

test("the head's command makes secrets that only their owner reads, and none is in the file", async () => {
  assert.equal((await stat(join(folder, ".env"))).mode & 0o077, 0);
  assert.equal(new Set(Object.values(secrets)).size, 4);
  assert.ok(Object.values(secrets).every((secret) => /^[0-9a-f]{64}$/.test(secret)));
  await assert.rejects(read(FILE, {}), /is missing, see the top of compose.yaml/);
  // Compose passes a command on as an argument, and arguments can be seen by everybody on the machine.
  for (const { command, healthcheck } of Object.values(file.services)) {
    const words = JSON.stringify([command, healthcheck?.test]);
    for (const secret of Object.values(secrets)) assert.ok(!words.includes(secret));
  }
  const ignored = await readFile(new URL("../../.gitignore", import.meta.url), "utf8");
  assert.match(ignored, /^\.env$/m);
});

test("every service has limits, a policy, and time to end; only two ports are published, on loopback", () => {
  const published = Object.values(file.services).flatMap(({ ports }) => ports ?? []);
  assert.deepEqual(published, ["127.0.0.1:8001:8001", "127.0.0.1:8000:8000"]);
  for (const [name, service] of Object.entries(file.services)) {
    assert.ok(service.deploy.resources.limits.memory, name);
    assert.ok(Number.parseInt(service.stop_grace_period) > GRACE_SECONDS, name);
    assert.ok(service.logging.options["max-size"], name);
    assert.equal(service.restart, name === "prepare" ? "no" : "unless-stopped", name);
    if (name !== "prepare") assert.ok(service.healthcheck.test.length > 0, name);
    for (const needed of Object.keys(service.depends_on ?? {})) assert.ok(file.services[needed], `${name} depends on ${needed}`);
  }
});

test("ports in one place are those in the other", () => {
  for (const name of WORKERS) {
    const { environment, healthcheck, ports } = file.services[name];
    const port = (field) => /:(\d+)$/.exec(Object.entries(environment).find(([key]) => key.endsWith(field))?.[1])?.[1];
    assert.equal(/\/dev\/tcp\/127\.0\.0\.1\/(\d+)/.exec(healthcheck.test.join(" "))[1], port("__ADMIN_LISTEN"), name);
    if (ports) assert.equal(/:(\d+)$/.exec(ports[0])[1], port("__LISTEN"), name);
  }
});

test("the image is built from a file that is there and holds every program that is started", async () => {
  for (const name of [...WORKERS, "prepare"]) {
    const { build, command } = file.services[name];
    const dockerfile = await readFile(join(DOCKER, build.context, build.dockerfile), "utf8");
    for (const program of WORKERS.filter((program) => command.join(" ").includes(program))) {
      assert.ok(dockerfile.includes(`/griot/target/release/${program}`), `${program} is in the image`);
    }
  }
  assert.ok(existsSync(join(DOCKER, "rules.toml")));
});

test("with the environment of the file, everything gets ready by its own healthcheck", async () => {
  running.redis = launch("redis");
  await untilHealthy("redis");
  const { POSTGRES_USER: user, POSTGRES_PASSWORD: password, POSTGRES_DB: name } = file.services.postgres.environment;
  const owner = new pg.Client({ connectionString: demo.facts.database });
  await owner.connect();
  // As the image does it. The demo's server asks for no password, so a wrong one would not be noticed here.
  await owner.query(`create role ${user} superuser login password '${password}'`);
  await owner.query(`create database ${name} owner ${user}`);
  await owner.end();
  running.postgres = { complained: [] };
  await untilHealthy("postgres");
  delete running.postgres;

  const prepare = launch("prepare");
  assert.equal(await within(PATIENCE_MS, "prepare to end", prepare.ended), 0, prepare.complained.join("\n"));
  assert.deepEqual(prepare.said, ["the schema griot is up to date"]);
  const again = launch("prepare");
  assert.equal(await within(PATIENCE_MS, "prepare to end again", again.ended), 0, again.complained.join("\n"));
  for (const worker of WORKERS) {
    running[worker] = launch(worker);
    running[worker].addresses = await running[worker].until("it listens", listening);
    await untilHealthy(worker);
  }
});

test("a healthcheck fails while a worker is not ready", async () => {
  // The short timeout is for its end, which waits for what was asked of Redis.
  const bridge = launch("subscriber-bridge", ["env", "REDIS_PASSWORD=wrong", "GRIOT_REDIS__COMMAND_TIMEOUT_MS=200", "subscriber-bridge"]);
  const { operators } = await bridge.until("it listens", listening);
  const [, ...command] = file.services["subscriber-bridge"].healthcheck.test;
  const moved = command.map((word) => word.replace(/(127\.0\.0\.1\/)\d+/, `$1${operators.split(":")[1]}`));
  assert.notEqual(await launch("subscriber-bridge", moved).ended, 0);
  await bridge.stop();
});

test("a publication of a transaction goes the whole way, and so does one of the API", async () => {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const signed = `${part({ alg: "HS256" })}.${part({ sub: "42", exp: Math.floor(Date.now() / 1000) + 60 })}`;
  const token = `${signed}.${createHmac("sha256", secrets.GRIOT_TOKEN_SECRET).update(signed).digest("base64url")}`;
  class FromThePage extends WebSocket {
    constructor(address, protocols = []) {
      super(address, protocols, { origin: "http://localhost:3000" });
    }
  }
  const address = `ws://${running["subscriber-bridge"].addresses.browsers}/connection/websocket`;
  const client = new Centrifuge(address, { token, websocket: FromThePage });
  const arrived = [];
  const both = new Promise((resolve) => client.on("publication", ({ data }) => arrived.push(data.by) === 2 && resolve()));
  client.connect();
  await client.ready(PATIENCE_MS);
  const url = new URL(outside("invalidation-worker", file.services["invalidation-worker"].environment.DATABASE_URL));
  database = new pg.Client({ connectionString: url.href });
  await database.connect();
  await database.query(`select griot.publish('orders:#42', '{"by": "transaction"}')`);
  const answer = await fetch(`http://${running.publisher.addresses.backends}/api/publish`, {
    method: "POST",
    headers: { "X-API-Key": secrets.GRIOT_API_KEY },
    body: JSON.stringify({ channel: "orders:#42", data: { by: "API" } }),
  });
  assert.equal((await answer.json()).error, undefined);
  await within(PATIENCE_MS, "both publications", both).finally(() => client.disconnect());
  assert.deepEqual(arrived.sort(), ["API", "transaction"]);
});

test("asked to stop, each ends by itself and well", async () => {
  for (const [name, program] of Object.entries(running)) {
    await program.stop();
    assert.equal(program.how, 0, `${name}\n${program.complained.join("\n")}`);
  }
});
