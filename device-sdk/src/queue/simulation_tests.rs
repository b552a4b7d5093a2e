//! The queue on a simulated disk: seeded runs with power cuts in the middle of any write, and a model of who has what.
//!
//! Everything but the thread and the socket is real: enqueues, the writer's rounds, windows, recovery. A broker that knows the
//! ids it has seen, as ours does, is a set.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use storage::sim::SimDisk;

use super::place::Places;
use super::state::State;
use super::store::{Limits, Store};
use super::writer::Writer;
use super::{Class, Entry, PendingEntry, Queue, QueueClock, Shared, Slots, told_ms};
use crate::{Message, QueueOptions, Thinning};

/// Simulated directories; clones are handles to the same ones.
#[derive(Clone)]
struct SimPlaces {
    disks: Arc<Mutex<BTreeMap<String, SimDisk>>>,
    seed: u64,
}

impl SimPlaces {
    fn new(seed: u64) -> Self {
        Self { disks: Arc::default(), seed }
    }

    /// Returns what a power cut leaves of all of them.
    fn crash(&self, rng: &mut fastrand::Rng) -> Self {
        let disks = self.disks.lock().unwrap();
        let left = disks.iter().map(|(name, disk)| (name.clone(), disk.crash(rng))).collect();
        Self { disks: Arc::new(Mutex::new(left)), seed: self.seed }
    }

    fn any(&self, rng: &mut fastrand::Rng) -> SimDisk {
        let disks = self.disks.lock().unwrap();
        disks.values().nth(rng.usize(0..disks.len())).unwrap().clone()
    }
}

impl Places for SimPlaces {
    type Disk = SimDisk;

    fn open(&self, name: &str) -> io::Result<SimDisk> {
        let mut disks = self.disks.lock().unwrap();
        let seed = self.seed + disks.len() as u64;
        Ok(disks.entry(name.to_owned()).or_insert_with(|| SimDisk::new(seed)).clone())
    }

    fn exists(&self, name: &str) -> bool {
        self.disks.lock().unwrap().contains_key(name)
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/simulated").join(name)
    }
}

/// One life of the device.
struct Life {
    queue: Queue,
    shared: Arc<Shared>,
    writer: Writer<SimPlaces>,
    waiting: Vec<(u64, Class, PendingEntry)>,
    under_way: Vec<Entry>,
}

impl Life {
    fn begin(places: &SimPlaces, options: &QueueOptions, seed: u64) -> Result<Self, String> {
        let limits = Limits { bytes_max: options.bytes_max, thinning: options.thinning };
        let (mut store, found) =
            Store::open(places.clone(), limits, seed).map_err(|error| error.to_string())?;
        let before_ms = told_ms(&found);
        let shared =
            Shared::new(State::recovered(options, &mut store, found), QueueClock::running(before_ms));
        let writer = Writer::new(store, shared.clone(), 0);
        let queue = Queue::with(shared.clone());
        Ok(Self { queue, shared, writer, waiting: Vec::new(), under_way: Vec::new() })
    }
}

/// What the device, the broker and the subscriber know.
#[derive(Default)]
struct World {
    next: u64,
    accepted: BTreeMap<u64, Class>,
    /// The payload that the broker has under an id.
    seen: HashMap<String, u64>,
    delivered: BTreeMap<u64, u32>,
    /// Dropped and told, in all lives.
    told_dropped: u64,
    crashes: u32,
    repeated: u32,
}

#[derive(Clone, Copy)]
struct Plan {
    seed: u64,
    steps: u32,
    crashes: bool,
    /// Payload bytes; large ones reach the quota.
    payload_bytes: usize,
    skips_sync: bool,
}

