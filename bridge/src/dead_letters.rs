//! What people may do with messages that were given up, from outside the bridge: `postrider bridge dead-letters`.
//!
//! A running bridge is asked through a Unix socket in its data directory, which only its user may open; the outbox of one that does not run is
//! opened itself.

use std::{io, path::Path, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{
    config::Config,
    core::Core,
    journal::{Journal, JournalError, StoreError},
    notice::Notice,
    outbox::unix_ms,
    state::{DeadLetter, Target},
};

/// The socket's name in the data directory.
const SOCKET: &str = "control.sock";
/// Longest request, bytes.
const REQUEST_BYTES_MAX: u64 = 1024 * 1024;
/// Longest reply that is read, bytes.
const REPLY_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// All dead letters, the oldest first.
    List,
    /// To send some again.
    Replay(Which),
    /// To forget some.
    Drop(Which),
}

/// Which dead letters are meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// All of them.
    All,
    /// Those with these numbers.
    Numbers(Vec<u64>),
}

/// What became of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// For a list: the dead letters.
    pub letters: Vec<Letter>,
    /// How many were sent again or dropped.
    pub done: usize,
    /// Numbers that no dead letter has.
    pub unknown: Vec<u64>,
    /// Numbers of dead letters that cannot be sent again, since their sink is not configured any more.
    pub without_sink: Vec<u64>,
}

/// A message that was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// Its number.
    pub no: u64,
    /// The sink's name, `dispatch` for the conversation.
    pub sink: String,
    /// When it was given up, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Its id, by which its receiver would have recognised it.
    pub id: String,
    /// The kind of the event.
    pub kind: String,
    /// Why it was given up.
    pub why: String,
    /// What people would have read.
    pub text: String,
}

impl Letter {
    pub(crate) fn of(letter: &DeadLetter) -> Letter {
        let notice = Notice::of(&letter.entry);
        let sink = match &letter.entry.target {
            Target::Broker => crate::config::DISPATCH.to_owned(),
            Target::Sink(name) => name.clone(),
        };
        let (no, at_ms, why) = (letter.entry.no, letter.at_ms, letter.why.clone());
        Letter { no, sink, at_ms, id: notice.id, kind: notice.kind, why, text: notice.text }
    }
}

/// Why dead letters cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// Nobody serves the socket, and the outbox cannot be opened.
    #[error("{0}")]
    Journal(#[from] JournalError),
    /// The running bridge did not answer.
    #[error("the running bridge does not answer on {socket}: {source}")]
    Bridge {
        /// The socket.
        socket: String,
        /// Why.
        source: io::Error,
    },
    /// The outbox cannot be written.
    #[error("the outbox cannot be written: {what}")]
    Store {
        /// The system's words.
        what: String,
    },
}

/// Asks the bridge that uses a configuration's data directory, or the directory itself if none does.
///
/// # Errors
/// Neither can be reached, or what is asked for cannot be stored.
pub async fn dead_letters(config: Config, request: &Request) -> Result<Reply, DeadLetterError> {
    let socket = config.data_dir.join(SOCKET);
    if let Ok(stream) = UnixStream::connect(&socket).await {
        let asked = timeout(PATIENCE, ask(stream, request))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        return asked
            .map_err(|source| DeadLetterError::Bridge { socket: socket.display().to_string(), source });
    }
    let (mut journal, state) = Journal::open(&config.data_dir, config.outbox.bytes_max)?;
    let now_ms = unix_ms();
    let (mut core, mut changes) = Core::recover(Arc::new(config), state, now_ms);
    let (reply, more) = core.letters(now_ms, request);
    changes.extend(more);
    let written = |error| match error {
        StoreError::Full { what } | StoreError::Failed { what } => DeadLetterError::Store { what },
    };
    if !changes.is_empty() {
        journal.store(&changes).map_err(written)?;
    }
    journal.close().map_err(written)?;
    Ok(reply)
}

async fn ask(mut stream: UnixStream, request: &Request) -> io::Result<Reply> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = String::new();
    BufReader::new(stream.take(REPLY_BYTES_MAX)).read_line(&mut answer).await?;
    Ok(serde_json::from_str(&answer)?)
}

/// A request that waits for the bridge's task.
pub(crate) type Asked = (Request, oneshot::Sender<Reply>);

/// Opens the socket of a data directory that is locked by this process.
pub(crate) fn listen(dir: &Path) -> io::Result<UnixListener> {
    let path = dir.join(SOCKET);
    // What an earlier process left; the directory's lock says that it is gone.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(listener)
}

/// Serves one client after the other until the bridge ends.
pub(crate) async fn serve(listener: UnixListener, asked: mpsc::Sender<Asked>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, for instance: it may pass.
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        };
        match timeout(PATIENCE, answer(stream, &asked)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a request on the control socket failed"),
            Err(_) => tracing::debug!("a request on the control socket took too long"),
        }
    }
}

async fn answer(stream: UnixStream, asked: &mpsc::Sender<Asked>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(REQUEST_BYTES_MAX)).read_line(&mut line).await?;
    let request = serde_json::from_str(&line)?;
    let (reply, replied) = oneshot::channel();
    let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
    asked.send((request, reply)).await.map_err(|_| gone())?;
    let mut answer = serde_json::to_vec(&replied.await.map_err(|_| gone())?)?;
    answer.push(b'\n');
    write.write_all(&answer).await
}
