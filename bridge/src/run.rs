//! The task around the pure core: what comes from the broker goes in, what follows is stored, then acknowledged, then
//! sent.
//!
//! Owns the journal, the broker's client and the sinks. Per input, in this order: the core takes it; its changes are
//! committed to the journal; the message is acknowledged; sinks are given what waits. A crash before the commit brings
//! the message again, a crash after it finds the changes in the journal.

use std::time::Duration;

use device_sdk::{AckToken, Client, Event, Events, Incoming, QoS};
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot, watch},
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};

use crate::{
    BridgeError, Counts, Observed,
    config::{Config, SinkRule},
    core::{Chat, Core, Input, Message},
    dead_letters::{self, Asked, Reply},
    journal::{Journal, StoreError},
    outbox::{self, Service, Settled, unix_ms},
    sinks::{AnySink, broker::BrokerSink},
    state::{Change, Entry, Target},
    topics::{self, Topic},
};

/// How long a stopping bridge waits for the broker to take its DISCONNECT.
const GOODBYE: Duration = Duration::from_secs(2);
/// Pause before a full disk is tried again.
const FULL_PAUSE: Duration = Duration::from_secs(1);
/// Longest sleep: a jump of the wall clock is noticed after it.
const NAP_MAX_MS: u64 = 60_000;

/// Most messages and outcomes that share one commit.
const BATCH_MAX: usize = 256;
/// Commands and posts that may be under way to the broker, which recognises their ids.
const BROKER_WINDOW: usize = 64;

/// A sink's mailbox.
#[derive(Debug)]
struct Sink {
    target: Target,
    entries: mpsc::Sender<Entry>,
    window: usize,
}

/// Everything the task owns.
pub(crate) struct Runner {
    core: Core,
    /// Away only while a commit runs.
    journal: Option<Journal>,
    client: Client,
    events: Events,
    sinks: Vec<Sink>,
    settled: mpsc::Receiver<Settled>,
    tasks: JoinSet<()>,
    dispatch_topic: String,
    /// Messages with lower numbers are on disk.
    durable_no: u64,
    /// What people ask on the control socket.
    asked: mpsc::Receiver<Asked>,
    /// How the task speaks to the program.
    ends: Ends,
}

/// The task's ends of the channels to the program.
pub(crate) struct Ends {
    pub(crate) observers: mpsc::Sender<Observed>,
    pub(crate) counts: watch::Sender<Counts>,
    pub(crate) ready: watch::Sender<bool>,
    pub(crate) stop: oneshot::Receiver<()>,
}

impl Runner {
    /// Puts the parts together and starts the sinks.
    pub(crate) fn new(
        config: &Config,
        core: Core,
        journal: Journal,
        (client, events): (Client, Events),
        channels: Vec<(&SinkRule, AnySink)>,
        control: UnixListener,
        ends: Ends,
    ) -> Runner {
        let mut tasks = JoinSet::new();
        let (settle, settled) = mpsc::channel(BATCH_MAX);
        let mut sinks = Vec::new();
        let mut mailbox = |target: Target, window: usize| {
            let (entries, receiver) = mpsc::channel(window);
            sinks.push(Sink { target, entries, window });
            receiver
        };
        let broker = BrokerSink { client: client.clone() };
        let service = Service { spacing_ms: 0, ages: false, window: BROKER_WINDOW };
        let entries = mailbox(Target::Broker, service.window);
        tasks.spawn(outbox::serve(Target::Broker, broker, service, config.outbox, entries, settle.clone()));
        for (rule, sink) in channels {
            let (target, service) = (Target::Sink(rule.name.clone()), rule.service());
            let entries = mailbox(target.clone(), service.window);
            tasks.spawn(outbox::serve(target, sink, service, config.outbox, entries, settle.clone()));
        }
        subscribe(&mut tasks, client.clone(), config, ends.ready.clone());
        let dispatch_topic = config.dispatch_topic.clone();
        let journal = Some(journal);
        let (ask, asked) = mpsc::channel(1);
        tasks.spawn(dead_letters::serve(control, ask));
        Runner {
            core,
            journal,
            client,
            events,
            sinks,
            settled,
            tasks,
            dispatch_topic,
            durable_no: 0,
            asked,
            ends,
        }
    }

    /// Runs until it is stopped or cannot go on.
    pub(crate) async fn run(mut self, first: Vec<Change>) -> Result<(), BridgeError> {
        let result = self.serve(first).await;
        self.tasks.shutdown().await;
        // The session stays at the broker, with all that was not acknowledged.
        let _ = timeout(GOODBYE, self.client.disconnect()).await;
        if let Some(journal) = self.journal.take()
            && let Err(StoreError::Full { what } | StoreError::Failed { what }) = journal.close()
        {
            tracing::error!(what, "the journal was not closed in order");
        }
        result
    }