fn payload(number: u64, bytes: usize) -> Vec<u8> {
    // A way with bends: some of its points are needed, some not.
    let lat = 31.0 + (number as f64 * 0.01).sin() * 0.01;
    let lon = 121.0 + number as f64 * 0.0001;
    let mut payload = format!(r#"{{"n":{number},"ts":{},"lat":{lat},"lon":{lon},"pad":""#, number * 1_000);
    payload.extend(std::iter::repeat_n('x', bytes));
    payload.push_str("\"}");
    payload.into_bytes()
}

fn number(payload: &[u8]) -> u64 {
    let text = std::str::from_utf8(payload).unwrap();
    text[5..text.find(',').unwrap()].parse().unwrap()
}

fn run(plan: Plan) -> Result<World, String> {
    let mut rng = fastrand::Rng::with_seed(plan.seed);
    let options = QueueOptions {
        thinning: Some(Thinning { tolerance_m: 2, tolerance_m_max: 4_000 }),
        ..QueueOptions::new("/simulated", 1024 * 1024)
    };
    let mut places = SimPlaces::new(plan.seed);
    let mut world = World::default();
    let mut life = Life::begin(&places, &options, plan.seed)?;
    for step in 0..plan.steps {
        if plan.skips_sync {
            life.writer.store().plant_skip_sync();
        }
        if plan.crashes && rng.u8(0..30) == 0 {
            places.any(&mut rng).cut_power(rng.u64(1..8));
        }
        enqueue_some(&mut life, &mut world, &mut rng, plan.payload_bytes);
        let acks = rng.u8(0..4) == 0;
        let result = life.writer.turn(acks);
        take_accepted(&mut life, &mut world);
        let is_cut = result.is_err() || plan.crashes && rng.u8(0..60) == 0;
        if let Err(what) = &result
            && !what.contains("power cut")
        {
            return Err(format!("step {step}: {what}"));
        }
        if is_cut {
            world.told_dropped += life.queue.status().dropped.total();
            places = places.crash(&mut rng);
            world.crashes += 1;
            life =
                Life::begin(&places, &options, rng.u64(..)).map_err(|what| format!("step {step}: {what}"))?;
            continue;
        }
        send_some(&mut life, &mut world, &mut rng, step)?;
    }
    // The link is good and the power stays.
    if plan.crashes {
        places = places.crash(&mut rng);
        world.told_dropped += life.queue.status().dropped.total();
        life = Life::begin(&places, &options, rng.u64(..))?;
    }
    for entry in &life.under_way {
        receive(&mut world, entry)?;
    }
    for _ in 0..100_000 {
        life.writer.turn(true)?;
        while let Some(entry) = pop(&life) {
            receive(&mut world, &entry)?;
            life.under_way.push(entry);
        }
        for entry in life.under_way.drain(..) {
            life.queue.ack(&entry);
        }
        if life.queue.status().entries == 0 {
            break;
        }
    }
    if life.queue.status().entries > 0 {
        return Err(format!("{:?} does not drain", life.queue.status()));
    }
    world.told_dropped += life.queue.status().dropped.total();
    check(&world, plan)?;
    Ok(world)
}

fn enqueue_some(life: &mut Life, world: &mut World, rng: &mut fastrand::Rng, payload_bytes: usize) {
    for _ in 0..rng.usize(0..6) {
        world.next += 1;
        let class = Class::ALL[rng.usize(0..Class::ALL.len())];
        // Urgent entries are few, or they fill the reserve.
        let class = if class <= Class::Result && rng.u8(0..8) > 0 { Class::Track } else { class };
        let bytes = if class == Class::Track { 10 } else { payload_bytes };
        let message = Message::new(format!("dev/7/{}", class.name()), payload(world.next, bytes));
        let mut enqueued = Box::pin(life.queue.enqueue(class, message));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        if let std::task::Poll::Ready(Ok(pending)) = enqueued.as_mut().poll(&mut context) {
            life.waiting.push((world.next, class, pending));
        }
    }
}

fn take_accepted(life: &mut Life, world: &mut World) {
    for (number, class, pending) in std::mem::take(&mut life.waiting) {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut wait = Box::pin(pending.wait());
        if let std::task::Poll::Ready(Ok(())) = wait.as_mut().poll(&mut context) {
            world.accepted.insert(number, class);
        }
    }
}

fn pop(life: &Life) -> Option<Entry> {
    life.queue.pop(Slots { used: life.under_way.len(), max: 64 })
}

fn send_some(life: &mut Life, world: &mut World, rng: &mut fastrand::Rng, step: u32) -> Result<(), String> {
    // Long outages, so that there is a backlog.
    if step % 400 < 250 {
        return Ok(());
    }
    for _ in 0..rng.usize(0..16) {
        let Some(entry) = pop(life) else { break };
        // What the broker gets and what comes back of it are two things.
        if rng.u8(0..10) > 0 {
            receive(world, &entry)?;
        }
        life.under_way.push(entry);
    }
    let under_way = std::mem::take(&mut life.under_way);
    for entry in under_way {
        match rng.u8(0..10) {
            // The broker refused it for now.
            0 if !world.seen.contains_key(entry.id()) => life.queue.put_back(entry),
            1..=6 => {
                receive(world, &entry)?;
                life.queue.ack(&entry);
            }
            _ => life.under_way.push(entry),
        }
    }
    Ok(())
}

/// The broker takes a publish, once for each id.
fn receive(world: &mut World, entry: &Entry) -> Result<(), String> {
    let (id, number) = (entry.id().to_owned(), number(&entry.publish.payload));
    match world.seen.insert(id.clone(), number) {
        None => *world.delivered.entry(number).or_default() += 1,
        Some(before) if before == number => world.repeated += 1,
        Some(before) => return Err(format!("{id} is the id of {before} and of {number}")),
    }
    Ok(())
}

fn check(world: &World, plan: Plan) -> Result<(), String> {
    if let Some((number, count)) = world.delivered.iter().find(|(_, count)| **count > 1) {
        return Err(format!("{number} was delivered {count} times"));
    }
    let mut missing = 0;
    for (number, class) in &world.accepted {
        if world.delivered.contains_key(number) {
            continue;
        }
        if !matches!(class, Class::Track | Class::Debug) {
            return Err(format!("{number}, {}, was accepted and is lost", class.name()));
        }
        missing += 1;
    }
    // A crash may come between giving up and telling.
    if !plan.crashes && missing != world.told_dropped {
        return Err(format!("{missing} are missing, {} are told as dropped", world.told_dropped));
    }
    Ok(())
}

const SMALL: Plan = Plan { seed: 0, steps: 800, crashes: true, payload_bytes: 40, skips_sync: false };

/// Seeds from `POSTRIDER_QUEUE_SEEDS`, or this many.
fn seeds(usual: u64) -> std::ops::Range<u64> {
    let asked = std::env::var("POSTRIDER_QUEUE_SEEDS").ok().and_then(|count| count.parse().ok());
    0..asked.unwrap_or(usual)
}

#[test]
fn nothing_accepted_is_lost_or_doubled_by_power_cuts_in_the_middle_of_writes() {
    let (mut crashes, mut accepted, mut repeated) = (0, 0, 0);
    for seed in seeds(40) {
        let world = run(Plan { seed, ..SMALL }).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        crashes += world.crashes;
        repeated += world.repeated;
        accepted += world.accepted.len();
    }
    println!("{accepted} entries accepted, {crashes} power cuts, {repeated} sent again under their id");
    assert!(crashes > 300 && accepted > 10_000 && repeated > 100, "{crashes} {accepted} {repeated}");
}

#[test]
fn with_the_quota_used_up_only_what_may_give_way_does_and_all_of_it_is_told() {
    let (mut dropped, mut accepted) = (0, 0);
    for (seed, crashes) in seeds(12).flat_map(|seed| [(seed, false), (seed, true)]) {
        let plan = Plan { seed, payload_bytes: 5_000, crashes, ..SMALL };
        let world = run(plan).unwrap_or_else(|what| panic!("seed {seed}, crashes {crashes}: {what}"));
        dropped += world.told_dropped;
        accepted += world.accepted.len();
    }
    println!("{accepted} entries accepted, {dropped} dropped and told");
    assert!(dropped > 500 && accepted > 5_000, "{dropped} {accepted}");
}

#[test]
fn a_store_that_does_not_sync_is_found_out() {
    let found = (0..10).filter(|seed| run(Plan { seed: *seed, skips_sync: true, ..SMALL }).is_err()).count();
    assert!(found >= 8, "found with {found} of 10 seeds");
}

#[test]
fn a_record_each_second_costs_little_more_than_its_payload() {
    const RECORDS: u64 = 8_000;
    let places = SimPlaces::new(1);
    let options = QueueOptions::new("/simulated", 64 * 1024 * 1024);
    let mut life = Life::begin(&places, &options, 1).unwrap();
    let mut world = World::default();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    for number in 0..RECORDS {
        let gps = format!(
            r#"{{"ts":{},"lat":31.{number:06},"lon":121.473701,"alt":12.3,"speed":13.89,"course":271.2,"hdop":0.9,"sats":11,"fix":3}}"#,
            1_764_156_795_123 + number * 1_000
        );
        let message = Message::new("dev/truck-7/telemetry/gps", gps);
        let mut enqueued = Box::pin(life.queue.enqueue(Class::Live, message));
        let std::task::Poll::Ready(Ok(pending)) = enqueued.as_mut().poll(&mut context) else { panic!() };
        drop(enqueued);
        life.waiting.push((number, Class::Live, pending));
        // Two seconds for a write to be shared: two records, sometimes three.
        if life.waiting.len() == 2 {
            life.writer.turn(false).unwrap();
            take_accepted(&mut life, &mut world);
        }
    }
    let offline = life.shared.lock().status;
    assert_eq!(offline.entries, RECORDS);
    // The upload, with what is acknowledged written each five seconds.
    while life.queue.status().entries > 0 {
        for _ in 0..500 {
            let Some(entry) = pop(&life) else { break };
            life.queue.ack(&entry);
        }
        life.writer.turn(true).unwrap();
    }
    let written = life.writer.store().written_bytes();
    let ratio = written as f64 / offline.payload_bytes as f64;
    println!("{ratio:.3} bytes written for a byte of payload: {written} for {}", offline.payload_bytes);
    assert!(ratio <= 1.5, "{ratio:.3}");
}

/// Enqueues one entry and gives it to the disk.
fn enqueue(life: &mut Life, class: Class, message: Message) -> Result<(), String> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut enqueued = Box::pin(life.queue.enqueue(class, message));
    let std::task::Poll::Ready(pending) = enqueued.as_mut().poll(&mut context) else { panic!("it waits") };
    let pending = pending.map_err(|error| error.to_string())?;
    drop(enqueued);
    life.writer.turn(false)?;
    let mut wait = Box::pin(pending.wait());
    let std::task::Poll::Ready(result) = wait.as_mut().poll(&mut context) else { panic!("no answer") };
    result.map_err(|error| error.to_string())
}

