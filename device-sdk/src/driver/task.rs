//! The task: waits for whatever comes first, lets the core decide, does what the core wants.
//!
//! A turn gathers everything that is there into one buffer and writes it once. Memory is bounded: publishes are taken only
//! while the core has room, and the socket is not read while the program does not take its events.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use protocol::{Publish, ReasonCode};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::callers::{Callers, Ended};
use super::handle::{Acks, Control, PublishRequest};
use super::outbox::Outbox;
use super::probes::{Probes, SharedStatus};
use super::transport::{OpenConnection, Transport};
use crate::client::{Core, CoreConfig, Input, Output};
use crate::endpoints::{Dialer, Ended as ConnectionEnded, Endpoint, Referral, Stream};
use crate::heartbeat::ProbeOutcome;
use crate::queue::{Entry, Queue, Slots};
use crate::received::{Change, Keeper, ReceivedLog};
use crate::{Event, Options, PublishError};

/// Unwritten bytes above which no more publishes are taken.
const UNWRITTEN_BYTES_HIGH: usize = 256 * 1024;
/// Longest wait for the last bytes of a connection to leave.
const CLOSING_TIMEOUT_MS: u64 = 1_000;
/// Pauses before the disk queue goes on after the broker refused an entry for now, each twice the last.
const ENTRY_RETRY_MS_MIN: u64 = 1_000;
const ENTRY_RETRY_MS_MAX: u64 = 60_000;

pub(super) struct Task {
    options: Options,
    dialer: Dialer,
    core: Core,
    transport: Transport,
    publishes: mpsc::Receiver<PublishRequest>,
    controls: mpsc::Receiver<Control>,
    /// Whether a [`crate::Client`] is left.
    handles_left: bool,
    outbox: Outbox,
    probes: Probes,
    acks: Arc<Acks>,
    queue: Option<Queue>,
    /// Where identifiers of messages are kept, if they are.
    keeper: Option<Keeper>,
    /// When the disk queue may go on after a refusal, and the pause that led to it.
    queue_holds: Option<(Instant, u64)>,
    callers: Callers,
    started: Instant,
    /// The last pause between connections, 0 after a good connection.
    pause_ms: u64,
    up_since: Option<Instant>,
    refused: Option<(ReasonCode, String)>,
    /// Where the broker wants this client, since it ends the connection.
    reference: Option<(ReasonCode, Option<String>)>,
    /// Why the next connection begins without a pause.
    at_once: Option<String>,
    paused: bool,
}

/// What a wait ended with.
enum Wake {
    Control(Option<Control>),
    Publish(Option<PublishRequest>),
    Connected(io::Result<(Stream, Endpoint)>),
    Read(io::Result<usize>),
    Written(io::Result<usize>),
    Probed(u64, ProbeOutcome),
    Kept(Vec<Change>),
    /// A deadline, room for events, acknowledgements, or entries of the disk queue: the turn looks for all of them.
    Look,
    EventsDropped,
}

/// What the driver's ends of the channels are.
pub(super) struct Ends {
    pub(super) publishes: mpsc::Receiver<PublishRequest>,
    pub(super) controls: mpsc::Receiver<Control>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) acks: Arc<Acks>,
    pub(super) heartbeat: SharedStatus,
}

impl Task {
    pub(super) fn new(
        options: Options,
        config: CoreConfig,
        dialer: Dialer,
        ends: Ends,
        queue: Option<Queue>,
        received: Option<ReceivedLog>,
    ) -> Self {
        let now = Instant::now();
        let probes = Probes::new(&options, ends.heartbeat);
        let mut core = Core::with_heartbeat(config, options.heartbeat(probes.known()));
        core.shorten_topics(options.topic_aliases_max);
        let keeper = received.map(|log| {
            core.keep_received(log.kept());
            Keeper::new(options.received_dir.clone().unwrap_or_default(), log)
        });
        Self {
            core,
            keeper,
            probes,
            transport: Transport::Idle { retry_at: now },
            publishes: ends.publishes,
            controls: ends.controls,
            handles_left: true,
            outbox: Outbox::new(ends.events),
            acks: ends.acks,
            queue,
            queue_holds: None,
            callers: Callers::default(),
            started: now,
            pause_ms: 0,
            up_since: None,
            refused: None,
            reference: None,
            at_once: None,
            paused: false,
            options,
            dialer,
        }
    }

