//! What the store costs: durable publishes and their acknowledgements beside a bare loop of append and fdatasync; then
//! a queue of many messages in many sessions: opening, memory, bytes on disk, draining, and the space afterwards.

use std::{
    fs,
    io::Write,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use protocol::{ProtocolVersion, QoS};

use crate::{
    clients::{Clients, SILENCE_MAX},
    frame::{AckKind, Frame, Template},
    servers::{Durability, Server},
};

const VERSION: ProtocolVersion = ProtocolVersion::V5;
const PAYLOAD_BYTES: usize = 200;
/// What a message of that payload takes in the log, about: what the bare loop writes for each.
const RECORD_BYTES: usize = 320;
/// Publishers, how many messages each has under way, and whether the subscriber, whose session is persistent, is there.
const LOADS: [(usize, usize, bool); 5] =
    [(1, 1, false), (64, 1, false), (64, 16, false), (64, 16, true), (1_000, 1, false)];
/// Messages of the filler that wait for their PUBACK.
const AHEAD: usize = 1_000;
/// Sessions that are connected at once while they are made or drained.
const CONNECTED: usize = 500;
/// Space must be back after this long.
const SPACE_MAX: Duration = Duration::from_secs(120);

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) sessions: u64,
    pub(crate) queued: u64,
    pub(crate) seconds: f64,
}

pub(crate) fn run(program: &Path, load: Load) -> Result<()> {
    println!(
        "| durability | publishers | under way each | subscriber | durable publishes/s | ack p50 ms | ack p99 ms | \
         CPU µs a publish | of it shard, writer, view | bare loop/s | its sync p50, p99 ms | ack p99 / sync p99 |"
    );
    println!("| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | --- | ---: | --- | ---: |");
    for (durability, name) in [(Durability::Power, "power"), (Durability::Process, "process")] {
        for (publishers, ahead, is_there) in LOADS {
            let published = publish(program, durability, (publishers, ahead, is_there), load.seconds)?;
            let bare = bare_loop(durability, publishers * ahead, load.seconds)?;
            let Published { rate, p50_ms, p99_ms, cpu_us, threads_us: [shard, writer, view] } = published;
            let subscriber = if is_there { "connected" } else { "offline" };
            let (ratio, syncs) = match bare.sync_ms {
                Some([p50, p99]) => (format!("{:.1}", p99_ms / p99), format!("{p50:.2}, {p99:.2}")),
                None => ("–".to_owned(), "–".to_owned()),
            };
            println!(
                "| {name} | {publishers} | {ahead} | {subscriber} | {rate:.0} | {p50_ms:.2} | {p99_ms:.2} | \
                 {cpu_us:.1} | {shard:.1}, {writer:.1}, {view:.1} | {:.0} | {syncs} | {ratio} |",
                bare.rate
            );
        }
    }
    queue(program, load)
}

struct Published {
    rate: f64,
    p50_ms: f64,
    p99_ms: f64,
    cpu_us: f64,
    /// Of the shard's thread, the log's writer, and the threads of the view, a publish.
    threads_us: [f64; 3],
}

/// Which of the three that are told a thread belongs to.
fn thread_group(name: &str) -> Option<usize> {
    ["shard", "log-writer", "view"].iter().position(|group| name.starts_with(group))
}

/// Each publisher sends its next message when one of those under way was acknowledged; a persistent session gets them all.
fn publish(
    program: &Path,
    durability: Durability,
    (publishers, ahead, is_there): (usize, usize, bool),
    seconds: f64,
) -> Result<Published> {
    let folder = tempfile::tempdir()?;
    let server = Server::on_store(program, durability, folder.path())?;
    let mut clients = Clients::new(server.addr, VERSION)?;
    let keeper = clients.connect(&["keeper".to_owned()], false)?[0];
    clients.subscribe(&[(keeper, "bench/#".to_owned())], QoS::AtLeastOnce)?;
    if !is_there {
        clients.disconnect(keeper)?;
    }
    let names: Vec<_> = (0..publishers).map(|number| format!("publisher-{number}")).collect();
    let links = clients.connect(&names, true)?;
    // By link and packet id.
    let mut sent = vec![Instant::now(); (links.len() + 1) * ahead];
    let template = message("bench/store")?;
    let mut send = |clients: &mut Clients, link: usize, id: u16| {
        let place = (link - 1) * ahead + usize::from(id) - 1;
        let before = std::mem::replace(&mut sent[place], Instant::now());
        clients.send_publish(link, &template, id, &[]);
        before.elapsed()
    };
    let (begin, cpu, before) = (Instant::now(), server.cpu_ns()?, server.cpu_ns_by_thread()?);
    for id in 1..=ahead as u16 {
        for link in &links {
            send(&mut clients, *link, id);
        }
    }
    let (mut acks, mut delivered) = (Vec::new(), 0);
    while begin.elapsed().as_secs_f64() < seconds {
        clients.turn(Some(SILENCE_MAX), |clients, link, frame| {
            if let Frame::Publish { qos, packet_id, .. } = frame {
                clients.acknowledge(link, qos, packet_id);
                delivered += 1;
            } else {
                let id = accepted(&frame)?;
                acks.push(send(clients, link, id));
            }
            Ok(())
        })?;
    }
    let (took, cpu, after) = (begin.elapsed(), server.cpu_ns()? - cpu, server.cpu_ns_by_thread()?);
    ensure!(!acks.is_empty(), "no publish was acknowledged in {seconds} s");
    if is_there {
        // One subscriber may be slower than all publishers together; the rest waits in its queue.
        eprintln!("{publishers} publishers: {delivered} of {} messages were delivered meanwhile", acks.len());
    }
    acks.sort_unstable();
    let at = |share: usize| acks[(acks.len() - 1) * share / 100].as_secs_f64() * 1e3;
    let mut threads_us = [0.0; 3];
    for (name, ns) in &after {
        if let Some(group) = thread_group(name) {
            let used = ns - before.get(name).copied().unwrap_or(0).min(*ns);
            threads_us[group] += used as f64 / 1e3 / acks.len() as f64;
        }
    }
    Ok(Published {
        rate: acks.len() as f64 / took.as_secs_f64(),
        p50_ms: at(50),
        p99_ms: at(99),
        cpu_us: cpu as f64 / 1e3 / acks.len() as f64,
        threads_us,
    })
}