#[test]
fn a_failing_sync_ends_the_writing_and_what_was_accepted_stays_readable() {
    let places = SimPlaces::new(3);
    let options = QueueOptions::new("/simulated", 1024 * 1024);
    let mut life = Life::begin(&places, &options, 3).unwrap();
    // More than memory holds, so that some of it must be read.
    let body = |number: u64| payload(number, 3_000);
    for number in 0..200 {
        enqueue(&mut life, Class::Event, Message::new("t", body(number))).unwrap();
    }
    let mut life = {
        drop(life);
        Life::begin(&places, &options, 3).unwrap()
    };
    places.disks.lock().unwrap()[""].fail_sync(1);
    let error = enqueue(&mut life, Class::Event, Message::new("t", body(200))).unwrap_err();
    assert!(error.contains("simulated sync failure"), "{error}");
    life.writer.fail(&error);
    let error = enqueue(&mut life, Class::Event, Message::new("t", body(201))).unwrap_err();
    assert!(error.contains("disk failed") && error.contains("simulated sync failure"), "{error}");
    let mut sent = Vec::new();
    while sent.len() < 200 {
        // An error of writing is told again; reading goes on all the same.
        let _ = life.writer.turn(false);
        let entry = pop(&life).expect("what was accepted is readable");
        sent.push(number(&entry.publish.payload));
        life.queue.ack(&entry);
    }
    assert!(sent.iter().copied().eq(0..200));
    assert!(pop(&life).is_none(), "the one that was not accepted is not sent");
}

