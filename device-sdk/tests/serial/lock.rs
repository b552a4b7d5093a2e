//! A lock on a pseudo-terminal: it moves once though answers are lost, and says why it cannot.

use std::sync::{Arc, Mutex};

use device_sdk::serial::{LockError, LockState, SerialLock};
use tokio::io::AsyncWriteExt as _;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_serial::SerialStream;

use crate::pty::{Socket, read, sentence};

/// How the lock of a test misbehaves.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// The first answer is lost.
    LostAnswer,
    /// The first answer is damaged on the line.
    DamagedAnswer,
    /// It never answers.
    Mute,
    /// It answers, and does not move.
    Stuck,
}

#[derive(Default)]
struct Record {
    requests: Vec<String>,
    moves: u32,
}

/// A lock on the other end of a line: it carries each number out once.
fn lock(mut device: SerialStream, fault: Fault, record: Arc<Mutex<Record>>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let (mut text, mut state, mut last) = (String::new(), "LOCKED", (String::new(), String::new()));
        loop {
            let Some(bytes) = read(&mut device).await else {
                // Nobody has opened it yet.
                tokio::task::yield_now().await;
                continue;
            };
            text.push_str(&String::from_utf8(bytes).expect("requests are text"));
            while let Some((line, rest)) = text.split_once("\r\n") {
                let (line, rest) = (line.to_owned(), rest.to_owned());
                text = rest;
                let first = record.lock().expect("nobody panics").requests.is_empty();
                record.lock().expect("nobody panics").requests.push(line.clone());
                let request =
                    line.strip_prefix("$PLOCK,").and_then(|r| r.split_once('*')).expect("a request").0;
                let (number, what) = request.split_once(',').expect("a number and a word");
                if last.0 != number {
                    let wanted = if what == "UNLOCK" { "UNLOCKED" } else { "LOCKED" };
                    if what != "STATE" && fault != Fault::Stuck && state != wanted {
                        state = wanted;
                        record.lock().expect("nobody panics").moves += 1;
                    }
                    let said =
                        if fault == Fault::Stuck && what != "STATE" { "ERROR,bolt blocked" } else { state };
                    last = (number.to_owned(), sentence(&format!("PLOCKR,{number},{said}")));
                }
                let said = match fault {
                    Fault::Mute => continue,
                    Fault::LostAnswer if first => continue,
                    Fault::DamagedAnswer if first => last.1.replace("PLOCKR", "PLOCKE"),
                    _ => last.1.clone(),
                };
                device.write_all(said.as_bytes()).await.expect("the gateway listens");
            }
        }
    })
}

async fn ask(
    fault: Fault,
    ask: impl FnOnce(&mut SerialLock) -> Result<LockState, LockError> + Send + 'static,
) -> (Result<LockState, LockError>, Arc<Mutex<Record>>) {
    let socket = Socket::new();
    let record = Arc::<Mutex<Record>>::default();
    let device = lock(socket.plug(), fault, record.clone());
    let mut gateway = SerialLock::new(socket.path());
    let said = spawn_blocking(move || ask(&mut gateway)).await.expect("no panic");
    device.abort();
    (said, record)
}

#[tokio::test]
async fn a_lock_says_where_it_stands_and_moves() {
    let (said, record) = ask(Fault::None, |lock| {
        assert_eq!(lock.state()?, LockState::Locked);
        assert_eq!(lock.unlock()?, LockState::Unlocked);
        assert_eq!(lock.state()?, LockState::Unlocked);
        lock.lock()
    })
    .await;
    assert_eq!(said.expect("the lock answers"), LockState::Locked);
    assert_eq!(record.lock().expect("nobody panics").moves, 2);
}

#[tokio::test]
async fn an_answer_that_does_not_arrive_is_asked_for_again_and_the_lock_moves_once() {
    for fault in [Fault::LostAnswer, Fault::DamagedAnswer] {
        let (said, record) = ask(fault, SerialLock::unlock).await;
        assert_eq!(said.expect("the second answer arrives"), LockState::Unlocked);
        let record = record.lock().expect("nobody panics");
        assert_eq!((record.requests.len(), record.moves), (2, 1));
        assert_eq!(record.requests[0], record.requests[1], "the number is the same");
    }
}

#[tokio::test]
async fn a_lock_that_cannot_says_why_and_one_that_is_mute_is_told() {
    let (said, _) = ask(Fault::Stuck, SerialLock::unlock).await;
    assert_eq!(said.expect_err("it is stuck").to_string(), "the lock refuses: bolt blocked");
    let (said, record) = ask(Fault::Mute, SerialLock::unlock).await;
    let error = said.expect_err("it is mute");
    assert!(matches!(error, LockError::Silent { attempts: 3, .. }), "{error}");
    assert_eq!(record.lock().expect("nobody panics").requests.len(), 3);
    let mut absent = SerialLock::new("/dev/there-is-no-such-line");
    let error = absent.state().expect_err("there is no line");
    assert!(error.to_string().contains("/dev/there-is-no-such-line"), "{error}");
}
