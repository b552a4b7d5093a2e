// Checks a running broker with MQTT.js, in MQTT 3.1.1 and 5.0.
// Usage: node mqttjs_check.mjs HOST PORT. Prints `ok NAME` or `FAIL NAME why` a check; exits 1 after a FAIL.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import mqtt from "mqtt";

const [host, port] = process.argv.slice(2);
const patienceMs = 20_000;
const versions = { "v3.1.1": 4, v5: 5 };
const open = new Set();

function inTime(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no ${what} within ${patienceMs} ms`)), patienceMs);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/// An MQTT.js client whose messages can be awaited one by one.
class Client {
  #messages = [];
  #waiting = [];

  static async connect(clientId, protocolVersion, { clean = true, will } = {}) {
    const client = new Client();
    const properties = protocolVersion === 5 ? { sessionExpiryInterval: clean ? 0 : 600 } : undefined;
    client.mqtt = mqtt.connect({ host, port: Number(port), clientId, protocolVersion, clean, will, properties, reconnectPeriod: 0, resubscribe: false });
    open.add(client);
    client.mqtt.on("message", (topic, payload, packet) => {
      const message = { topic, payload, qos: packet.qos, retain: packet.retain, properties: packet.properties };
      const waiting = client.#waiting.shift();
      if (waiting) waiting(message);
      else client.#messages.push(message);
    });
    const connack = await inTime(
      new Promise((resolve, reject) => {
        client.mqtt.once("connect", resolve);
        client.mqtt.once("error", reject);
      }),
      "CONNACK",
    );
    client.mqtt.on("error", () => {}); // seen by the check as a missing message
    client.sessionPresent = connack.sessionPresent;
    return client;
  }

  async subscribe(topic, qos) {
    const granted = await inTime(this.mqtt.subscribeAsync(topic, { qos }), "SUBACK");
    assert.deepEqual(granted.map((g) => g.qos), [qos], "granted QoS");
  }

  publish(topic, payload, options) {
    return inTime(this.mqtt.publishAsync(topic, payload, options), `acknowledgement of a publish to ${topic}`);
  }

  next() {
    const message = this.#messages.shift();
    return message ? Promise.resolve(message) : inTime(new Promise((resolve) => this.#waiting.push(resolve)), "message");
  }

  async expect(topic, payload, qos, retain = false) {
    const got = await this.next();
    assert.deepEqual([got.topic, got.payload.toString(), got.qos, got.retain], [topic, payload, qos, retain], "message");
    return got;
  }

  async disconnect() {
    open.delete(this);
    await inTime(this.mqtt.endAsync(), "end of the connection");
  }

  async lose() {
    open.delete(this);
    const closed = new Promise((resolve) => this.mqtt.once("close", resolve));
    this.mqtt.stream.destroy();
    await inTime(closed, "end of the connection");
  }
}

async function qosBothWays(name, version, qos) {
  const topic = `mqttjs/${name}/qos/${qos}`;
  const subscriber = await Client.connect(`js-s-${name}-${qos}`, version);
  await subscriber.subscribe(topic, qos);
  const publisher = await Client.connect(`js-p-${name}-${qos}`, version);
  for (let n = 0; n < 20; n++) await publisher.publish(topic, `message ${n}`, { qos });
  for (let n = 0; n < 20; n++) await subscriber.expect(topic, `message ${n}`, qos);
  await publisher.disconnect();
  await subscriber.disconnect();
}

async function retained(name, version) {
  const topic = `mqttjs/${name}/retained`;
  const publisher = await Client.connect(`js-p-${name}`, version);
  const freshSubscriberSees = async (payload) => {
    const subscriber = await Client.connect(`js-s-${name}`, version);
    await subscriber.subscribe(topic, 1);
    if (payload !== undefined) await subscriber.expect(topic, payload, 1, true);
    // A live message comes after whatever a subscription is sent at its beginning.
    await publisher.publish(topic, "live", { qos: 1 });
    await subscriber.expect(topic, "live", 1);
    await subscriber.disconnect();
  };
  await publisher.publish(topic, "first", { qos: 1, retain: true });
  await freshSubscriberSees("first");
  await publisher.publish(topic, "second", { qos: 1, retain: true });
  await freshSubscriberSees("second");
  await publisher.publish(topic, "", { qos: 1, retain: true });
  await freshSubscriberSees(undefined);
  await publisher.disconnect();
}

async function will(name, version) {
  const topic = `mqttjs/${name}/will`;
  const witness = await Client.connect(`js-w-${name}`, version);
  await witness.subscribe(topic, 1);
  const dying = await Client.connect(`js-d-${name}`, version, { will: { topic, payload: "gone", qos: 1, retain: false } });
  await dying.lose();
  await witness.expect(topic, "gone", 1);
  const polite = await Client.connect(`js-d-${name}`, version, { will: { topic, payload: "must not come", qos: 1, retain: false } });
  await polite.disconnect();
  await witness.publish(topic, "after", { qos: 1 });
  await witness.expect(topic, "after", 1);
  await witness.disconnect();
}

async function persistentSession(name, version, qos) {
  const topic = `mqttjs/${name}/session/${qos}`;
  const clientId = `js-session-${name}-${qos}`;
  const first = await Client.connect(clientId, version, { clean: false });
  assert.equal(first.sessionPresent, false, "session present at first");
  await first.subscribe(topic, qos);
  await first.disconnect();
  const publisher = await Client.connect(`js-p-${name}-${qos}`, version);
  for (let n = 0; n < 50; n++) await publisher.publish(topic, `offline ${n}`, { qos });
  await publisher.disconnect();
  const second = await Client.connect(clientId, version, { clean: false });
  assert.equal(second.sessionPresent, true, "session present when resumed");
  for (let n = 0; n < 50; n++) await second.expect(topic, `offline ${n}`, qos);
  await second.disconnect();
}

async function largePayload(name, version, qos) {
  const topic = `mqttjs/${name}/large/${qos}`;
  const client = await Client.connect(`js-large-${name}-${qos}`, version);
  await client.subscribe(topic, qos);
  const payload = randomBytes(256 * 1024);
  await client.publish(topic, payload, { qos });
  const got = await client.next();
  assert.ok(payload.equals(got.payload), `payload of ${got.payload.length} bytes as sent`);
  await client.disconnect();
}

async function properties(name, version) {
  const topic = `mqttjs/${name}/properties`;
  const client = await Client.connect(`js-properties-${name}`, version);
  await client.subscribe(topic, 1);
  const sent = {
    userProperties: { b: ["2", "3"], a: "1" },
    contentType: "text/plain",
    responseTopic: "answers/here",
    correlationData: Buffer.from([0, 1]),
    payloadFormatIndicator: true,
  };
  await client.publish(topic, "hello", { qos: 1, properties: sent });
  const { properties: got } = await client.next();
  assert.deepEqual([...got.userProperties.b], ["2", "3"], "user property that comes twice");
  assert.equal(got.userProperties.a, "1", "user property");
  assert.equal(got.contentType, "text/plain", "content type");
  assert.equal(got.responseTopic, "answers/here", "response topic");
  assert.deepEqual([...got.correlationData], [0, 1], "correlation data");
  assert.equal(got.payloadFormatIndicator, true, "payload format indicator");
  await client.disconnect();
}

const checks = [];
for (const [name, version] of Object.entries(versions)) {
  for (const qos of [0, 1, 2]) checks.push([`qos ${qos} both ways (${name})`, () => qosBothWays(name, version, qos)]);
  checks.push([`retained set, replaced, cleared (${name})`, () => retained(name, version)]);
  checks.push([`will after a lost connection only (${name})`, () => will(name, version)]);
  for (const qos of [1, 2]) checks.push([`persistent session, qos ${qos} offline (${name})`, () => persistentSession(name, version, qos)]);
  for (const qos of [0, 1, 2]) checks.push([`256 KB payload, qos ${qos} (${name})`, () => largePayload(name, version, qos)]);
}
checks.push(["properties unaltered (v5)", () => properties("v5", 5)]);

let failed = false;
for (const [name, check] of checks) {
  try {
    await check();
    console.log(`ok ${name}`);
  } catch (error) {
    failed = true;
    console.log(`FAIL ${name} ${String(error.message).replaceAll("\n", " ")}`);
    for (const client of open) client.mqtt.end(true);
    open.clear();
  }
}
process.exit(failed ? 1 : 0);