#[test]
fn what_may_have_been_sent_ahead_of_the_backlog_is_sent_again_before_it() {
    // A broker knows 100,000 ids of a user: behind a larger backlog it would take the entry for a new one.
    let places = SimPlaces::new(5);
    let options = QueueOptions::new("/simulated", 16 * 1024 * 1024);
    let mut life = Life::begin(&places, &options, 5).unwrap();
    for number in 0..2_000 {
        enqueue(&mut life, Class::Live, Message::new("t", payload(number, 10))).unwrap();
    }
    drop(life);
    let mut life = Life::begin(&places, &options, 5).unwrap();
    enqueue(&mut life, Class::Live, Message::new("t", payload(2_000, 10))).unwrap();
    let ahead = pop(&life).unwrap();
    assert_eq!(number(&ahead.publish.payload), 2_000);
    // The power is cut before its acknowledgement comes.
    let places = places.crash(&mut fastrand::Rng::with_seed(5));
    let mut life = Life::begin(&places, &options, 5).unwrap();
    let mut sent = Vec::new();
    while sent.len() < 2_001 {
        life.writer.turn(false).unwrap();
        let entry = pop(&life).expect("all are there");
        sent.push((entry.id().to_owned(), number(&entry.publish.payload)));
        life.queue.ack(&entry);
    }
    let place = sent.iter().position(|(_, number)| *number == 2_000).unwrap();
    // The newest of this run, and those that the run before had noted.
    assert!(place < 2 * 512 && sent[place].0 == ahead.id(), "{place}: {}", sent[place].0);
    sent.sort_by_key(|(_, number)| *number);
    assert!(sent.iter().map(|(_, number)| *number).eq(0..2_001), "each once");
}

