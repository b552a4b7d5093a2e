"""Checks a running broker with paho-mqtt, in MQTT 3.1.1 and 5.0.

Usage: paho_check.py URL [--ca FILE] [--cert FILE --key FILE] [--user NAME --password WORD] [--identity NAME]
[--callbacks 1|2] [--only PART-OF-A-NAME]. URL is mqtt://, mqtts://, ws:// or wss://; --identity is the user that the
broker must know the client as. It runs with paho-mqtt 1.6 too, which knows
callbacks of version 1 only. Prints `ok NAME` or `FAIL NAME why` a check; exits 1 after a FAIL.
"""

import argparse
import os
import queue
import ssl
import sys
import threading
import time
from urllib.parse import urlparse

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PATIENCE_S = 20
VERSIONS = {"v3.1.1": mqtt.MQTTv311, "v5": mqtt.MQTTv5}


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("url", type=urlparse)
    for name in ("ca", "cert", "key", "user", "password", "identity"):
        parser.add_argument("--" + name)
    parser.add_argument("--callbacks", type=int, choices=(1, 2), default=2)
    parser.add_argument("--only", default="")
    return parser.parse_args()


ARGS = arguments()


class Failed(Exception):
    """A broker did not do what it must."""


def new_paho(client_id, version, clean, tls_max=None):
    """Makes a client of paho's for the listener of the command line."""
    settings = {"client_id": client_id, "protocol": version}
    if version != mqtt.MQTTv5:
        settings["clean_session"] = clean
    if ARGS.url.scheme in ("ws", "wss"):
        settings["transport"] = "websockets"
    if hasattr(mqtt, "CallbackAPIVersion"):
        settings["callback_api_version"] = mqtt.CallbackAPIVersion(ARGS.callbacks)
    client = mqtt.Client(reconnect_on_failure=False, **settings)
    if ARGS.url.scheme in ("ws", "wss"):
        client.ws_set_options(path=ARGS.url.path or "/mqtt")
    if ARGS.url.scheme in ("mqtts", "wss"):
        context = ssl.create_default_context(cafile=ARGS.ca)
        if tls_max:
            context.maximum_version = tls_max
        if ARGS.cert:
            context.load_cert_chain(ARGS.cert, ARGS.key)
        client.tls_set_context(context)
    if ARGS.user:
        client.username_pw_set(ARGS.user, ARGS.password)
    return client


def is_failure(reason):
    """Says whether a CONNACK's code, of either callback version, is a refusal."""
    return reason.is_failure if hasattr(reason, "is_failure") else getattr(reason, "value", reason) != 0


class Client:
    """A paho client whose callbacks become things to wait for."""

    def __init__(self, client_id, version, clean=True, will=None, tls_max=None):
        self.version = version
        self.clean = clean
        self.messages = queue.Queue()
        self.connected = queue.Queue()
        self.subscribed = queue.Queue()
        self.ended = threading.Event()
        self.paho = new_paho(client_id, version, clean, tls_max)
        # The callbacks of version 1 have fewer arguments, and plain values for 3.1.1.
        self.paho.on_connect = lambda c, u, flags, reason, *_: self.connected.put((session_present(flags), reason))
        self.paho.on_message = lambda c, u, message: self.messages.put(message)
        self.paho.on_subscribe = lambda c, u, mid, reasons, *_: self.subscribed.put(reasons)
        self.paho.on_disconnect = lambda *_: self.end()
        if will:
            self.paho.will_set(*will)

    def end(self):
        self.ended.set()
        self.connected.put(None)

    def open(self, patience_s=PATIENCE_S):
        """Connects and returns the flag of the session and the code of CONNACK."""
        host, port = ARGS.url.hostname, ARGS.url.port
        if self.version == mqtt.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 0 if self.clean else 600
            self.paho.connect(host, port, clean_start=self.clean, properties=properties)
        else:
            self.paho.connect(host, port)
        self.paho.loop_start()
        connack = take(self.connected, "CONNACK", patience_s)
        if not connack:
            raise Failed("the connection ended before CONNACK")
        return connack

    def connect(self):
        """Connects and returns whether the session was there."""
        present, reason = self.open()
        expect(is_failure(reason), False, f"CONNACK {reason}")
        return present

    def subscribe(self, topic, qos):
        """Subscribes and checks the granted QoS."""
        self.paho.subscribe(topic, qos)
        reasons = take(self.subscribed, "SUBACK")
        expect([getattr(r, "value", r) for r in reasons], [qos], "granted QoS")

    def publish(self, topic, payload, qos, retain=False, properties=None):
        """Publishes and waits to the end of the QoS flow."""
        info = self.paho.publish(topic, payload, qos, retain, properties)
        info.wait_for_publish(PATIENCE_S)
        if not info.is_published():
            raise Failed(f"publish to {topic} at QoS {qos} was not acknowledged")

    def next(self):
        """Returns the next message."""
        return take(self.messages, "message")

    def disconnect(self):
        """Ends the connection in order."""
        self.paho.disconnect()
        if not self.ended.wait(PATIENCE_S):
            raise Failed("the connection did not end")
        self.paho.loop_stop()

    def lose(self):
        """Ends the connection without DISCONNECT."""
        found = self.paho.socket()
        # Over WebSocket the socket is inside a wrapper.
        getattr(found, "_socket", found).shutdown(2)
        if not self.ended.wait(PATIENCE_S):
            raise Failed("the connection did not end")
        self.paho.loop_stop()