    pub(super) async fn run(mut self) {
        let reply = loop {
            self.turn().await;
            match self.wait().await {
                Wake::Control(Some(Control::Disconnect { reply })) => break Some(reply),
                Wake::Control(Some(control)) => self.control(control),
                Wake::Control(None) | Wake::Publish(None) => self.handles_left = false,
                Wake::EventsDropped => break None,
                Wake::Publish(Some(request)) => self.publish(request),
                Wake::Connected(result) => self.connected(result),
                Wake::Read(Ok(0)) => {
                    self.input(Input::Closed { why: "the broker closed the connection".to_owned() })
                }
                Wake::Written(Ok(count)) => self.callers.written(count),
                Wake::Read(Err(error)) | Wake::Written(Err(error)) => self.failed(&error),
                Wake::Probed(id, outcome) => self.input(Input::Probed { id, outcome }),
                Wake::Kept(changes) => self.kept(changes),
                Wake::Read(Ok(_)) | Wake::Look => {}
            }
        };
        self.leave(reply).await;
    }

    /// Does everything that can be done without waiting, apart from writing.
    async fn turn(&mut self) {
        self.input(Input::Tick);
        for token in self.acks.take() {
            self.input(Input::Ack(token));
        }
        self.decode();
        for event in self.queue.as_ref().map(Queue::take_news).unwrap_or_default() {
            self.outbox.push(event);
        }
        self.gather();
        self.probes.show(&self.core);
        self.close_if_wanted().await;
        // While the program takes nothing, CONNACK would not be read either.
        if let Transport::Idle { retry_at } = &self.transport
            && Instant::now() >= *retry_at
            && !self.outbox.is_blocked()
        {
            self.transport = Transport::Connecting(self.dialer.dial());
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn input(&mut self, input: Input) {
        self.core.handle_input(self.now_ms(), input);
        while let Some(output) = self.core.poll_output() {
            self.output(output);
        }
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Send(packet) => {
                if let Transport::Open(open) = &mut self.transport {
                    let bytes = open.send(&packet);
                    self.callers.queued(bytes);
                }
            }
            Output::Close { why } => {
                if let Transport::Open(open) = &mut self.transport {
                    open.closing = Some(why);
                }
            }
            Output::Connected { session_present } => {
                self.up_since = Some(Instant::now());
                self.tell_queue(true);
                self.dialer.accepted();
                self.outbox.push(Event::Connected { session_present });
            }
            Output::Refused { reason, why } => self.refused = Some((reason, why)),
            Output::Referred { reason, reference } => {
                self.reference = Some((reason, reference.map(|reference| reference.to_string())));
            }
            Output::Message(incoming) => self.outbox.push(Event::Message(incoming)),
            Output::Answered { token, result } => self.callers.answered(token, result),
            Output::Published { token, result } => match self.callers.published(token, result) {
                Ended::Told => {}
                Ended::Entry { entry, result } => self.entry_ended(entry, result.err()),
            },
            Output::SubscriptionRefused { filter, reason } => {
                self.outbox.push(Event::SubscriptionRefused { filter: filter.to_string(), reason });
            }
            Output::Heartbeat(action) => self.probes.act(action, &self.core, self.now_ms()),
            Output::Keep(received) => self.keep(Change::Keep(received)),
            Output::Forget(id) => self.keep(Change::Forget(id)),
            Output::ReconnectAtOnce => {
                self.at_once = Some("the network had forgotten the connection".to_owned());
            }
        }
    }

    fn keep(&mut self, change: Change) {
        if let Some(keeper) = &mut self.keeper {
            keeper.add(change);
        }
    }

    fn kept(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.input(match change {
                Change::Keep(received) => Input::Kept(received),
                Change::Forget(id) => Input::Forgotten(id),
            });
        }
    }

