// Checks a running broker with MQTT.js in Node, in MQTT 3.1.1 and 5.0. Usage: see arguments.mjs.
// Prints `ok NAME` or `FAIL NAME why` a check; exits 1 after a FAIL.

import { readFileSync } from "node:fs";
import mqtt from "mqtt";
import { url, values } from "./arguments.mjs";
import { run, same } from "./mqttjs_checks.mjs";
import { Scram, method } from "./scram.mjs";

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

/// Connects with SCRAM, then authenticates again on the same connection.
async function scram({ Client }) {
  let exchange = new Scram(values.user, values.password);
  let ended;
  const auth = (reasonCode, authenticationData) => ({ cmd: "auth", reasonCode, properties: { authenticationMethod: method, authenticationData } });
  const handleAuth = (packet, callback) => {
    const data = packet.properties.authenticationData;
    if (packet.reasonCode === 0x18) return callback(null, auth(0x18, exchange.answer(data)));
    ended(data);
    callback();
  };
  const properties = { authenticationMethod: method, authenticationData: exchange.first };
  const client = await Client.connect("js-scram", 5, { username: undefined, password: undefined, properties, handleAuth });
  same(exchange.isRight(client.connack.properties.authenticationData), true, "the broker knows the password");
  exchange = new Scram(values.user, values.password);
  const again = new Promise((resolve, reject) => {
    ended = resolve;
    client.mqtt.once("close", () => reject(new Error("the connection ended")));
  });
  client.mqtt._sendPacket(auth(0x19, exchange.first));
  same(exchange.isRight(await again), true, "the broker knows the password the second time");
  await client.publish("mqttjs/scram", "hello", { qos: 1 });
  await client.disconnect();
}

async function scramWithAWrongPassword({ refused }) {
  const exchange = new Scram(values.user, "wrong");
  const handleAuth = (packet, callback) => {
    const authenticationData = exchange.answer(packet.properties.authenticationData);
    callback(null, { cmd: "auth", reasonCode: 0x18, properties: { authenticationMethod: method, authenticationData } });
  };
  const properties = { authenticationMethod: method, authenticationData: exchange.first };
  await refused({ username: undefined, password: undefined, properties, handleAuth });
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
  more.push(["SCRAM, and once more on the same connection", scram]);
  more.push(["no connection with SCRAM and a wrong password", scramWithAWrongPassword]);
  more.push(["no connection without a user", ({ refused }) => refused({ username: undefined, password: undefined })]);
}

const good = await run({ mqtt, url, options, Buffer }, { only: values.only, user: values.identity, more }, console.log);
process.exit(good ? 0 : 1);