def session_present(flags):
    """Reads the flag of CONNACK, of either callback version."""
    return flags.session_present if hasattr(flags, "session_present") else bool(flags["session present"])


def take(source, what, patience_s=PATIENCE_S):
    """Returns the next item or fails."""
    try:
        return source.get(timeout=patience_s)
    except queue.Empty:
        raise Failed(f"no {what} within {patience_s} s") from None


def expect(got, wanted, what):
    """Fails unless both are the same."""
    if got != wanted:
        raise Failed(f"{what}: expected {wanted!r}, got {got!r}")


def seen(message):
    """Returns what a check compares."""
    return message.topic, bytes(message.payload), message.qos, message.retain


def qos_both_ways(name, version, qos):
    topic = f"paho/{name}/qos/{qos}"
    subscriber, publisher = Client(f"paho-s-{name}-{qos}", version), Client(f"paho-p-{name}-{qos}", version)
    subscriber.connect()
    subscriber.subscribe(topic, qos)
    publisher.connect()
    for n in range(20):
        publisher.publish(topic, f"message {n}", qos)
    for n in range(20):
        expect(seen(subscriber.next()), (topic, f"message {n}".encode(), qos, False), "message")
    publisher.disconnect()
    subscriber.disconnect()


def retained(name, version):
    topic = f"paho/{name}/retained"
    publisher = Client(f"paho-p-{name}", version)
    publisher.connect()

    def fresh_subscriber_sees(count):
        subscriber = Client(f"paho-s-{name}", version)
        subscriber.connect()
        subscriber.subscribe(topic, 1)
        got = [seen(subscriber.next()) for _ in range(count)]
        # A live message comes after whatever a subscription is sent at its beginning.
        publisher.publish(topic, "live", 1)
        expect(seen(subscriber.next()), (topic, b"live", 1, False), "the live message after the retained ones")
        subscriber.disconnect()
        return got

    publisher.publish(topic, "first", 1, retain=True)
    expect(fresh_subscriber_sees(1), [(topic, b"first", 1, True)], "retained set")
    publisher.publish(topic, "second", 1, retain=True)
    expect(fresh_subscriber_sees(1), [(topic, b"second", 1, True)], "retained replaced")
    publisher.publish(topic, "", 1, retain=True)
    expect(fresh_subscriber_sees(0), [], "retained cleared")
    publisher.disconnect()


def will(name, version):
    topic = f"paho/{name}/will"
    witness, dying = Client(f"paho-w-{name}", version), Client(f"paho-d-{name}", version, will=(topic, b"gone", 1, False))
    witness.connect()
    witness.subscribe(topic, 1)
    dying.connect()
    dying.lose()
    expect(seen(witness.next()), (topic, b"gone", 1, False), "will")
    polite = Client(f"paho-d-{name}", version, will=(topic, b"must not come", 1, False))
    polite.connect()
    polite.disconnect()
    publisher = Client(f"paho-p-{name}", version)
    publisher.connect()
    publisher.publish(topic, "after", 1)
    expect(seen(witness.next()), (topic, b"after", 1, False), "no will after DISCONNECT")
    publisher.disconnect()
    witness.disconnect()


def persistent_session(name, version, qos):
    topic, client_id = f"paho/{name}/session/{qos}", f"paho-session-{name}-{qos}"
    first = Client(client_id, version, clean=False)
    expect(first.connect(), False, "session present at first")
    first.subscribe(topic, qos)
    first.disconnect()
    publisher = Client(f"paho-p-{name}-{qos}", version)
    publisher.connect()
    for n in range(50):
        publisher.publish(topic, f"offline {n}", qos)
    publisher.disconnect()
    second = Client(client_id, version, clean=False)
    expect(second.connect(), True, "session present when resumed")
    for n in range(50):
        expect(seen(second.next()), (topic, f"offline {n}".encode(), qos, False), "offline message")
    second.disconnect()


def large_payload(name, version, qos):
    topic = f"paho/{name}/large/{qos}"
    client = Client(f"paho-large-{name}-{qos}", version)
    client.connect()
    client.subscribe(topic, qos)
    payload = os.urandom(256 * 1024)
    client.publish(topic, payload, qos)
    message = client.next()
    expect(message.payload == payload, True, f"payload of {len(message.payload)} bytes as sent")
    client.disconnect()


