//! Kills and power cuts under load: nothing acknowledged is lost, nothing comes out of order, no seq is left out or
//! used twice, and QoS 2 comes once.
//!
//! `POWER_KILLS` and `POWER_CUTS` say how often; the figures are printed.

mod cut;
mod ledger;
mod link;
mod load;

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use protocol::ProtocolVersion::V5;
use protocol::{QoS, im};

use crate::broker_process::{Broker, Build};
use crate::raw_client::{PATIENCE, RawClient, message, property};
use ledger::{Faults, judge};
use load::{Board, Got, LAST, LINES, Published, Publisher, State, Subscriber};

/// Messages that each publisher may send between two kills.
const QUOTA: u32 = 120;

/// The same between two cuts: each copy is read from its first message on.
const CUT_QUOTA: u32 = 40;

fn times(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number of times"))
}

fn config(durability: &str) -> String {
    // Small segments: kills meet changes of segment, too.
    format!(
        "[store]\ndurability = \"{durability}\"\nsegment_bytes = 262144\n[queue]\nmessages_max = 10000000\n"
    )
}

fn publishers(broker: SocketAddr, board: &Arc<Board>) -> Vec<JoinHandle<()>> {
    LINES
        .into_iter()
        .map(|line| {
            let publisher = Publisher::new(line, board);
            thread::spawn(move || publisher.run(broker))
        })
        .collect()
}

fn subscribe(broker: SocketAddr, subscriber: Subscriber) -> JoinHandle<Vec<Got>> {
    thread::spawn(move || subscriber.run(broker))
}

/// Publishes the message after which nothing comes.
fn publish_last(broker: SocketAddr) {
    RawClient::connect(broker, "last", V5).publish_accepted(LAST, "x");
}

fn join<T>(handle: JoinHandle<T>) -> T {
    handle.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause))
}

fn killed_under_load(durability: &str) {
    let kills = times("POWER_KILLS", 12);
    let mut broker = Broker::start_with(Build::Release, Some(&config(durability)));
    let (address, board) = (broker.address(), Board::new());
    let mut chance = fastrand::Rng::with_seed(kills as u64);
    let away = Subscriber::new("away", QoS::ExactlyOnce, &board).away(address);
    let once = subscribe(address, Subscriber::new("at-least-once", QoS::AtLeastOnce, &board));
    let exactly = subscribe(address, Subscriber::new("exactly-once", QoS::ExactlyOnce, &board));
    let members = ["member-1", "member-2"].map(|id| subscribe(address, Subscriber::member(id, &board)));
    board.wait_for_subscribers(4);
    let publishers = publishers(address, &board);

    let mut restarts: Vec<Duration> = Vec::new();
    for _ in 0..kills {
        let until = board.lock().acknowledged() + chance.usize(1..QUOTA as usize * LINES.len());
        board.allow(QUOTA);
        board.wait("acknowledgements", |state| state.acknowledged() >= until);
        let began = Instant::now();
        broker.crash_and_return();
        restarts.push(began.elapsed());
    }
    board.wait("the last acknowledgement", State::is_all_acknowledged);
    publish_last(address);
    let [once, exactly] = [once, exactly].map(join);
    let total = board.lock().acknowledged();
    board.wait("the last message of the group", |state| state.shared.len() == total);
    board.is_over.store(true, Ordering::Relaxed);
    publishers.into_iter().for_each(join);
    members.into_iter().for_each(|member| drop(join(member)));
    let later = Board::new();
    let away = away.returning(&later).run(address);

    let published = board.lock().published.clone();
    let mut faults = judge(&published, &once, QoS::AtLeastOnce);
    faults += &judge(&published, &exactly, QoS::ExactlyOnce);
    faults += &judge(&published, &away, QoS::ExactlyOnce);
    restarts.sort_unstable();
    let again = once.len() - total;
    println!(
        "durability {durability}: {kills} kills, {total} messages acknowledged, each at 3 subscribers and a group; \
         {again} came again at QoS 1; from kill to listening {:?} at the median, {:?} at most; {faults:?}",
        restarts[restarts.len() / 2],
        restarts[restarts.len() - 1],
    );
    assert_eq!(faults, Faults::default());
}