    fn failed(&mut self, error: &io::Error) {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
        let why = format!("the connection failed: {error}");
        let is_reset = matches!(error.kind(), ConnectionReset | ConnectionAborted | BrokenPipe);
        self.input(if is_reset { Input::Reset { why } } else { Input::Closed { why } });
    }

    /// Takes the packets out of what was read, until the program must take events first.
    fn decode(&mut self) {
        self.outbox.flush();
        while !self.outbox.is_blocked() {
            let Transport::Open(open) = &mut self.transport else { break };
            if open.closing.is_some() {
                break;
            }
            match open.receive() {
                Ok(Some(packet)) => self.input(Input::Received(packet)),
                Ok(None) => break,
                Err(error) => self.input(Input::Undecodable(error)),
            }
        }
        let blocked = self.outbox.is_blocked();
        if blocked != self.paused {
            self.paused = blocked;
            self.input(Input::Paused(blocked));
        }
    }

    /// Takes publishes and queue entries in turn while they would go out at once.
    fn gather(&mut self) {
        if self.queue_holds.is_some_and(|(until, _)| Instant::now() < until) {
            while self.may_send() {
                let Ok(request) = self.publishes.try_recv() else { return };
                self.publish(request);
            }
            return;
        }
        let mut more = true;
        while more && self.may_send() {
            more = false;
            let (used, max) = self.core.window();
            if let Some(entry) = self.queue.as_ref().and_then(|queue| queue.pop(Slots { used, max })) {
                self.send_entry(entry);
                more = true;
            }
            if self.may_send()
                && let Ok(request) = self.publishes.try_recv()
            {
                self.publish(request);
                more = true;
            }
        }
    }

    fn may_send(&self) -> bool {
        self.core.can_send() && self.transport.unwritten() < UNWRITTEN_BYTES_HIGH
    }

    /// With a connection, what goes out at once; without one, as much as the core keeps.
    fn may_take_publish(&self) -> bool {
        match &self.transport {
            Transport::Open(_) => self.may_send(),
            _ => self.core.can_accept(),
        }
    }

    fn publish(&mut self, request: PublishRequest) {
        let publish = request.message.into_publish();
        let token = self.callers.add_publish(publish.qos, request.reply);
        self.input(Input::Publish { token, publish });
    }

    fn send_entry(&mut self, entry: Entry) {
        let publish: Publish = entry.publish.clone();
        let token = self.callers.add_entry(entry);
        self.input(Input::Publish { token, publish });
    }

    fn tell_queue(&self, is_online: bool) {
        if let Some(queue) = &self.queue {
            queue.set_online(is_online);
        }
    }

    /// An entry of the disk queue was answered.
    fn entry_ended(&mut self, entry: Entry, error: Option<PublishError>) {
        let Some(queue) = &self.queue else { return };
        match error {
            None => {
                self.queue_holds = None;
                queue.ack(&entry);
            }
            Some(error) if is_passing(&error) => {
                let pause_ms = match self.queue_holds {
                    // One refusal a pause: those in flight together are refused together.
                    Some((until, pause_ms)) if Instant::now() < until => pause_ms,
                    Some((_, pause_ms)) => (pause_ms * 2).min(ENTRY_RETRY_MS_MAX),
                    None => ENTRY_RETRY_MS_MIN,
                };
                tracing::warn!(%error, pause_ms, "the broker does not take a queued message now");
                self.queue_holds = Some((Instant::now() + Duration::from_millis(pause_ms), pause_ms));
                queue.put_back(entry);
            }
            Some(error) => {
                let topic = entry.publish.topic.to_string();
                tracing::warn!(topic, id = entry.id(), %error, "a queued message was refused and is removed");
                let id = entry.id().to_owned();
                self.outbox.push(Event::EntryRefused { topic, id, why: error.to_string() });
                queue.refuse(&entry);
            }
        }
    }