struct Bare {
    rate: f64,
    /// p50 and p99 of its syncs, if it syncs.
    sync_ms: Option<[f64; 2]>,
}

/// Appends what so many messages at once take, and syncs it if the durability says so.
fn bare_loop(durability: Durability, at_once: usize, seconds: f64) -> Result<Bare> {
    let folder = tempfile::tempdir()?;
    let mut file = fs::File::create(folder.path().join("bare"))?;
    let bytes = vec![7; RECORD_BYTES * at_once];
    let begin = Instant::now();
    let (mut messages, mut file_bytes, mut syncs) = (0, 0, Vec::new());
    while begin.elapsed().as_secs_f64() < seconds {
        file.write_all(&bytes)?;
        if durability == Durability::Power {
            let begin = Instant::now();
            file.sync_data()?;
            syncs.push(begin.elapsed());
        }
        messages += at_once;
        file_bytes += bytes.len();
        if file_bytes > 256 * 1024 * 1024 {
            // Not to fill the disk without a sync.
            file.set_len(0)?;
            std::io::Seek::rewind(&mut file)?;
            file_bytes = 0;
        }
    }
    let rate = messages as f64 / begin.elapsed().as_secs_f64();
    syncs.sort_unstable();
    let at = |share: usize| syncs.get(syncs.len().saturating_sub(1) * share / 100);
    let sync_ms = at(50).zip(at(99)).map(|(p50, p99)| [p50, p99].map(|sync| sync.as_secs_f64() * 1e3));
    Ok(Bare { rate, sync_ms })
}

/// Fills queues, opens, drains, and looks at the space.
fn queue(program: &Path, load: Load) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let store = folder.path();
    let server = Server::on_store(program, Durability::Process, store)?;
    let messages = load.sessions * load.queued;
    make_sessions(&server, load.sessions)?;
    server.terminate()?;
    let server = Server::on_store(program, Durability::Process, store)?;
    let (empty_bytes, empty_memory) = (recovered_bytes(&server)?, server.rss_bytes()?);
    let begin = Instant::now();
    fill(&server, load)?;
    let filled = begin.elapsed().as_secs_f64();
    let filled_memory = server.rss_bytes()?;
    server.terminate()?;
    let begin = Instant::now();
    let server = Server::on_store(program, Durability::Process, store)?;
    let opened = begin.elapsed();
    let stored = recovered_bytes(&server)?.saturating_sub(empty_bytes);
    let said = server.said.iter().find(|line| line.contains("store")).cloned().unwrap_or_default();
    let memory = server.rss_bytes()?.saturating_sub(empty_memory);
    println!("\n{messages} messages of {PAYLOAD_BYTES} bytes in {} sessions:", load.sessions);
    println!("- filled at {:.0} messages/s", messages as f64 / filled);
    println!("- opened in {:.0} ms, the process's start included ({said})", opened.as_secs_f64() * 1e3);
    println!("- log: {:.0} bytes a message on disk", stored as f64 / messages as f64);
    println!(
        "- memory: {:.0} bytes a queued message after opening, {:.0} after filling",
        memory as f64 / messages as f64,
        filled_memory.saturating_sub(empty_memory) as f64 / messages as f64
    );
    let (begin, cpu) = (Instant::now(), server.cpu_ns()?);
    drain(&server, load)?;
    let (took, cpu) = (begin.elapsed().as_secs_f64(), server.cpu_ns()? - cpu);
    println!(
        "- drained at {:.0} messages/s, {:.2} CPU µs a message, sessions resumed {CONNECTED} at a time",
        messages as f64 / took,
        cpu as f64 / 1e3 / messages as f64
    );
    let begin = Instant::now();
    let enough = 4 * 16 * 1024 * 1024;
    while log_bytes(store)? > enough && begin.elapsed() < SPACE_MAX {
        thread::sleep(Duration::from_millis(100));
    }
    let (left, view) = (log_bytes(store)?, folder_bytes(&store.join("view"))?);
    println!(
        "- {:.1} s later the log takes {left} bytes on disk and the view {view}",
        begin.elapsed().as_secs_f64()
    );
    ensure!(left <= enough, "the space did not come back in {SPACE_MAX:?}");
    server.terminate()
}

