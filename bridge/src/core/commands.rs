//! Commands from the conversation to devices, and what comes back.
//!
//! ```text
//! chat ──▶ open ──▶ told a final result                 (closed; late receipts are still told)
//!            ├────▶ told that it never arrived          (closed; a late result is still told)
//!            └────▶ deadline: told that nobody answered (closed; a late result is still told)
//! ```
//!
//! The command's id follows from the chat message's, so that a message delivered twice is one command. A closed request
//! is kept for a day to know what came late, unless newer ones need its place.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Chat, Core, PAYLOAD_BYTES_MAX};
use crate::{
    chat::{self, Order, Said},
    ids,
    report::{self, Post, span},
    state::{Change, Entry, Request, Source, Target},
};

/// Most commands that are remembered.
const REQUESTS_MAX: usize = 1_000;
/// How long after its end of life a command's answer is waited for, milliseconds.
const ANSWER_GRACE_MS: u64 = 10_000;
/// How long after its end of life a command is remembered, milliseconds.
const REMEMBER_MS: u64 = 24 * 3_600_000;
/// Most receipts told of one command: nobody reads more, and a repeat must be recognised.
const RECEIPTS_TOLD_MAX: usize = 16;
/// Longest `data` of a result that is passed on, bytes.
const DATA_BYTES_MAX: usize = 4_096;

/// The final statuses of a result (docs/protocol.md, devices).
const FINAL: [&str; 4] = ["done", "failed", "rejected", "expired"];
/// The states of a receipt after which the device will not get the command.
const LOST: [&str; 4] = ["expired", "dropped", "refused", "undeliverable"];

#[derive(Deserialize)]
struct ResultMessage {
    id: String,
    status: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    data: Value,
}

#[derive(Deserialize)]
struct ReceiptMessage {
    topic: String,
    id: String,
    state: String,
    #[serde(default)]
    client: Option<String>,
    #[serde(default)]
    reason: Option<String>,
}

impl Core {
    pub(super) fn chat(&mut self, out: &mut Vec<Change>, now_ms: u64, message: &Chat<'_>) {
        // A retained command would be given again at every start.
        if message.retain {
            return;
        }
        let source = Source {
            seq: message.seq,
            id: message.id.map(str::to_owned),
            from: message.from.map(str::to_owned),
        };
        match chat::read(message.payload, &self.config.commands, !self.config.rules.is_empty()) {
            Said::Nothing => {}
            Said::Wrong { answer, device } => {
                let key = self.chat_id("ans", now_ms, message);
                let post = report::answer(source, &key, device.as_deref(), answer, now_ms);
                self.tell(out, now_ms, &post);
            }
            Said::Acknowledge { what } => self.acknowledge(out, now_ms, message, &what),
            Said::Mute { what, for_ms } => self.mute(out, now_ms, message, what, for_ms),
            Said::Order(order) => self.order(out, now_ms, message, source, order),
        }
    }

    fn order(
        &mut self,
        out: &mut Vec<Change>,
        now_ms: u64,
        message: &Chat<'_>,
        source: Source,
        order: Order,
    ) {
        let id = self.chat_id("cmd", now_ms, message);
        if self.state.requests.contains_key(&id) || self.is_nameless_repeat(now_ms, message, &order) {
            return;
        }
        let Order { name, device, args, ttl_s } = order;
        // Counted from when it was written: a command that waited for the bridge is no younger for that.
        let written_ms = message.ts_ms.unwrap_or(now_ms).min(now_ms);
        let expires_at_ms = written_ms + u64::from(ttl_s) * 1_000;
        let request = Request {
            id: id.clone(),
            device,
            name,
            source,
            expires_at_ms,
            result: None,
            closed: false,
            receipts: Vec::new(),
        };
        if expires_at_ms <= now_ms {
            let age = span(now_ms - written_ms);
            let why =
                format!("it was written {age} ago and lives {ttl_s} s; write it again if it still holds");
            return self.tell(out, now_ms, &report::not_sent(&request, &why, now_ms));
        }
        if !self.make_room_for_request(out) {
            let why = format!("{REQUESTS_MAX} commands are open already; try again when some are answered");
            return self.tell(out, now_ms, &report::not_sent(&request, &why, now_ms));
        }
        let payload = json!({"id": id, "name": request.name, "args": args, "expires_at": expires_at_ms});
        let entry = Entry {
            no: 0,
            target: Target::Broker,
            id,
            kind: "command".to_owned(),
            created_ms: now_ms,
            payload: payload.to_string(),
            topic: Some(command_topic(&request.device)),
            expires_at_ms: Some(expires_at_ms),
        };
        tracing::info!(device = request.device, name = request.name, id = request.id, "command");
        self.counts.commands += 1;
        self.change(out, Change::Request(request));
        self.put(out, now_ms, Target::Broker, entry);
    }