#[test]
fn what_a_run_sent_again_is_sent_again_by_the_next_one_however_much_came_meanwhile() {
    let places = SimPlaces::new(6);
    let options = QueueOptions::new("/simulated", 16 * 1024 * 1024);
    let mut life = Life::begin(&places, &options, 6).unwrap();
    for number in 0..2_000 {
        enqueue(&mut life, Class::Live, Message::new("t", payload(number, 10))).unwrap();
    }
    let mut places = places.crash(&mut fastrand::Rng::with_seed(6));
    let mut unacknowledged = std::collections::BTreeSet::new();
    let mut next = 2_000;
    for _ in 0..4 {
        // Each run is offline for long; then it sends the first of what goes ahead, and the power is cut.
        let mut life = Life::begin(&places, &options, 6).unwrap();
        for _ in 0..600 {
            enqueue(&mut life, Class::Live, Message::new("t", payload(next, 10))).unwrap();
            next += 1;
        }
        for _ in 0..40 {
            let entry = life.shared.lock().window(Class::Live).pop().expect("there are thousands");
            unacknowledged.insert(entry.0);
        }
        places = places.crash(&mut fastrand::Rng::with_seed(6));
    }
    let mut life = Life::begin(&places, &options, 6).unwrap();
    let mut sent = Vec::new();
    while sent.len() < 1_200 {
        life.writer.turn(false).unwrap();
        let entry = pop(&life).expect("they are there");
        sent.push(entry.number());
        life.queue.ack(&entry);
    }
    // The newest 512, and what is left of those that the runs before had noted.
    let late: Vec<_> = unacknowledged.iter().filter(|number| !sent.contains(number)).collect();
    assert!(late.is_empty(), "{late:?} wait for their turn behind {} others", 4_400 - sent.len());
}

#[test]
fn the_time_that_runs_took_counts_for_expiry_and_a_restart_does_not_turn_it_back() {
    let places = SimPlaces::new(4);
    let options = QueueOptions::new("/simulated", 1024 * 1024);
    let life = |before_ms| {
        let mut life = Life::begin(&places, &options, 4).unwrap();
        let told_ms = life.shared.clock.before_ms;
        assert!(told_ms >= before_ms, "{told_ms}");
        life.shared.lock().is_online = true;
        life.writer.turn(false).unwrap();
        life
    };
    let mut first = life(0);
    enqueue(&mut first, Class::Event, Message::new("t", "old").expiry_s(100)).unwrap();
    // A run of a minute, told by the record that comes at its end.
    let minute = first.shared.now_ms() / 1_000 + 60;
    let later = Message::new("t", "young").expiry_s(100).into_publish();
    first.writer.store().append(Class::Event, &later, minute).unwrap();
    first.writer.store().commit().unwrap();
    drop(first);
    let second = life(60_000);
    let now_ms = second.shared.now_ms();
    let next = |now_ms| second.shared.lock().pop(now_ms, Slots { used: 0, max: 64 });
    let old = next(now_ms + 10_000).unwrap();
    let left_s = old.publish.properties.message_expiry_interval_s.unwrap();
    assert!((25..=31).contains(&left_s) && &old.publish.payload[..] == b"old", "{left_s}");
    second.queue.put_back(old);
    // A second before its end, and after it.
    let young = next(now_ms + 45_000).unwrap();
    assert_eq!(&young.publish.payload[..], b"young");
    assert_eq!(second.queue.status().dropped.expired, 1);
}