    fn control(&mut self, control: Control) {
        match control {
            Control::Subscribe { filters, user_properties, reply } => {
                let token = self.callers.add_request(reply);
                self.input(Input::Subscribe { token, filters, user_properties });
            }
            Control::Unsubscribe { filters, reply } => {
                let token = self.callers.add_request(reply);
                self.input(Input::Unsubscribe { token, filters });
            }
            Control::SetNetwork { network } => {
                if self.dialer.set_network(&network) {
                    self.probes.network_is(&network);
                    self.input(Input::Network(network.as_str().into()));
                    self.begin_anew(format!("the network is {network:?} now"));
                }
            }
            Control::Reconnect => self.begin_anew("the program wanted a new connection".to_owned()),
            // The loop of `run` ends with it.
            Control::Disconnect { .. } => {}
        }
    }

    fn connected(&mut self, result: io::Result<(Stream, Endpoint)>) {
        match result {
            Ok((stream, endpoint)) => {
                let address = endpoint.to_string();
                self.probes.way_is(&address);
                self.input(Input::Way(address.into()));
                self.dialer.opened(endpoint);
                let open = OpenConnection::new(stream, &self.options);
                self.transport = Transport::Open(Box::new(open));
                self.input(Input::Opened);
            }
            Err(error) => self.retry_later(error.to_string()),
        }
    }

    /// Ends a connection that the core has given up: what was sent leaves first, then comes the pause.
    async fn close_if_wanted(&mut self) {
        let Transport::Open(open) = &mut self.transport else { return };
        let Some(why) = open.closing.take() else { return };
        open.finish(Duration::from_millis(CLOSING_TIMEOUT_MS)).await;
        self.callers.connection_lost();
        self.retry_later(why);
    }

    /// Leaves the connection there is, or the pause, for a new attempt.
    fn begin_anew(&mut self, why: String) {
        match &self.transport {
            Transport::Open(_) => {
                self.at_once = Some(why);
                // The session stays, and the broker publishes no will.
                self.input(Input::Disconnect);
            }
            Transport::Connecting(_) | Transport::Idle { .. } => {
                self.transport = Transport::Idle { retry_at: Instant::now() };
            }
        }
    }

    fn retry_later(&mut self, why: String) {
        let lasted = self.up_since.take().map(|since| since.elapsed());
        // Only a connection that outlived the last pause counts as good: a broker that accepts and drops, or another
        // client with the same id, must not lead to a tight loop.
        let good = lasted.is_some_and(|lasted| lasted.as_millis() > u128::from(self.pause_ms));
        let (why, pauses) = self.judge_end(why, lasted);
        let mut retry_in_ms = 0;
        if pauses {
            let previous_ms = if good { 0 } else { self.pause_ms };
            self.pause_ms = self.options.backoff.next_ms(previous_ms, fastrand::u64(..));
            retry_in_ms = self.pause_ms;
        }
        self.transport = Transport::Idle { retry_at: Instant::now() + Duration::from_millis(retry_in_ms) };
        self.paused = false;
        self.tell_queue(false);
        tracing::debug!(why, retry_in_ms, "disconnected");
        self.outbox.push(match self.refused.take() {
            Some((reason, _)) => Event::Refused { reason, why, retry_in_ms },
            None => Event::Disconnected { why, retry_in_ms },
        });
    }

    /// Tells the dialer how the connection ended; returns the reason, with what is made of it, and whether a pause comes.
    fn judge_end(&mut self, mut why: String, lasted: Option<Duration>) -> (String, bool) {
        if let Some((_, refusal)) = &self.refused {
            why.clone_from(refusal);
        }
        let how = match (&self.refused, lasted) {
            (Some(_), _) => ConnectionEnded::Refused,
            (None, Some(_)) => ConnectionEnded::Lost,
            (None, None) if self.at_once.is_some() => ConnectionEnded::Lost,
            (None, None) => ConnectionEnded::Unanswered,
        };
        let reference = self.reference.take();
        if let Some(wanted) = self.at_once.take() {
            self.dialer.ended(&how, lasted.unwrap_or_default(), None);
            return (wanted, false);
        }
        match self.dialer.ended(&how, lasted.unwrap_or_default(), reference) {
            Some(Referral::Followed(target)) => (format!("{why}; going to {target}"), false),
            Some(Referral::NotFollowed(reason)) => (format!("{why}; not followed: {reason}"), true),
            None => (why, true),
        }
    }

