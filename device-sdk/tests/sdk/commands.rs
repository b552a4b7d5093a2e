//! Commands: once each, whatever is repeated, killed or cut.

use std::sync::{Arc, Mutex};

use device_sdk::commands::{
    Actuator, Command, CommandJournal, CommandResult, CommandRunner, Handled, JournalError, Status,
};
use device_sdk::{Client, Events, Incoming, Options, PublishProperties, QoS};
use serde_json::{Value, json};

use super::child;
use super::tcp_peer::{Connection, Listener, soon};

/// Notes what it was asked to do; refuses and fails by the command's name.
#[derive(Clone, Default)]
struct Recorder {
    executed: Arc<Mutex<Vec<String>>>,
}

impl Actuator for Recorder {
    fn check(&mut self, command: &Command, _now_unix_ms: u64) -> Result<(), String> {
        if command.name == "forbidden" { Err("not while driving".to_owned()) } else { Ok(()) }
    }

    fn execute(&mut self, command: &Command) -> Result<Value, String> {
        self.executed.lock().unwrap().push(command.id.clone());
        match command.name.as_str() {
            "jam" => Err("the bolt is jammed".to_owned()),
            "panic" => panic!("on purpose"),
            _ => Ok(json!({ "door": command.args["door"] })),
        }
    }
}

const NOW_MS: u64 = 1_000_000;

fn incoming(payload: impl Into<String>) -> Incoming {
    Incoming {
        topic: "dev/truck-7/cmd".to_owned(),
        payload: payload.into().into(),
        qos: QoS::AtLeastOnce,
        retain: false,
        dup: false,
        properties: PublishProperties::default(),
        ack: None,
    }
}

fn command(id: &str, name: &str) -> Incoming {
    incoming(json!({ "id": id, "name": name, "args": { "door": 2 }, "expires_at": NOW_MS + 1 }).to_string())
}

/// A runner joined to a scripted broker.
struct Device {
    runner: CommandRunner<Recorder>,
    executed: Arc<Mutex<Vec<String>>>,
    connection: Connection,
    client: Client,
    _events: Events,
}

impl Device {
    async fn start(dir: &std::path::Path) -> Self {
        let listener = Listener::new().await;
        let (client, events) = Client::spawn(listener.options()).unwrap();
        let connection = listener.session(false).await;
        let recorder = Recorder::default();
        let executed = recorder.executed.clone();
        let journal = CommandJournal::open(dir).unwrap();
        let runner = CommandRunner::new(client.clone(), "truck-7", journal, recorder);
        Self { runner, executed, connection, client, _events: events }
    }

    async fn handle(&mut self, incoming: &Incoming) -> Handled {
        soon("the command", self.runner.handle_at(incoming, NOW_MS)).await.unwrap()
    }

    /// Takes the next result from the broker's side and acknowledges it.
    async fn result(&mut self) -> CommandResult {
        let publish = self.connection.publish().await;
        assert_eq!((&*publish.topic, publish.qos), ("dev/truck-7/cmd/result", QoS::AtLeastOnce));
        self.connection.puback(&publish).await;
        serde_json::from_slice(&publish.payload).unwrap()
    }

    async fn final_result(&mut self) -> CommandResult {
        loop {
            let result = self.result().await;
            if result.status.is_final() {
                return result;
            }
        }
    }

    fn executed(&self) -> Vec<String> {
        self.executed.lock().unwrap().clone()
    }

    async fn stop(self) {
        soon("the results acknowledged", self.runner.settled()).await;
        drop(self.runner);
        self.client.disconnect().await.unwrap();
    }
}

#[tokio::test]
async fn a_command_runs_once_and_a_repeated_one_is_answered_with_the_recorded_result() {
    let dir = tempfile::tempdir().unwrap();
    let mut device = Device::start(dir.path()).await;
    let ended = Handled::Ended { id: "c1".to_owned(), status: Status::Done };
    assert_eq!(device.handle(&command("c1", "unlock")).await, ended);
    let statuses = [device.result().await, device.result().await].map(|result| result.status);
    assert_eq!(statuses, [Status::Accepted, Status::Executing]);
    let done = device.result().await;
    assert_eq!((done.status, &done.data, done.at), (Status::Done, &Some(json!({ "door": 2 })), NOW_MS));
    let repeated = Handled::Repeated { id: "c1".to_owned(), status: Status::Done };
    assert_eq!(device.handle(&command("c1", "unlock")).await, repeated);
    assert_eq!(device.result().await, done);
    assert_eq!(device.executed(), ["c1"]);
    device.stop().await;

    // The same over a restart; an answered result is not published again by itself.
    let mut device = Device::start(dir.path()).await;
    assert_eq!(device.handle(&command("c1", "unlock")).await, repeated);
    assert_eq!(device.result().await, done);
    assert_eq!(device.executed(), [""; 0]);
    device.stop().await;
}

