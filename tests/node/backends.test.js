// docs/signing-in.md: each backend of it signs a user in, and the page of it hears what is that user's.

import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { binary } from "../browser/demo.js";
import { blocks } from "./guide.js";
import { Program } from "./programs.js";
import { Site } from "./site.js";
import { eventually } from "./ways.js";

const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));
const ORIGIN = "https://shop.example"; // the guide's allowed_origins

let site, folder, guide;
const started = [];

function block(name) {
  return guide.find((block) => block.name === name).text;
}

before(async () => {
  guide = await blocks(path("../../docs/signing-in.md"));
  folder = await mkdtemp(path("node_modules/.signing-in-"));
  for (const { name, text } of guide) await writeFile(`${folder}/${name}`, text);
  const settings = block("griot.toml").split("\n").filter((line) => line.startsWith("allowed_origins"));
  site = await Site.start({ bridges: settings });
});

after(async () => {
  await Promise.all(started.map((program) => program.stop()));
  await site?.stop();
  if (folder) await rm(folder, { recursive: true });
});

function start(...program) {
  started.push(new Program(...program));
  return started.at(-1);
}

let port = 20_000 + (process.pid % 10_000);
const BACKENDS = {
  Node: () => [process.execPath, `${folder}/token.mjs`],
  Python: () => ["python3", `${folder}/token_server.py`],
  Rust: () => [binary("signing-in")],
};

test("the Rust example is the one that is built", async () => {
  const built = await readFile(path("../../docs/examples/signing_in.rs"), "utf8");
  assert.equal(built.replace(/^\/\/!.*\n\n/, ""), block("signing_in.rs"));
});

for (const [language, command] of Object.entries(BACKENDS)) {
  test(`${language}: the page of a user is handed what is that user's; nobody is let in without a session`, async () => {
    port += 1;
    start(language, command(), { GRIOT_TOKEN_SECRET: site.secret, PORT: String(port) });
    const backend = `http://127.0.0.1:${port}`;
    await eventually(`the ${language} backend to answer`, () => fetch(`${backend}/griot-token`).catch(() => undefined));
    const routes = { "/griot-token": backend, "/connection/websocket": site.bridges[0].http.replace("http", "ws") };
    const open = (cookie) =>
      start(`a page of ${language}`, [process.execPath, path("page.js"), `${folder}/page.mjs`], { ORIGIN, COOKIE: cookie, ROUTES: JSON.stringify(routes) });
    const page = open(`user=awa-${language}`);
    await page.until("it is connected", () => page.said.find(({ live }) => live));
    await site.publish(`orders:#awa-${language}`, { total_cents: 1100 });
    const heard = await page.until("its publication", () => page.said.find(({ data }) => data));
    assert.deepEqual(heard, { channel: `orders:#awa-${language}`, data: { total_cents: 1100 } });
    const nobody = open("");
    const { disconnected } = await nobody.until("it to be refused", () => nobody.said.find(({ disconnected }) => disconnected));
    assert.equal(disconnected.code, 1);
  });
}