    async fn wait(&mut self) -> Wake {
        let deadline = self.deadline();
        let may_take_publish = self.may_take_publish() && self.handles_left;
        let may_take_control = self.core.can_ask() && self.handles_left;
        let may_read = !self.outbox.is_blocked();
        let handles_left = self.handles_left;
        let queue = self.queue.as_ref();
        let outbox = &self.outbox;
        let probes = &mut self.probes;
        let keeper = &mut self.keeper;
        let (connecting, read, write) = self.transport.halves(may_read);
        tokio::select! {
            control = self.controls.recv(), if may_take_control => Wake::Control(control),
            request = self.publishes.recv(), if may_take_publish => Wake::Publish(request),
            result = connecting => Wake::Connected(result),
            result = read => Wake::Read(result),
            result = write => Wake::Written(result),
            () = outbox.has_room(), if outbox.is_waiting() => Wake::Look,
            () = outbox.dropped(), if !handles_left => Wake::EventsDropped,
            () = self.acks.arrived.notified() => Wake::Look,
            (id, outcome) = probes.next() => Wake::Probed(id, outcome),
            changes = next_kept(keeper) => Wake::Kept(changes),
            () = next_entries(queue) => Wake::Look,
            () = sleep_until(deadline) => Wake::Look,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let core = self.core.next_deadline_ms().map(|at_ms| self.started + Duration::from_millis(at_ms));
        let retry = match &self.transport {
            Transport::Idle { retry_at } if !self.outbox.is_blocked() => Some(*retry_at),
            _ => None,
        };
        let queue = self.queue_holds.map(|(until, _)| until).filter(|until| *until > Instant::now());
        [core, retry, queue].into_iter().flatten().min()
    }

    async fn leave(mut self, reply: Option<oneshot::Sender<()>>) {
        // What the program has done with must not come again.
        for token in self.acks.take() {
            self.input(Input::Ack(token));
        }
        while self.keeper.as_ref().is_some_and(Keeper::is_busy) {
            let changes = next_kept(&mut self.keeper).await;
            self.kept(changes);
        }
        self.input(Input::Disconnect);
        if let Transport::Open(open) = &mut self.transport {
            open.finish(Duration::from_millis(CLOSING_TIMEOUT_MS)).await;
        }
        if let Some(queue) = &self.queue {
            queue.close().await;
        }
        self.dialer.saved().await;
        self.probes.saved().await;
        drop(self.callers);
        if let Some(reply) = reply {
            // The caller may have gone.
            let _ = reply.send(());
        }
    }
}

/// Says whether the broker may take the same message later.
fn is_passing(error: &PublishError) -> bool {
    use protocol::ReasonCode as Reason;
    match error {
        PublishError::Refused { reason, .. } => matches!(
            reason,
            Reason::UnspecifiedError
                | Reason::ImplementationSpecificError
                | Reason::PacketIdentifierInUse
                | Reason::QuotaExceeded
        ),
        PublishError::Busy { .. } | PublishError::ConnectionLost | PublishError::Stopped => true,
        PublishError::Topic { .. } | PublishError::Unencodable { .. } | PublishError::TooLarge { .. } => {
            false
        }
    }
}

async fn next_entries(queue: Option<&Queue>) {
    match queue {
        Some(queue) => queue.changed().await,
        None => std::future::pending().await,
    }
}

async fn next_kept(keeper: &mut Option<Keeper>) -> Vec<Change> {
    match keeper {
        Some(keeper) => keeper.done().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
