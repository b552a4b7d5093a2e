// Checks a running broker with MQTT.js in Node, in MQTT 3.1.1 and 5.0. Usage: see arguments.mjs.
// Prints `ok NAME` or `FAIL NAME why` a check; exits 1 after a FAIL.

import { readFileSync } from "node:fs";
import mqtt from "mqtt";
import { url, values } from "./arguments.mjs";
import { run, same } from "./mqttjs_checks.mjs";

const file = (path) => path && readFileSync(path);
const options = {
  ca: file(values.ca),
  cert: file(values.cert),
  key: file(values.key),
  username: values.user,
  password: values.password,
};

async function tls(version, { Client }) {
  const client = await Client.connect(`js-${version}`, 5, { minVersion: version, maxVersion: version });
  const socket = client.mqtt.stream.socket?._socket ?? client.mqtt.stream;
  same(socket.getProtocol(), version, "TLS version");
  await client.disconnect();
}

const more = [];
if (values.ca) {
  // Over wss the WebSocket library opens the TLS connection, with its own options.
  if (url.startsWith("mqtts:")) for (const version of ["TLSv1.2", "TLSv1.3"]) more.push([version, (kit) => tls(version, kit)]);
  more.push(["no client that does not know the authority", ({ refused }) => refused({ ca: undefined })]);
}
if (values.cert) more.push(["no connection without a certificate", ({ refused }) => refused({ cert: undefined, key: undefined })]);
if (values.user) {
  more.push(["no connection with a wrong password", ({ refused }) => refused({ password: "wrong" })]);
  more.push(["no connection without a user", ({ refused }) => refused({ username: undefined, password: undefined })]);
}

const good = await run({ mqtt, url, options, Buffer }, { only: values.only, user: values.identity, more }, console.log);
process.exit(good ? 0 : 1);
