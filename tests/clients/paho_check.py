"""Checks a running broker with paho-mqtt, in MQTT 3.1.1 and 5.0.

Usage: paho_check.py HOST PORT. Prints `ok NAME` or `FAIL NAME why` a check; exits 1 after a FAIL.
"""

import os
import queue
import sys
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PATIENCE_S = 20
HOST, PORT = sys.argv[1], int(sys.argv[2])
VERSIONS = {"v3.1.1": mqtt.MQTTv311, "v5": mqtt.MQTTv5}


class Failed(Exception):
    """A broker did not do what it must."""


class Client:
    """A paho client whose callbacks become things to wait for."""

    def __init__(self, client_id, version, clean=True, will=None):
        settings = {} if version == mqtt.MQTTv5 else {"clean_session": clean}
        self.version = version
        self.clean = clean
        self.messages = queue.Queue()
        self.connected = queue.Queue()
        self.subscribed = queue.Queue()
        self.ended = threading.Event()
        self.paho = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=version, reconnect_on_failure=False, **settings
        )
        self.paho.on_connect = lambda c, u, flags, reason, p: self.connected.put((flags.session_present, reason))
        self.paho.on_message = lambda c, u, message: self.messages.put(message)
        self.paho.on_subscribe = lambda c, u, mid, reasons, p: self.subscribed.put(reasons)
        self.paho.on_disconnect = lambda *_: self.ended.set()
        if will:
            self.paho.will_set(*will)

    def connect(self):
        """Connects and returns whether the session was there."""
        if self.version == mqtt.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 0 if self.clean else 600
            self.paho.connect(HOST, PORT, clean_start=self.clean, properties=properties)
        else:
            self.paho.connect(HOST, PORT)
        self.paho.loop_start()
        session_present, reason = take(self.connected, "CONNACK")
        expect(reason.is_failure, False, f"CONNACK {reason}")
        return session_present

    def subscribe(self, topic, qos):
        """Subscribes and checks the granted QoS."""
        self.paho.subscribe(topic, qos)
        reasons = take(self.subscribed, "SUBACK")
        expect([r.value for r in reasons], [qos], "granted QoS")

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
        self.paho.socket().shutdown(2)
        if not self.ended.wait(PATIENCE_S):
            raise Failed("the connection did not end")
        self.paho.loop_stop()


def take(source, what):
    """Returns the next item or fails."""
    try:
        return source.get(timeout=PATIENCE_S)
    except queue.Empty:
        raise Failed(f"no {what} within {PATIENCE_S} s") from None


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
    checks.append(("properties unaltered (v5)", properties, ("v5", mqtt.MQTTv5)))
    failed = False
    for name, check, arguments in checks:
        try:
            check(*arguments)
            print(f"ok {name}", flush=True)
        except Exception as error:  # every failure of a check is a verdict about the broker
            failed = True
            print(f"FAIL {name} {error}", flush=True)
    # Threads of failed checks must not keep the process.
    sys.stdout.flush()
    os._exit(1 if failed else 0)


main()