    async fn serve(&mut self, first: Vec<Change>) -> Result<(), BridgeError> {
        if self.store(first).await?.is_stopped() {
            return Ok(());
        }
        loop {
            let joined = self.core.digest(unix_ms());
            if self.store(joined).await?.is_stopped() {
                return Ok(());
            }
            self.hand_out();
            let nap = self.nap();
            let mut batch = Batch::default();
            tokio::select! {
                _ = &mut self.ends.stop => return Ok(()),
                Some(settled) = self.settled.recv() => batch.changes = self.settle(settled),
                event = self.events.next(), if !self.core.is_full() => match event {
                    Some(event) => self.take_event(&mut batch, event),
                    None => return Err(BridgeError::ClientEnded),
                },
                Some((request, reply)) = self.asked.recv() => {
                    let (answer, changes) = self.core.letters(unix_ms(), &request);
                    batch.changes = changes;
                    batch.reply = Some((reply, answer));
                }
                () = sleep(nap) => batch.changes = self.core.handle(unix_ms(), Input::Tick),
            };
            self.take_what_is_ready(&mut batch).await;
            if self.store(batch.changes).await?.is_stopped() {
                return Ok(());
            }
            if let Some((reply, answer)) = batch.reply {
                // Whoever asked may be gone.
                let _ = reply.send(answer);
            }
            for token in batch.done {
                self.client.ack(token);
            }
            self.ends.counts.send_replace(self.core.counts);
        }
    }

    /// Adds what is there already: one commit costs as much as one for all of it.
    async fn take_what_is_ready(&mut self, batch: &mut Batch) {
        for _ in 0..BATCH_MAX {
            if let Ok(settled) = self.settled.try_recv() {
                let changes = self.settle(settled);
                batch.changes.extend(changes);
                continue;
            }
            let event = tokio::select! {
                biased;
                event = self.events.next(), if !self.core.is_full() => event,
                () = std::future::ready(()) => None,
            };
            // If the client ended the next turn says so.
            let Some(event) = event else { return };
            self.take_event(batch, event);
        }
    }

    fn take_event(&mut self, batch: &mut Batch, event: Event) {
        let (changes, token) = self.event(event);
        batch.changes.extend(changes);
        batch.done.extend(token);
    }

    fn nap(&self) -> Duration {
        let until_ms = self.core.next_deadline_ms().map_or(NAP_MAX_MS, |at| at.saturating_sub(unix_ms()));
        Duration::from_millis(until_ms.min(NAP_MAX_MS))
    }

    /// Gives every sink as many of its target's next messages as may be under way.
    fn hand_out(&mut self) {
        for sink in &self.sinks {
            while self.core.under_way(&sink.target) < sink.window
                && let Some(entry) = self.core.take(&sink.target, self.durable_no)
            {
                // The mailbox has a place for each; a sink that died cannot settle, so its entry stays where it is.
                let _ = sink.entries.try_send(entry);
            }
        }
    }

    fn settle(&mut self, settled: Settled) -> Vec<Change> {
        let Settled { entry, outcome } = settled;
        if outcome == crate::core::Outcome::Delivered {
            self.tell(Observed::Delivered { entry: entry.clone() });
        }
        self.core.settle(unix_ms(), entry, outcome)
    }

    fn event(&mut self, event: Event) -> (Vec<Change>, Option<AckToken>) {
        match event {
            Event::Message(mut incoming) => {
                let token = incoming.ack.take();
                (self.message(&incoming), token)
            }
            Event::Connected { session_present } => {
                tracing::info!(session_present, "connected to the broker");
                self.tell(Observed::Connected { session_present });
                (Vec::new(), None)
            }
            Event::Disconnected { why, retry_in_ms } => {
                tracing::warn!(why, retry_in_ms, "no connection to the broker");
                (Vec::new(), None)
            }
            Event::Refused { reason, why, retry_in_ms } => {
                tracing::error!(?reason, why, retry_in_ms, "the broker refuses the connection");
                (Vec::new(), None)
            }
            Event::SubscriptionRefused { filter, reason } => {
                tracing::error!(filter, ?reason, "the broker refuses a subscription");
                (Vec::new(), None)
            }
            Event::EntryRefused { .. } | Event::EntriesDropped { .. } => (Vec::new(), None),
        }
    }

