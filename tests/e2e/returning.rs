//! Thousands of durable sessions come back at once, as after a power cut or a bad network, while others talk on.
//!
//! What must hold is asserted: each session is there and gets each of its messages once, and the witness loses nothing
//! and waits for no storm. Its latency at rest and meanwhile is printed: run it alone with `--nocapture`.
//! `POSTRIDER_TEST_RETURNING` sets another number of sessions. A connection needs a descriptor of this process and one of
//! the broker's, so of very many sessions the first ones lose theirs again when they have all: the storm goes on as long
//! as descriptors of those who leave come free.

use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use protocol::{Packet, ProtocolVersion, QoS};

use super::hostile::witness::Witness;
use crate::broker_process::{Broker, Build};
use crate::raw_client::{RawClient, durable_connect};

const SESSIONS: usize = 2_000;

/// Messages that each missed.
const MISSED: usize = 2;

/// Threads that come back for all.
const THREADS: usize = 4;

/// Sessions that one of them brings back at once.
const AT_ONCE: usize = 100;

/// Connections that stay until the end.
const KEPT_MAX: usize = 12_000;

/// Longest that the witness may wait at its 99th percentile, on a machine that does much else.
const P99_MAX: Duration = Duration::from_millis(500);

const VERSION: ProtocolVersion = ProtocolVersion::V5;

fn client_id(n: usize) -> String {
    format!("sleeper-{n}")
}

/// Does something for all sessions, on several threads.
fn for_all<T: Send>(sessions: usize, each: impl Fn(Range<usize>) -> T + Sync) -> Vec<T> {
    let part = sessions.div_ceil(THREADS);
    thread::scope(|scope| {
        let parts = (0..sessions).step_by(part).map(|from| from..sessions.min(from + part));
        let threads: Vec<_> = parts.map(|part| scope.spawn(|| each(part))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a part of the sessions")).collect()
    })
}

/// Brings sessions back, many at once, until each has what it missed; returns how many, and the last of them, which stay
/// connected.
fn come_back(broker: &Broker, sessions: Range<usize>) -> (usize, Vec<RawClient>) {
    let mut back = Vec::with_capacity(sessions.len().min(KEPT_MAX / THREADS + AT_ONCE));
    let mut count = 0;
    for from in sessions.clone().step_by(AT_ONCE) {
        let some = from..sessions.end.min(from + AT_ONCE);
        let open = |n: usize| {
            let mut client = RawClient::open(broker.address(), VERSION);
            client.send(&Packet::Connect(Box::new(durable_connect(&client_id(n), VERSION))));
            client
        };
        let clients: Vec<RawClient> = some.clone().map(open).collect();
        for (n, mut client) in some.zip(clients) {
            match client.receive() {
                Packet::ConnAck(connack) => assert!(connack.session_present, "session {n} was lost"),
                other => panic!("session {n} got {other:?}"),
            }
            for message in 0..MISSED {
                let publish = client.expect_message(&format!("back/{n}"), format!("{message}"));
                client.puback(publish.packet_id.expect("QoS 1 has a packet id"));
            }
            back.push(client);
            count += 1;
        }
        let leave = back.len().saturating_sub(KEPT_MAX / THREADS);
        back.drain(..leave).for_each(RawClient::lose);
    }
    (count, back)
}

#[test]
fn thousands_of_sessions_that_come_back_at_once_get_all_and_disturb_nobody() {
    let sessions = std::env::var("POSTRIDER_TEST_RETURNING")
        .map_or(SESSIONS, |text| text.parse().expect("POSTRIDER_TEST_RETURNING is a number"));
    let broker = Broker::start_with(Build::Release, None);
    for_all(sessions, |part| {
        for n in part {
            let (mut client, was_there) = broker.durable(&client_id(n), VERSION);
            assert!(!was_there);
            client.subscribe(&format!("back/{n}"), QoS::AtLeastOnce);
            client.lose();
        }
    });
    for_all(sessions, |part| {
        let mut writer = broker.client(&format!("writer-{}", part.start), VERSION);
        for n in part {
            (0..MISSED)
                .for_each(|message| writer.publish_accepted(&format!("back/{n}"), format!("{message}")));
        }
        writer.disconnect();
    });
    let witness = Witness::start(broker.address());
    let rest = witness.measure_for(Duration::from_secs(2));

    let started = Instant::now();
    let (counts, kept): (Vec<usize>, Vec<Vec<RawClient>>) =
        for_all(sessions, |part| come_back(&broker, part)).into_iter().unzip();
    let back: usize = counts.into_iter().sum();
    let took = started.elapsed();
    let meanwhile = witness.stop();

    println!("returning: {back} sessions were back in {:.2} s", took.as_secs_f64());
    println!("returning: witness at rest   {rest}");
    println!("returning: witness meanwhile {meanwhile}");
    assert_eq!(back, sessions);
    assert_eq!(meanwhile.lost, 0, "the witness lost messages");
    assert!(meanwhile.p99 < P99_MAX, "the witness waited: {meanwhile}");
    for mut client in kept.into_iter().flatten() {
        client.expect_no_message();
    }
}