#[tokio::test]
async fn each_way_to_end_has_its_status_and_reason() {
    let dir = tempfile::tempdir().unwrap();
    let mut device = Device::start(dir.path()).await;
    let late = json!({ "id": "late", "name": "unlock", "expires_at": NOW_MS - 1 }).to_string();
    let cases = [
        (command("no", "forbidden"), Status::Rejected, "not while driving"),
        (command("jam", "jam"), Status::Failed, "the bolt is jammed"),
        (command("panic", "panic"), Status::Failed, "the actuator panicked"),
        (incoming(late), Status::Expired, "it is 1 ms after its expiry"),
        (
            incoming("{\"id\":\"odd\",\"name\":7}"),
            Status::Rejected,
            "malformed command: invalid type: integer `7`",
        ),
    ];
    for (incoming, status, reason) in cases {
        device.handle(&incoming).await;
        let result = device.final_result().await;
        assert_eq!(result.status, status, "{result:?}");
        assert!(result.reason.as_deref().is_some_and(|why| why.contains(reason)), "{result:?}");
    }
    assert_eq!(device.executed(), ["jam", "panic"]);
    // Without an id there is nobody to answer.
    for payload in ["{", "{\"name\":\"unlock\"}", "{\"id\":\"\",\"name\":\"unlock\"}"] {
        assert!(matches!(device.handle(&incoming(payload)).await, Handled::Malformed { .. }));
    }
    let elsewhere = Incoming { topic: "dev/truck-8/cmd".to_owned(), ..command("c9", "unlock") };
    assert_eq!(device.handle(&elsewhere).await, Handled::NotACommand);
    // Its message's expiry counts too: nothing was left of it.
    let mut gone = incoming(json!({ "id": "gone", "name": "unlock" }).to_string());
    gone.properties.message_expiry_interval_s = Some(0);
    device.handle(&gone).await;
    assert_eq!(device.final_result().await.status, Status::Expired);
    device.stop().await;
}

#[tokio::test]
async fn commands_arrive_and_are_answered_through_the_client() {
    let dir = tempfile::tempdir().unwrap();
    let mut device = Device::start(dir.path()).await;
    let publish = protocol::Publish {
        topic: "dev/truck-7/cmd".into(),
        payload: command("c1", "unlock").payload,
        ..protocol::Publish::default()
    };
    device.connection.send(protocol::Packet::Publish(publish)).await;
    let message = loop {
        if let device_sdk::Event::Message(message) = soon("the command", device._events.next()).await.unwrap()
        {
            break message;
        }
    };
    device.handle(&message).await;
    assert_eq!(device.final_result().await.status, Status::Done);
    device.stop().await;
}

/// Dies while the bolt moves.
struct Suicidal;

impl Actuator for Suicidal {
    fn check(&mut self, _: &Command, _: u64) -> Result<(), String> {
        Ok(())
    }

    fn execute(&mut self, command: &Command) -> Result<Value, String> {
        println!("fired {}", command.id);
        if command.name == "die" {
            // Without a word to anybody, as SIGKILL.
            std::process::abort();
        }
        Ok(json!("opened"))
    }
}

#[test]
fn child_that_runs_commands() {
    let Some(dir) = child::dir() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, _events) = Client::spawn(Options::new("127.0.0.1:1", "device")).unwrap();
        let journal = CommandJournal::open(&dir).unwrap();
        let mut runner = CommandRunner::new(client, "truck-7", journal, Suicidal);
        for (id, name) in [("done", "unlock"), ("cut", "die")] {
            runner.handle_at(&command(id, name), NOW_MS).await.unwrap();
            println!("handled {id}");
        }
    });
}

#[tokio::test]
async fn a_command_cut_off_by_a_crash_has_failed_and_never_runs_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = child::start("commands::child_that_runs_commands", dir.path());
    assert_eq!(child.line("handled ").as_deref(), Some("done"));
    assert_eq!(child.line("fired ").as_deref(), Some("cut"));
    assert_eq!(child.line("handled "), None);
    drop(child);

    // The id was on disk before the actuator fired, and the first command's result before it was published: the child had
    // no connection, and both results come now, without anyone asking.
    let mut device = Device::start(dir.path()).await;
    let done = device.final_result().await;
    assert_eq!((done.id.as_str(), done.status, &done.data), ("done", Status::Done, &Some(json!("opened"))));
    let cut = device.final_result().await;
    assert_eq!((cut.id.as_str(), cut.status), ("cut", Status::Failed));
    assert_eq!(cut.reason.as_deref(), Some("interrupted by a restart, not run again"));
    // The broker sends the command again, since it was never acknowledged.
    for (id, name) in [("cut", "die"), ("done", "unlock")] {
        assert!(matches!(device.handle(&command(id, name)).await, Handled::Repeated { .. }));
        device.result().await;
    }
    assert_eq!(device.executed(), [""; 0]);
    device.stop().await;
}