    fn message(&mut self, incoming: &Incoming) -> Vec<Change> {
        let payload = &incoming.payload[..];
        let id = incoming.user_property("im-id");
        let ts_ms = incoming.user_property("im-ts").and_then(|ts| ts.parse().ok());
        let input = topics::parse(&incoming.topic, &self.dispatch_topic).map(|topic| match topic {
            Topic::Dispatch => Input::Chat(Chat {
                payload,
                id,
                seq: incoming.seq(),
                from: incoming.user_property("im-from"),
                ts_ms,
                retain: incoming.retain,
                dup: incoming.dup,
            }),
            Topic::Gps { device } => Input::Gps { device, payload },
            Topic::Result { device } => Input::Result { device, payload },
            Topic::Receipts => Input::Receipt { payload },
        });
        let now_ms = unix_ms();
        let mut changes = input.map_or(Vec::new(), |input| self.core.handle(now_ms, input));
        if self.core.has_rule_for(&incoming.topic) {
            let message = Message { topic: &incoming.topic, payload, id, ts_ms, retain: incoming.retain };
            changes.extend(self.core.handle(now_ms, Input::Message(message)));
        }
        changes
    }

    /// Commits changes. While the disk is full it waits, and with it everything: nothing more is acknowledged.
    async fn store(&mut self, changes: Vec<Change>) -> Result<Stored, BridgeError> {
        for dead in self.core.take_dead() {
            self.tell(Observed::Dead { entry: dead.entry, why: dead.why });
        }
        if changes.is_empty() {
            self.durable_no = self.core.next_no();
            return Ok(Stored::Yes);
        }
        let mut full = false;
        loop {
            let journal = self.journal.take().expect("it is put back after every commit");
            // A log that is full of what is done with may become small.
            let all = (full || journal.wants_checkpoint()).then(|| self.core.snapshot().collect::<Vec<_>>());
            let part = changes.clone();
            let (journal, result) =
                spawn_blocking(move || commit(journal, &part, all)).await.map_err(|error| {
                    BridgeError::Store { what: format!("the commit did not return: {error}") }
                })?;
            self.journal = Some(journal);
            match result {
                Ok(()) => {
                    self.durable_no = self.core.next_no();
                    return Ok(Stored::Yes);
                }
                Err(StoreError::Full { .. }) if !full => full = true,
                Err(StoreError::Full { what }) => {
                    tracing::error!(what, "no space to store messages: nothing more is taken until there is");
                    tokio::select! {
                        _ = &mut self.ends.stop => return Ok(Stored::Stopped),
                        () = sleep(FULL_PAUSE) => {}
                    }
                }
                Err(StoreError::Failed { what }) => return Err(BridgeError::Store { what }),
            }
        }
    }

    /// Tells the program, if it listens: an observer that does not read loses news, the bridge loses nothing.
    fn tell(&self, observed: Observed) {
        let _ = self.ends.observers.try_send(observed);
    }
}

/// What one commit makes durable.
#[derive(Default)]
struct Batch {
    changes: Vec<Change>,
    /// The messages that may be acknowledged then.
    done: Vec<AckToken>,
    /// The reply that may be given then.
    reply: Option<(oneshot::Sender<Reply>, Reply)>,
}

enum Stored {
    Yes,
    Stopped,
}

impl Stored {
    fn is_stopped(&self) -> bool {
        matches!(self, Stored::Stopped)
    }
}

/// A checkpoint holds the changes already, since the core has applied them.
fn commit(
    mut journal: Journal,
    changes: &[Change],
    all: Option<Vec<Change>>,
) -> (Journal, Result<(), StoreError>) {
    let result = match all.map(|all| journal.checkpoint(&all)) {
        // Without space for a second copy of the state there may be some for these changes.
        None | Some(Err(StoreError::Full { .. })) => journal.store(changes),
        Some(result) => result,
    };
    (journal, result)
}

/// Subscribes in a task of its own, since the answer comes only when there is a connection.
fn subscribe(tasks: &mut JoinSet<()>, client: Client, config: &Config, ready: watch::Sender<bool>) {
    let filters = topics::filters(&config.dispatch_topic, !config.commands.is_empty(), &config.rules);
    tasks.spawn(async move {
        let asked: Vec<_> = filters.iter().map(|filter| (filter.as_str(), QoS::AtLeastOnce)).collect();
        match client.subscribe(&asked).await {
            Ok(reasons) => {
                for (filter, reason) in filters.iter().zip(&reasons).filter(|(_, reason)| reason.is_failure())
                {
                    tracing::error!(filter, ?reason, "the broker refuses a subscription");
                }
                ready.send_replace(!reasons.iter().any(|reason| reason.is_failure()));
            }
            Err(error) => tracing::error!(%error, "cannot subscribe"),
        }
    });
}