fn session(number: u64) -> String {
    format!("session-{number}")
}

fn names(from: u64, load: u64) -> Vec<String> {
    (from..load.min(from + CONNECTED as u64)).map(session).collect()
}

fn make_sessions(server: &Server, sessions: u64) -> Result<()> {
    let mut clients = Clients::new(server.addr, VERSION)?;
    for from in (0..sessions).step_by(CONNECTED) {
        let links = clients.connect(&names(from, sessions), false)?;
        let filters: Vec<_> =
            links.iter().zip(from..).map(|(link, number)| (*link, format!("queue/{number}"))).collect();
        clients.subscribe(&filters, QoS::AtLeastOnce)?;
        for link in links {
            clients.disconnect(link)?;
        }
    }
    Ok(())
}

fn fill(server: &Server, load: Load) -> Result<()> {
    let mut clients = Clients::new(server.addr, VERSION)?;
    let link = clients.connect(&["filler".to_owned()], true)?[0];
    let (mut sent, mut acknowledged) = (0, 0);
    let messages = load.sessions * load.queued;
    let mut last = Instant::now();
    while acknowledged < messages {
        while sent < messages && sent - acknowledged < AHEAD as u64 {
            let id = (sent % AHEAD as u64) as u16 + 1;
            let template = message(&format!("queue/{}", sent % load.sessions))?;
            clients.send_publish(link, &template, id, &[]);
            sent += 1;
        }
        // A turn may end with nothing but what was written.
        clients.turn(Some(SILENCE_MAX), |_, _, frame| {
            accepted(&frame)?;
            (acknowledged, last) = (acknowledged + 1, Instant::now());
            Ok(())
        })?;
        ensure!(last.elapsed() < SILENCE_MAX, "no PUBACK in {SILENCE_MAX:?}");
    }
    Ok(())
}

fn drain(server: &Server, load: Load) -> Result<()> {
    let mut clients = Clients::new(server.addr, VERSION)?;
    for from in (0..load.sessions).step_by(CONNECTED) {
        let names = names(from, load.sessions);
        let links = names.iter().map(|name| clients.open(name, false)).collect::<Result<Vec<_>>>()?;
        let mut left = links.len() as u64 * load.queued;
        let mut last = Instant::now();
        while left > 0 {
            clients.turn(Some(Duration::from_millis(100)), |clients, link, frame| {
                let Frame::Publish { qos, packet_id, payload } = frame else { return Ok(()) };
                last = Instant::now();
                ensure!(payload.len() == PAYLOAD_BYTES, "{} bytes came", payload.len());
                clients.acknowledge(link, qos, packet_id);
                left -= 1;
                Ok(())
            })?;
            ensure!(last.elapsed() < SILENCE_MAX, "{left} messages did not come in {SILENCE_MAX:?}");
        }
        for link in links {
            clients.disconnect(link)?;
        }
    }
    Ok(())
}

fn message(topic: &str) -> Result<Template> {
    Template::new(topic, QoS::AtLeastOnce, false, PAYLOAD_BYTES, VERSION)
}

fn accepted(frame: &Frame<'_>) -> Result<u16> {
    match frame {
        Frame::Ack { kind: AckKind::Ack, packet_id, .. } => Ok(*packet_id),
        _ => bail!("{frame:?} came for a PUBLISH"),
    }
}

/// What the log holds, without the rest of preallocated segments, as the server said when it started.
fn recovered_bytes(server: &Server) -> Result<u64> {
    let bytes =
        server.said.iter().find_map(|line| line.split_once(" from ")?.1.split_once(" bytes")?.0.parse().ok());
    bytes.with_context(|| format!("no size of the log in {:?}", server.said))
}

/// Blocks that the log's files take.
fn log_bytes(store: &Path) -> Result<u64> {
    let is_log =
        |path: &Path| path.extension().is_some_and(|extension| extension == "seg" || extension == "kept");
    let mut bytes = 0;
    for entry in fs::read_dir(store)? {
        let path = entry?.path();
        if is_log(&path) {
            // It may have been replaced just now.
            bytes += fs::metadata(&path).map_or(0, |about| blocks(&about));
        }
    }
    Ok(bytes)
}

fn folder_bytes(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let about = entry.metadata()?;
        bytes += if about.is_dir() { folder_bytes(&entry.path())? } else { blocks(&about) };
    }
    Ok(bytes)
}

fn blocks(about: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(about) * 512
}
