//! The broker's numbers as Prometheus text (exposition format 0.0.4): no label has a client's value.

use std::fmt::Write;

use crate::runtime::Snapshot;

/// The content type of [`render`].
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

enum Kind {
    Gauge,
    Counter,
}

/// Writes all numbers of a snapshot.
pub(crate) fn render(snapshot: &Snapshot) -> String {
    use Kind::{Counter, Gauge};
    let Snapshot { engine, counts, .. } = snapshot;
    let metrics = [
        (Gauge, "connections", "Clients that are connected.", engine.connections),
        (Gauge, "sockets", "Open MQTT sockets, with or without a CONNECT.", snapshot.sockets),
        (Gauge, "sessions", "Sessions, connected or not.", engine.sessions),
        (Gauge, "subscriptions", "Subscriptions over all sessions.", engine.subscriptions),
        (Gauge, "retained_messages", "Retained messages.", engine.retained),
        (Gauge, "queued_messages", "Messages queued or in flight, over all sessions.", engine.queued),
        (
            Gauge,
            "memory_bytes",
            "Bytes of sessions, queues, retained messages and the like.",
            engine.memory_bytes,
        ),
        (Gauge, "memory_max_bytes", "The bound of memory_bytes, 0 = none.", snapshot.memory.bytes_max as u64),
        (
            Gauge,
            "memory_level",
            "1 when QoS 0 messages are not queued, 2 when publishes are refused for want of memory.",
            engine.memory_level as u64,
        ),
        (Gauge, "deadlines", "Deadlines that wait for their time.", engine.deadlines),
        (Counter, "publishes_received_total", "PUBLISH packets taken.", engine.publishes_in),
        (
            Counter,
            "publishes_duplicate_total",
            "PUBLISH packets that repeat an accepted message by its id.",
            engine.duplicates,
        ),
        (Counter, "publishes_sent_total", "PUBLISH packets sent.", engine.publishes_out),
        (Counter, "messages_dropped_total", "Messages dropped, all reasons.", engine.dropped),
        (
            Counter,
            "messages_dropped_too_large_total",
            "Messages dropped for their recipient's Maximum Packet Size.",
            engine.dropped_too_large,
        ),
        (
            Counter,
            "messages_dropped_queue_full_total",
            "Messages dropped for a full queue or a slow connection.",
            engine.dropped_queue_full,
        ),
        (Counter, "messages_expired_total", "Messages dropped for their expiry.", engine.expired),
        (
            Counter,
            "messages_set_aside_total",
            "Messages set aside because they ended their recipients' connections.",
            engine.set_aside,
        ),
        (Counter, "connections_accepted_total", "Sockets accepted.", counts.accepted),
        (Counter, "handshakes_total", "TLS, WebSocket and PROXY handshakes done.", snapshot.handshakes),
        (
            Counter,
            "handshakes_failed_total",
            "Handshakes that failed, took too long or gave way to newer ones.",
            snapshot.handshakes_failed,
        ),
        (
            Counter,
            "connections_refused_total",
            "Connections refused before the engine saw them.",
            counts.refused,
        ),
        (
            Counter,
            "connections_overflowed_total",
            "Connections closed for reading too slowly.",
            counts.overflowed,
        ),
        (Counter, "malformed_total", "Connections that sent what is no packet.", counts.malformed),
        (Counter, "packets_received_total", "Packets taken.", counts.packets_in),
        (Counter, "packets_sent_total", "Packets sent.", counts.packets_out),
        (Counter, "received_bytes_total", "Bytes read from MQTT sockets.", counts.bytes_in),
        (Counter, "sent_bytes_total", "Bytes written to MQTT sockets.", counts.bytes_out),
        (Gauge, "reading_paused", "1 while reading waits for the disk.", u64::from(snapshot.reading_paused)),
        (Gauge, "uptime_seconds", "Seconds since the start.", snapshot.uptime_ms / 1000),
    ];
    let mut out = String::with_capacity(4096);
    for (kind, name, help, value) in metrics.into_iter().chain(store(snapshot)).chain(limits(snapshot)) {
        let kind = match kind {
            Gauge => "gauge",
            Counter => "counter",
        };
        writeln!(
            out,
            "# HELP postrider_{name} {help}\n# TYPE postrider_{name} {kind}\npostrider_{name} {value}"
        )
        .expect("writing to a String");
    }
    out.push_str(BUILD_INFO);
    out
}