def properties(name, version):
    topic = f"paho/{name}/properties"
    client = Client(f"paho-properties-{name}", version)
    client.connect()
    client.subscribe(topic, 1)
    sent = Properties(PacketTypes.PUBLISH)
    sent.UserProperty = [("b", "2"), ("a", "1"), ("b", "3")]
    sent.ContentType = "text/plain"
    sent.ResponseTopic = "answers/here"
    sent.CorrelationData = b"\x00\x01"
    sent.PayloadFormatIndicator = 1
    client.publish(topic, "hello", 1, properties=sent)
    got = client.next().properties
    expect(got.UserProperty[:3], [("b", "2"), ("a", "1"), ("b", "3")], "user properties in order")
    expect(got.ContentType, "text/plain", "content type")
    expect(got.ResponseTopic, "answers/here", "response topic")
    expect(got.CorrelationData, b"\x00\x01", "correlation data")
    expect(got.PayloadFormatIndicator, 1, "payload format indicator")
    client.disconnect()


def shared_subscription(name, version):
    topic, filter_ = f"paho/{name}/shared", f"$share/paho-{name}/paho/{name}/shared"
    members = [Client(f"paho-m{n}-{name}", version) for n in (1, 2)]
    for member in members:
        member.connect()
        member.subscribe(filter_, 1)
    publisher = Client(f"paho-p-{name}", version)
    publisher.connect()
    for n in range(40):
        publisher.publish(topic, f"task {n}", 1)
    got = []
    for n in range(40):
        # The two share: whoever has the next one.
        member = next(m for m in forever(members) if not m.messages.empty())
        got.append(member.next().payload.decode())
    expect(sorted(got), sorted(f"task {n}" for n in range(40)), "each task once")
    expect([m.messages.qsize() for m in members], [0, 0], "nothing twice")
    for client in (publisher, *members):
        client.disconnect()


def forever(members):
    """Goes round until the patience ends."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        yield from members
        time.sleep(0.001)
    raise Failed(f"no member got a message within {PATIENCE_S} s")


def identity(name, version, user):
    topic = f"im/paho-identity-{name}"
    client = Client(f"paho-identity-{name}", version)
    client.connect()
    client.subscribe(topic, 1)
    client.publish(topic, "who am I", 1)
    got = dict(client.next().properties.UserProperty)
    expect(got.get("im-from"), user, "the user that the broker tells others")
    client.disconnect()


def another_tls_version(version_name, tls_max):
    client = Client(f"paho-{version_name}", mqtt.MQTTv5, tls_max=tls_max)
    client.connect()
    found = client.paho.socket()
    expect(getattr(found, "_socket", found).version(), version_name, "TLS version")
    client.publish("paho/tls", "hello", 1)
    client.disconnect()


def refused(what, change):
    """The client must not get in when the command line's secrets are other ones."""
    before = dict(vars(ARGS))
    vars(ARGS).update(change)
    try:
        client = Client("paho-refused", mqtt.MQTTv5)
        # paho-mqtt 1 says nothing when TLS fails after its connect.
        present, reason = client.open(patience_s=5)
    except (OSError, Failed):
        return
    finally:
        vars(ARGS).update(before)
    expect(is_failure(reason), True, f"connected with {what}: CONNACK {reason}")


def of_the_transport():
    """Checks that only some listeners need."""
    checks = []
    if ARGS.ca:
        checks.append(("TLS 1.2", another_tls_version, ("TLSv1.2", ssl.TLSVersion.TLSv1_2)))
        checks.append(("TLS 1.3", another_tls_version, ("TLSv1.3", ssl.TLSVersion.TLSv1_3)))
        checks.append(("a client that does not know the authority goes away", refused, ("no authority", {"ca": None})))
    if ARGS.cert:
        checks.append(("no connection without a certificate", refused, ("no certificate", {"cert": None})))
    if ARGS.user:
        checks.append(("no connection with a wrong password", refused, ("a wrong password", {"password": "wrong"})))
        checks.append(("no connection without a password", refused, ("no password", {"user": None})))
    if ARGS.identity:
        checks.append(("the broker knows the user (v5)", identity, ("v5", mqtt.MQTTv5, ARGS.identity)))
    return checks


def main():
    checks = []
    for name, version in VERSIONS.items():
        for qos in (0, 1, 2):
            checks.append((f"qos {qos} both ways ({name})", qos_both_ways, (name, version, qos)))
        checks.append((f"retained set, replaced, cleared ({name})", retained, (name, version)))
        checks.append((f"will after a lost connection only ({name})", will, (name, version)))
        for qos in (1, 2):
            checks.append((f"persistent session, qos {qos} offline ({name})", persistent_session, (name, version, qos)))
        for qos in (0, 1, 2):
            checks.append((f"256 KB payload, qos {qos} ({name})", large_payload, (name, version, qos)))
        checks.append((f"shared subscription ({name})", shared_subscription, (name, version)))
    checks.append(("properties unaltered (v5)", properties, ("v5", mqtt.MQTTv5)))
    checks.extend(of_the_transport())
    failed = False
    for name, check, values in checks:
        if ARGS.only not in name:
            continue
        try:
            check(*values)
            print(f"ok {name}", flush=True)
        except Exception as error:  # every failure of a check is a verdict about the broker
            failed = True
            print(f"FAIL {name} {error}", flush=True)
    # Threads of failed checks must not keep the process.
    sys.stdout.flush()
    os._exit(1 if failed else 0)


main()
