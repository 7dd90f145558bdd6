// docs/first-page.md, docs/centrifuge-js.md and docs/react.md: their pages in a real browser, as a newcomer opens them.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { connect } from "node:net";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { blocks } from "../node/guide.js";
import { run } from "../node/programs.js";
import { Site } from "../node/site.js";
import { launchBrowser } from "./chromium.js";
import { PATIENCE_MS, binary, within } from "./demo.js";

const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));

let browser, anonymous, folder, port;

before(async () => {
  browser = await launchBrowser();
  folder = await mkdtemp(path("node_modules/.pages-"));
  port = await freePort();
  anonymous = spawn(binary("anonymous"), ["--print-json", "--port", String(port)], { stdio: ["pipe", "pipe", "inherit"] });
  await within(2 * PATIENCE_MS, "griot to be ready", once(createInterface({ input: anonymous.stdout }), "line"));
});

after(async () => {
  await browser?.close();
  if (anonymous?.exitCode === null) {
    const ended = once(anonymous, "exit");
    anonymous.stdin.end();
    await within(PATIENCE_MS, "anonymous to end", ended);
  }
  if (folder) await rm(folder, { recursive: true });
});

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/** The blocks of a guide by name, with our port in the place of 8000. */
async function read(guide) {
  const all = await blocks(path(`../../docs/${guide}.md`));
  return Object.fromEntries(all.map(({ name, text }) => [name, text.replaceAll("localhost:8000", `localhost:${port}`)]));
}

/** A page from the disk, as a double click opens it. */
async function open(name, text) {
  await writeFile(`${folder}/${name}`, text);
  const page = await browser.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  page.errors = [];
  page.on("pageerror", (error) => page.errors.push(error.message));
  await page.goto(`file://${folder}/${name}`);
  return page;
}

test("first-page.md: an EventSource and a WebSocket show what the command publishes", async () => {
  const guide = await read("first-page");
  for (const name of ["news.html", "socket.html"]) {
    const page = await open(name, guide[name]);
    await page.waitForFunction(() => document.title === "News, live");
    await run(["bash", "-euc", guide.publish], {});
    await page.locator("#news li").getByText("hello", { exact: true }).waitFor();
    assert.deepEqual(page.errors, []);
    await page.close();
  }
});

test("centrifuge-js.md: what one page says, another shows; by WebSocket, and by http_stream where there is none", async () => {
  const guide = await read("centrifuge-js");
  assert.match(guide.install, /centrifuge@5\.8\.0/);
  await writeFile(`${folder}/centrifuge.js`, await readFile(path("node_modules/centrifuge/dist/centrifuge.js")));
  const first = await open("chat.html", guide["chat.html"]);
  const without = guide["chat.html"].replace("<script src", "<script>delete window.WebSocket;</script><script src");
  const second = await open("without.html", without);
  await first.locator("#state").getByText("connected by websocket").waitFor();
  await second.locator("#state").getByText("connected by http_stream").waitFor();
  for (const [speaker, hearer, text] of [[first, second, "hello"], [second, first, "hello yourself"]]) {
    await speaker.locator("input").fill(text);
    await speaker.keyboard.press("Enter");
    await hearer.locator("#said li").getByText(text, { exact: true }).waitFor();
    assert.deepEqual(speaker.errors, []);
  }
});

/** What react.md says is the reader's: a page that uses both hooks. */
const MAIN = `
  import { useState } from "react";
  import { createRoot } from "react-dom/client";
  import { Prices } from "./prices.jsx";
  import { usePersonal } from "./use-personal.js";
  function Orders() {
    const [orders, setOrders] = useState([]);
    usePersonal("orders", (order) => setOrders((all) => [...all, order]));
    return <p id="orders">{orders.map(({ id }) => id).join(" ")}</p>;
  }
  function Page() {
    const [open, setOpen] = useState(true);
    return <><Orders /><button onClick={() => setOpen(!open)}>prices</button>{open && <><Prices /><Prices /></>}</>;
  }
  createRoot(document.querySelector("main")).render(<Page />);
`;

test("react.md: components show what is published, subscribe once, and unsubscribe when they go", async () => {
  const guide = await read("react");
  for (const [name, text] of Object.entries({ ...guide, "main.jsx": MAIN })) await writeFile(`${folder}/${name}`, text);
  const { outputFiles } = await build({ entryPoints: [`${folder}/main.jsx`], bundle: true, write: false, jsx: "automatic", define: { "process.env.NODE_ENV": '"production"' } });
  let site;
  const shop = createServer((request, response) => {
    const answers = { "/": "<main></main><script src=main.js></script>", "/main.js": outputFiles[0].text, "/griot-token": () => site.token("42"), "/prices": '{"1": 100}' };
    const answer = answers[request.url];
    response.writeHead(answer ? 200 : 404, { "content-type": request.url === "/" ? "text/html" : "text/javascript" });
    response.end(typeof answer === "function" ? answer() : answer);
  }).listen(0, "127.0.0.1");
  await once(shop, "listening");
  const origin = `http://127.0.0.1:${shop.address().port}`;
  const topics = '[topics.orders]\n[topics.products]\npersonal = "off"\nbroadcast = true\npresence = true\n';
  site = await Site.start({ topics, bridges: [`allowed_origins = ["${origin}"]\n`] });
  // The shop's proxy passes WebSockets on as they are.
  shop.on("upgrade", (request, socket, head) => {
    const { hostname, port } = new URL(site.bridges[0].http);
    const lines = request.rawHeaders.reduce((text, word, n) => text + word + (n % 2 ? "\r\n" : ": "), "");
    const bridge = connect(port, hostname, () => bridge.write(`GET ${request.url} HTTP/1.1\r\n${lines}\r\n`) && bridge.write(head));
    socket.pipe(bridge).pipe(socket);
    socket.on("error", () => bridge.destroy());
    bridge.on("error", () => socket.destroy());
  });
  try {
    const page = await browser.newPage();
    page.setDefaultTimeout(PATIENCE_MS);
    const errors = [];
    page.on("pageerror", (error) => errors.push(error.message));
    await page.goto(origin);
    await page.locator('ul[aria-busy="false"]').nth(1).getByText("1: 1").waitFor();
    await site.publish("products", { id: 7, price_cents: 550 });
    await page.locator("ul").nth(1).getByText("7: 5.5").waitFor();
    await page.locator("ul").nth(0).getByText("7: 5.5").waitFor();
    await site.publish("orders:#42", { id: 12 });
    await page.locator("#orders").getByText("12").waitFor();
    const there = async () => (await site.api("presence_stats", { channel: "products" })).num_clients;
    assert.equal(await there(), 1);
    await page.locator("button").click();
    await within(PATIENCE_MS, "the page to unsubscribe", (async () => {
      while ((await there()) !== 0) await new Promise((resolve) => setTimeout(resolve, 10));
    })());
    await page.locator("button").click();
    await page.locator('ul[aria-busy="false"]').nth(1).getByText("1: 1").waitFor();
    assert.deepEqual(errors, []);
    await page.close();
  } finally {
    shop.close();
    shop.closeAllConnections();
    await site.stop();
  }
});