/// Which version runs.
const BUILD_INFO: &str = concat!(
    "# HELP postrider_build_info The version.\n# TYPE postrider_build_info gauge\n",
    "postrider_build_info{version=\"",
    env!("CARGO_PKG_VERSION"),
    "\"} 1\n"
);

/// The log, its view, and who reads them.
fn store(snapshot: &Snapshot) -> [(Kind, &'static str, &'static str, u64); 12] {
    use Kind::{Counter, Gauge};
    [
        (Gauge, "store_bytes", "Size of the log on disk.", snapshot.log_bytes),
        (Gauge, "store_pending_bytes", "Bytes on their way to the disk.", snapshot.pending_bytes),
        (Gauge, "store_full", "1 when the store takes no more messages.", u64::from(snapshot.store_full)),
        (
            Counter,
            "store_fetches_total",
            "Times that messages were read from the log.",
            snapshot.fetches.fetches,
        ),
        (Counter, "store_fetched_total", "Records read for them.", snapshot.fetches.records),
        (Counter, "store_fetch_failures_total", "Records that could not be read.", snapshot.fetches.failed),
        (
            Gauge,
            "store_view_lag_records",
            "Records of the log that the view has not taken in.",
            snapshot.view.lag,
        ),
        (Gauge, "store_view_bytes", "Size of the view on disk.", snapshot.view.disk_bytes),
        (
            Gauge,
            "store_view_failed",
            "1 when the view does not follow the log any more.",
            u64::from(snapshot.view.is_failed),
        ),
        (Counter, "store_view_batches_total", "Batches that the view took in.", snapshot.view.batches),
        (Counter, "store_rewrites_total", "Files that replaced segments of the log.", snapshot.view.rewrites),
        (
            Counter,
            "store_freed_bytes_total",
            "Bytes that rewriting segments gave back.",
            snapshot.view.freed_bytes,
        ),
    ]
}

/// What the limits did.
fn limits(snapshot: &Snapshot) -> [(Kind, &'static str, &'static str, u64); 13] {
    use Kind::{Counter, Gauge};
    let counts = &snapshot.counts;
    [
        (Gauge, "unconnected", "Sockets that have sent no CONNECT.", snapshot.unconnected),
        (Gauge, "bans", "Bans in force.", snapshot.bans),
        (Gauge, "buffered_bytes", "Bytes in the buffers of all connections.", snapshot.buffered_bytes),
        (
            Counter,
            "accepts_closed_total",
            "Sockets closed unanswered by a ban or bound.",
            counts.closed_at_accept,
        ),
        (Counter, "connects_refused_quota_total", "CONNECTs over a bound (0x97).", counts.refused_quota),
        (Counter, "connects_refused_rate_total", "CONNECTs over a rate (0x9F).", counts.refused_rate),
        (Counter, "connects_refused_banned_total", "CONNECTs of those banned (0x8A).", counts.refused_banned),
        (Counter, "connects_delayed_total", "CONNECTs whose answer was slowed.", counts.delayed),
        (
            Counter,
            "unconnected_closed_total",
            "Connections without CONNECT closed to make room.",
            counts.unconnected_closed,
        ),
        (Counter, "reading_waits_total", "Times that a connection waited for its rate.", counts.paused),
        (Counter, "publishes_refused_rate_total", "PUBLISH packets over a rate (0x97).", counts.rate_refused),
        (Counter, "connections_ended_rate_total", "Connections far above a rate (0x96).", counts.rate_ended),
        (
            Counter,
            "connections_shed_total",
            "Connections closed because the buffers of all were over their bound.",
            counts.shed,
        ),
    ]
}