    /// An id that follows from the chat message: from its own id and sender, else from its number, else (a broker that
    /// tells neither) from the time.
    pub(super) fn chat_id(&self, prefix: &str, now_ms: u64, message: &Chat<'_>) -> String {
        let topic = self.config.dispatch_topic.as_str();
        match (message.id, message.seq) {
            (Some(id), _) => ids::derive(prefix, &[topic, "id", message.from.unwrap_or(""), id]),
            (None, Some(seq)) => ids::derive(prefix, &[topic, "seq", &seq.to_string()]),
            (None, None) => ids::derive(
                prefix,
                &[topic, "at", &now_ms.to_string(), &String::from_utf8_lossy(message.payload)],
            ),
        }
    }

    /// Whether a message without id and number, marked as sent again, is the one that an open request came from.
    fn is_nameless_repeat(&self, now_ms: u64, message: &Chat<'_>, order: &Order) -> bool {
        message.dup
            && message.id.is_none()
            && message.seq.is_none()
            && self.state.requests.values().any(|request| {
                request.source.id.is_none()
                    && request.source.seq.is_none()
                    && (&request.device, &request.name) == (&order.device, &order.name)
                    && request.expires_at_ms > now_ms
            })
    }

    fn make_room_for_request(&mut self, out: &mut Vec<Change>) -> bool {
        if self.state.requests.len() < REQUESTS_MAX {
            return true;
        }
        let closed = self.state.requests.values().filter(|request| request.closed);
        let Some(id) = closed.min_by_key(|request| request.expires_at_ms).map(|request| request.id.clone())
        else {
            return false;
        };
        self.change(out, Change::RequestGone { id });
        true
    }

    pub(super) fn result(&mut self, out: &mut Vec<Change>, now_ms: u64, device: &str, payload: &[u8]) {
        let Some(message) = parse::<ResultMessage>(payload) else {
            tracing::debug!(device, "a result that is none");
            return;
        };
        // Only the device that was asked may answer.
        let Some(mut request) = self.state.requests.get(&message.id).filter(|r| r.device == device).cloned()
        else {
            return;
        };
        if !FINAL.contains(&message.status.as_str()) || request.result.is_some() {
            return;
        }
        let small = message.data.to_string().len() <= DATA_BYTES_MAX;
        let data = if small { message.data } else { Value::Null };
        let post = report::result(&request, &message.status, message.reason.as_deref(), data, now_ms);
        request.result = Some(message.status);
        request.closed = true;
        self.change(out, Change::Request(request));
        self.tell(out, now_ms, &post);
    }

    pub(super) fn receipt(&mut self, out: &mut Vec<Change>, now_ms: u64, payload: &[u8]) {
        let Some(message) = parse::<ReceiptMessage>(payload) else {
            tracing::debug!("a receipt that is none");
            return;
        };
        let Some(mut request) = self.state.requests.get(&message.id).cloned() else { return };
        if message.topic != command_topic(&request.device) {
            return;
        }
        let client: String =
            message.client.unwrap_or_else(|| request.device.clone()).chars().take(128).collect();
        let told = format!("{} {client}", message.state);
        // A receipt may repeat (docs/protocol.md, receipts).
        if request.receipts.contains(&told) || request.receipts.len() >= RECEIPTS_TOLD_MAX {
            return;
        }
        let post = report::receipt(&request, &message.state, &client, message.reason.as_deref(), now_ms);
        request.receipts.push(told);
        request.closed |= client == request.device && LOST.contains(&message.state.as_str());
        self.change(out, Change::Request(request));
        self.tell(out, now_ms, &post);
    }

    pub(super) fn tick_requests(&mut self, out: &mut Vec<Change>, now_ms: u64) {
        let due = |request: &&Request| deadline_ms(request) <= now_ms;
        for mut request in self.state.requests.values().filter(due).cloned().collect::<Vec<_>>() {
            if request.closed {
                self.change(out, Change::RequestGone { id: request.id });
                continue;
            }
            let post = report::no_answer(&request, now_ms);
            request.closed = true;
            self.change(out, Change::Request(request));
            self.tell(out, now_ms, &post);
        }
    }

    /// Closes the request whose command could not be sent.
    pub(super) fn not_sent(&mut self, out: &mut Vec<Change>, now_ms: u64, id: &str, why: &str) {
        let Some(mut request) = self.state.requests.get(id).filter(|request| !request.closed).cloned() else {
            return;
        };
        let post = report::not_sent(&request, why, now_ms);
        request.closed = true;
        self.change(out, Change::Request(request));
        self.tell(out, now_ms, &post);
    }

    pub(super) fn next_request_deadline_ms(&self) -> Option<u64> {
        self.state.requests.values().map(deadline_ms).min()
    }

    fn tell(&mut self, out: &mut Vec<Change>, now_ms: u64, post: &Post) {
        self.put_post(out, now_ms, Target::Broker, post);
    }
}

pub(super) fn deadline_ms(request: &Request) -> u64 {
    request.expires_at_ms.saturating_add(if request.closed { REMEMBER_MS } else { ANSWER_GRACE_MS })
}

fn command_topic(device: &str) -> String {
    format!("dev/{device}/cmd")
}

fn parse<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Option<T> {
    if payload.len() > PAYLOAD_BYTES_MAX { None } else { serde_json::from_slice(payload).ok() }
}
