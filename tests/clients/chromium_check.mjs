// Checks a running broker with MQTT.js in headless Chromium, in MQTT 3.1.1 and 5.0, over ws:// or wss://.
// Usage: see arguments.mjs. Chromium has no option for an authority: it is told to trust the key of the certificate
// that the broker shows, after Node has verified that certificate.
// CHROMIUM names another program than /usr/bin/chromium. Prints `ok NAME` or `FAIL NAME why` a check; exits 1 after a FAIL.

import { createHash } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { connect } from "node:tls";
import { chromium } from "playwright-core";
import { url, values } from "./arguments.mjs";

const dist = join(dirname(createRequire(import.meta.url).resolve("mqtt/package.json")), "dist");
const files = {
  "/": ["text/html", "<!doctype html><title>MQTT.js</title>"],
  "/mqtt.esm.js": ["text/javascript", readFileSync(join(dist, "mqtt.esm.js"))],
  "/mqttjs_checks.mjs": ["text/javascript", readFileSync(new URL("./mqttjs_checks.mjs", import.meta.url))],
};
const server = createServer((request, response) => {
  const [type, body] = files[request.url] ?? [];
  response.writeHead(type ? 200 : 404, { "content-type": type ?? "text/plain" });
  response.end(body);
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));

// Nothing of a browser that somebody uses: no update, no network of its own, an empty profile.
const args = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
if (values.ca) {
  const { hostname, port } = new URL(url);
  const socket = connect({ host: hostname, port, ca: readFileSync(values.ca) });
  await once(socket, "secureConnect");
  const key = socket.getPeerX509Certificate().publicKey.export({ type: "spki", format: "der" });
  socket.end();
  args.push(`--ignore-certificate-errors-spki-list=${createHash("sha256").update(key).digest("base64")}`);
}
// Root has no sandbox to give.
if (process.getuid() === 0) args.push("--no-sandbox");
const profile = mkdtempSync(join(tmpdir(), "chromium-"));
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const browser = await chromium.launchPersistentContext(profile, { executablePath, headless: true, args });

let good = false;
try {
  const page = await browser.newPage();
  page.on("pageerror", (error) => console.log(`the page failed: ${error.message}`));
  await page.exposeFunction("report", (line) => console.log(line));
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  good = await page.evaluate(
    async ([url, values]) => {
      const { default: mqtt } = await import("/mqtt.esm.js");
      const { run } = await import("/mqttjs_checks.mjs");
      const options = { username: values.user, password: values.password };
      const more = [];
      if (values.user) more.push(["no connection with a wrong password", ({ refused }) => refused({ password: "wrong" })]);
      return run({ mqtt, url, options }, { only: values.only, user: values.identity, more }, report);
    },
    [url, { ...values }],
  );
} finally {
  await browser.close();
  server.close();
  rmSync(profile, { recursive: true, force: true });
}
process.exit(good ? 0 : 1);