#[tokio::test]
async fn a_result_that_was_not_acknowledged_is_published_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut device = Device::start(dir.path()).await;
    device.handle(&command("c1", "unlock")).await;
    let id_of = |publish: &protocol::Publish| {
        device_sdk::user_property(&publish.properties.user_properties, "im-id").map(str::to_owned)
    };
    let mut last = device.connection.publish().await;
    while !String::from_utf8_lossy(&last.payload).contains("done") {
        last = device.connection.publish().await;
    }
    drop(device.runner);
    device.client.disconnect().await.unwrap();

    let mut device = Device::start(dir.path()).await;
    // All of it comes again, in order, and the broker recognises it.
    for expected in ["acc-c1", "exe-c1", "fin-c1"] {
        let again = device.connection.publish().await;
        assert_eq!(id_of(&again).as_deref(), Some(expected));
        device.connection.puback(&again).await;
        if expected == "fin-c1" {
            assert_eq!((&again.payload, id_of(&last).as_deref()), (&last.payload, Some(expected)));
        }
    }
    device.stop().await;
}

#[tokio::test]
async fn a_journal_in_use_is_refused_with_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let _journal = CommandJournal::open(dir.path()).unwrap();
    let error = CommandJournal::open(dir.path()).unwrap_err();
    assert!(matches!(error, JournalError::Open(_)));
    assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
}

#[tokio::test]
async fn a_guarded_lock_says_why_it_stays_closed_and_opens_when_nothing_is_against_it() {
    use device_sdk::clock::{ClockRules, DeviceClock};
    use device_sdk::commands::RunnerOptions;
    use device_sdk::guard::{Area, GuardFix, GuardRules, LockGuard, Position};

    let dir = tempfile::tempdir().unwrap();
    let listener = Listener::new().await;
    let (client, _events) = Client::spawn(listener.options()).unwrap();
    let mut connection = listener.session(false).await;
    let yard = Position { lat: 60.17, lon: 24.94 };
    let guard = LockGuard::new("truck-7", ["unlock"], GuardRules::inside(Area::circle(yard, 80.0).unwrap()));
    let (feed, clock) = (guard.feed(), DeviceClock::new(ClockRules::default()));
    let options = RunnerOptions { clock: clock.clone(), guard: Some(Box::new(guard)) };
    let recorder = Recorder::default();
    let executed = recorder.executed.clone();
    let journal = CommandJournal::open(dir.path()).unwrap();
    let mut runner = CommandRunner::with_options(client.clone(), "truck-7", journal, recorder, options);
    let mut results = async |runner: &mut CommandRunner<Recorder>, id: &str, expires_at: u64| {
        let payload = json!({ "id": id, "name": "unlock", "args": {}, "expires_at": expires_at }).to_string();
        soon("the command", runner.handle(&incoming(payload))).await.unwrap();
        loop {
            let publish = connection.publish().await;
            connection.puback(&publish).await;
            let result: CommandResult = serde_json::from_slice(&publish.payload).unwrap();
            if result.status.is_final() {
                return (result.status, result.reason.unwrap_or_default());
            }
        }
    };

    let start_ms: u64 = 1_800_000_000_000;
    let (status, why) = results(&mut runner, "c1", start_ms + 60_000).await;
    assert_eq!((status, why.as_str()), (Status::Rejected, "time unknown: no clock has been read lately"));
    clock.offer_gnss(start_ms, 50).unwrap();
    let (status, why) = results(&mut runner, "c2", start_ms + 60_000).await;
    assert_eq!((status, why.as_str()), (Status::Rejected, "there is no position fix yet"));
    // Half a minute of standing, up to now.
    let now_ms = clock.monotonic_ms() + 31_000;
    for monotonic_ms in (now_ms - 31_000..=now_ms).step_by(1_000) {
        feed.observe(GuardFix { monotonic_ms, position: yard, accuracy_m: 5.0, speed_mps: Some(0.0) });
    }
    assert_eq!(results(&mut runner, "c3", start_ms).await.0, Status::Expired);
    assert_eq!(executed.lock().unwrap().len(), 0);
    assert_eq!(results(&mut runner, "c4", start_ms + 60_000).await, (Status::Done, String::new()));
    assert_eq!(*executed.lock().unwrap(), ["c4"]);
    soon("the results acknowledged", runner.settled()).await;
    drop(runner);
    client.disconnect().await.unwrap();
}

#[tokio::test]
async fn a_command_accepted_before_a_restart_goes_on_when_the_runner_starts() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = storage::Log::open(dir.path(), storage::LogConfig::default()).unwrap();
    let accepted = r#"{"accepted":{"command":{"id":"c1","name":"unlock","args":{"door":3}},"at":5}}"#;
    log.append(&[b"\x02", accepted.as_bytes()].concat()).unwrap();
    log.commit().unwrap();
    drop(log);

    let mut device = Device::start(dir.path()).await;
    for expected in [Status::Accepted, Status::Executing, Status::Done] {
        assert_eq!(device.result().await.status, expected);
    }
    assert_eq!(device.executed(), ["c1"]);
    assert!(matches!(device.handle(&command("c1", "unlock")).await, Handled::Repeated { .. }));
    assert_eq!(device.result().await.data, Some(json!({ "door": 3 })));
    assert_eq!(device.executed(), ["c1"]);
    device.stop().await;
}
