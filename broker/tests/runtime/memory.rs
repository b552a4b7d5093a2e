//! The bound of memory in a running broker: it refuses, tells, and goes on when queues are emptied.

use protocol::{Ack, Packet, QoS, ReasonCode};

use crate::{
    harness::{TestBroker, connect_lasting, publish},
    http::metric,
};

#[test]
fn a_broker_at_its_memory_bound_refuses_and_goes_on_when_the_queue_is_emptied() {
    let bytes_max = 512 * 1024;
    let broker = TestBroker::start_with(|config| {
        config.limits.memory_bytes_max = bytes_max;
        config.http.enabled = true;
        config.http.listen = broker::config::HostPort::new("127.0.0.1", 0);
    });
    let http = broker.running().http_addr().unwrap();
    let numbers = || {
        ["postrider_memory_bytes", "postrider_memory_max_bytes", "postrider_memory_level"]
            .map(|name| metric(http, name))
    };
    let mut reader = broker.client();
    reader.send(&connect_lasting("reader", true));
    reader.expect_connack(ReasonCode::Success);
    reader.subscribe("t", QoS::AtLeastOnce);
    drop(reader);
    let mut writer = broker.connected("writer");
    let payload = vec![7; 16 * 1024];
    let mut taken = 0;
    loop {
        writer.send(&publish("t", QoS::AtLeastOnce, taken + 1, &payload));
        let Packet::PubAck(ack) = writer.expect() else { panic!("no PUBACK") };
        match ack.reason {
            ReasonCode::QuotaExceeded => break,
            ReasonCode::Success => taken += 1,
            other => panic!("{other:?}"),
        }
        assert!(taken < 100, "nothing was refused");
    }
    let [bytes, max, level] = numbers();
    assert!(bytes <= max && bytes > max / 2 && max == bytes_max, "{bytes} of {max}");
    assert_eq!(level, 2);
    let mut reader = broker.client();
    reader.send(&connect_lasting("reader", false));
    assert!(reader.expect_connack(ReasonCode::Success).session_present);
    for _ in 0..taken {
        let id = reader.expect_publish().packet_id.unwrap();
        reader.send(&Packet::PubAck(Ack::new(id, ReasonCode::Success)));
    }
    // Behind its acknowledgements the broker has taken them all.
    reader.ping();
    assert_eq!(numbers()[2], 0);
    writer.send(&publish("t", QoS::AtLeastOnce, 1, &payload));
    assert_eq!(writer.expect_puback(1).reason, ReasonCode::Success);
}

#[test]
fn without_a_bound_of_its_own_a_broker_takes_half_of_what_there_is() {
    let broker = TestBroker::start_with(|config| {
        config.http.enabled = true;
        config.http.listen = broker::config::HostPort::new("127.0.0.1", 0);
    });
    let max = metric(broker.running().http_addr().unwrap(), "postrider_memory_max_bytes");
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    match total.and_then(|kb| kb.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()) {
        // A control group may have less than the machine.
        Some(kb) => assert!(max > 0 && max <= kb * 1024 / 2, "{max} of {kb} kB"),
        None => assert_eq!(max, 0),
    }
}