#[test]
fn kills_under_load_lose_repeat_and_reorder_nothing_when_power_is_promised() {
    killed_under_load("power");
}

#[test]
fn kills_under_load_lose_repeat_and_reorder_nothing_when_the_process_is_promised() {
    killed_under_load("process");
}

fn signal(broker: &Broker, signal: &str) {
    let done = Command::new("kill").args([signal, &broker.pid().to_string()]).status().expect("kill runs");
    assert!(done.success(), "the broker runs");
}

/// Stops the process, and waits until all its threads stand: one in the middle of a sync ends it first.
fn stop(broker: &Broker) {
    signal(broker, "-STOP");
    let tasks = format!("/proc/{}/task", broker.pid());
    let deadline = Instant::now() + PATIENCE;
    let stands = |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'));
    let all_stand = || {
        let tasks = fs::read_dir(&tasks).expect("the process has threads").flatten();
        tasks.map(|task| fs::read_to_string(task.path().join("stat"))).all(|stat| stat.is_ok_and(stands))
    };
    while !all_stand() {
        assert!(Instant::now() < deadline, "the broker does not stop");
        thread::yield_now();
    }
}

/// Opens a broker on a copy of a store and judges what the client that was away finds.
fn judge_copy(copy: &std::path::Path, away: &Subscriber, published: &[Published]) -> (Faults, usize) {
    let broker = Broker::start_in(Build::Release, Some(&config("power")), copy);
    publish_last(broker.address());
    let got = away.returning(&Board::new()).run(broker.address());
    let mut faults = judge(published, &got, QoS::ExactlyOnce);
    // The conversation goes on with a number that nobody has seen.
    let room = LINES[2].topic;
    let highest = got.iter().filter(|g| LINES[g.publisher].topic == room).filter_map(|g| g.seq).max();
    let mut client = broker.client("next", V5);
    let ack = client.publish(message(room, "x", QoS::AtLeastOnce)).expect("QoS 1 has an ack");
    let seq = property(&ack.properties.user_properties, im::IM_SEQ).map(|seq| seq.parse().expect("a seq"));
    faults.seqs_wrong += usize::from(seq != Some(highest.unwrap_or(0) + 1));
    (faults, got.len())
}

#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged() {
    let cuts = times("POWER_CUTS", 8);
    let broker = Broker::start_with(Build::Release, Some(&config("power")));
    let (address, board) = (broker.address(), Board::new());
    let mut chance = fastrand::Rng::with_seed(cuts as u64);
    let away = Subscriber::new("away", QoS::ExactlyOnce, &board).away(address);
    let exactly = subscribe(address, Subscriber::new("exactly-once", QoS::ExactlyOnce, &board));
    board.wait_for_subscribers(1);
    let publishers = publishers(address, &board);
    let (mut faults, mut made, mut judged) = (Faults::default(), Vec::new(), 0);
    for _ in 0..cuts {
        let until = board.lock().acknowledged() + chance.usize(1..CUT_QUOTA as usize * LINES.len() / 2);
        board.allow(CUT_QUOTA);
        board.wait("acknowledgements", |state| state.acknowledged() >= until);
        stop(&broker);
        let copy = tempfile::tempdir().expect("a temporary directory");
        cut::copy(&broker.data_dir(), copy.path());
        let stock = board.take_stock();
        signal(&broker, "-CONT");
        made.push(cut::cut(copy.path(), &stock, &mut chance));
        let (of_copy, messages) = judge_copy(copy.path(), &away, &stock);
        assert_eq!(of_copy, Faults::default(), "{made:?}");
        faults += &of_copy;
        judged += messages;
    }
    board.is_over.store(true, Ordering::Relaxed);
    publishers.into_iter().for_each(join);
    join(exactly);
    made.sort_unstable();
    println!("{cuts} cuts {made:?}: {judged} messages judged, {faults:?}");
}
