// What is checked with MQTT.js, in Node and in a browser: no import here may need either.
// See mqttjs_check.mjs and chromium_check.mjs, which run it.

const patienceMs = 20_000;
const versions = { "v3.1.1": 4, v5: 5 };
const open = new Set();
// The library, where the broker is, and a Buffer of the library's own kind.
let given;
let Buffer;

function randomBytes(count) {
  const bytes = new Uint8Array(count);
  // A call gives 64 KB at most.
  for (let at = 0; at < count; at += 65_536) crypto.getRandomValues(bytes.subarray(at, Math.min(at + 65_536, count)));
  return bytes;
}

/// Fails with both values unless they look the same.
export function same(got, wanted, what) {
  const [g, w] = [JSON.stringify(got), JSON.stringify(wanted)];
  if (g !== w) throw new Error(`${what}: expected ${w}, got ${g}`);
}

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

  static async connect(clientId, protocolVersion, { clean = true, will, ...more } = {}) {
    const client = new Client();
    const properties = protocolVersion === 5 ? { sessionExpiryInterval: clean ? 0 : 600 } : undefined;
    const settings = { ...given.options, clientId, protocolVersion, clean, will, reconnectPeriod: 0, resubscribe: false, ...more };
    client.mqtt = given.mqtt.connect(given.url, { ...settings, properties: { ...properties, ...more.properties } });
    if (protocolVersion !== 5) delete client.mqtt.options.properties;
    if (more.handleAuth) client.mqtt.handleAuth = more.handleAuth;
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
    client.connack = connack;
    return client;
  }

  async subscribe(topic, qos) {
    const granted = await inTime(this.mqtt.subscribeAsync(topic, { qos }), "SUBACK");
    same(granted.map((g) => g.qos), [qos], "granted QoS");
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
    same([got.topic, got.payload.toString(), got.qos, got.retain], [topic, payload, qos, retain], "message");
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
  same(first.sessionPresent, false, "session present at first");
  await first.subscribe(topic, qos);
  await first.disconnect();
  const publisher = await Client.connect(`js-p-${name}-${qos}`, version);
  for (let n = 0; n < 50; n++) await publisher.publish(topic, `offline ${n}`, { qos });
  await publisher.disconnect();
  const second = await Client.connect(clientId, version, { clean: false });
  same(second.sessionPresent, true, "session present when resumed");
  for (let n = 0; n < 50; n++) await second.expect(topic, `offline ${n}`, qos);
  await second.disconnect();
}

async function largePayload(name, version, qos) {
  const topic = `mqttjs/${name}/large/${qos}`;
  const client = await Client.connect(`js-large-${name}-${qos}`, version);
  await client.subscribe(topic, qos);
  const payload = Buffer.from(randomBytes(256 * 1024));
  await client.publish(topic, payload, { qos });
  const got = await client.next();
  same(payload.equals(got.payload), true, `payload of ${got.payload.length} bytes as sent`);
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
  same([...got.userProperties.b], ["2", "3"], "user property that comes twice");
  same(got.userProperties.a, "1", "user property");
  same(got.contentType, "text/plain", "content type");
  same(got.responseTopic, "answers/here", "response topic");
  same([...got.correlationData], [0, 1], "correlation data");
  same(got.payloadFormatIndicator, true, "payload format indicator");
  await client.disconnect();
}

async function sharedSubscription(name, version) {
  const topic = `mqttjs/${name}/shared`;
  const got = [];
  let all;
  const complete = new Promise((resolve) => (all = resolve));
  const members = [];
  for (const n of [1, 2]) {
    const member = await Client.connect(`js-m${n}-${name}`, version);
    await member.subscribe(`$share/js-${name}/${topic}`, 1);
    member.mqtt.on("message", (_, payload) => {
      got.push(Number(payload.toString()));
      if (got.length === 40) all();
    });
    members.push(member);
  }
  const publisher = await Client.connect(`js-p-${name}`, version);
  for (let n = 0; n < 40; n++) await publisher.publish(topic, `${n}`, { qos: 1 });
  await inTime(complete, "message for a member of the group");
  same(got.sort((a, b) => a - b), [...Array(40).keys()], "each message once");
  for (const client of [publisher, ...members]) await client.disconnect();
}

async function identity(user) {
  const topic = "im/mqttjs-identity";
  const client = await Client.connect("js-identity", 5);
  await client.subscribe(topic, 1);
  await client.publish(topic, "who am I", { qos: 1 });
  same((await client.next()).properties.userProperties["im-from"], user, "the user that the broker tells others");
  await client.disconnect();
}

/// The client must not get in with these options instead of its own.
async function refused(options) {
  let client;
  try {
    client = await Client.connect("js-refused", 5, options);
  } catch {
    return;
  }
  await client.disconnect();
  throw new Error("it was let in");
}

/// The library's own Buffer, which a bundle for browsers keeps to itself: a payload is one.
async function learnBuffer() {
  const client = await Client.connect("js-buffer", 5);
  await client.subscribe("mqttjs/buffer", 1);
  await client.publish("mqttjs/buffer", "x", { qos: 1 });
  const { payload } = await client.next();
  await client.disconnect();
  return payload.constructor;
}

/// Runs all checks and those of `more` (name and function, which gets `Client`); calls `report(line)` for each.
/// `where` has the library `mqtt`, `url`, `options` for mqtt.connect, and `Buffer` where there is one. Returns whether all went well.
export async function run(where, { only = "", user, more = [] }, report) {
  given = where;
  Buffer = given.Buffer ?? (await learnBuffer());
  const checks = [];
  for (const [name, version] of Object.entries(versions)) {
    for (const qos of [0, 1, 2]) checks.push([`qos ${qos} both ways (${name})`, () => qosBothWays(name, version, qos)]);
    checks.push([`retained set, replaced, cleared (${name})`, () => retained(name, version)]);
    checks.push([`will after a lost connection only (${name})`, () => will(name, version)]);
    for (const qos of [1, 2]) checks.push([`persistent session, qos ${qos} offline (${name})`, () => persistentSession(name, version, qos)]);
    for (const qos of [0, 1, 2]) checks.push([`256 KB payload, qos ${qos} (${name})`, () => largePayload(name, version, qos)]);
    checks.push([`shared subscription (${name})`, () => sharedSubscription(name, version)]);
  }
  checks.push(["properties unaltered (v5)", () => properties("v5", 5)]);
  if (user) checks.push(["the broker knows the user (v5)", () => identity(user)]);
  for (const [name, check] of more) checks.push([name, () => check({ Client, refused })]);

  let good = true;
  for (const [name, check] of checks.filter(([name]) => name.includes(only))) {
    try {
      await check();
      report(`ok ${name}`);
    } catch (error) {
      good = false;
      report(`FAIL ${name} ${String(error.message).replaceAll("\n", " ")}`);
      for (const client of open) client.mqtt.end(true);
      open.clear();
    }
  }
  return good;
}
