//! Runs the steps of one vector over connections, wherever they are.
//!
//! Knows no socket and no engine: a [`Place`] has them. Every packet that comes must be expected by a step; at
//! the end of a vector each open connection proves with a ping that nothing else was on its way.

use std::collections::HashMap;
use std::time::Duration;

use protocol::ProtocolVersion;

use super::bytes::{Context, Expression};
use super::format::{Action, SessionKind, Vector};

/// What a connection gave next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// One whole packet.
    Packet(Vec<u8>),
    /// The broker closed the connection.
    Closed,
    /// Nothing, within the patience of the place.
    Nothing,
}

/// Where connections go: the engine in memory, or a process.
pub(super) trait Place {
    /// Opens a connection and returns its number.
    fn open(&mut self) -> usize;
    /// Sends bytes; the broker may close meanwhile.
    fn send(&mut self, connection: usize, bytes: &[u8]);
    /// Takes the next packet.
    fn receive(&mut self, connection: usize) -> Received;
    /// Ends the connection as a lost network does, and waits until the broker knows.
    fn lose(&mut self, connection: usize);
    /// Lets time pass.
    fn pass(&mut self, time: Duration);
}

/// Packet ids of the steps that are written in words; a vector's own bytes use lower ones.
const SUBSCRIBE_ID: &str = "fff0";
const PUBLISH_ID: &str = "fff1";

struct Run<'a> {
    place: &'a mut dyn Place,
    context: Context,
    connections: HashMap<String, usize>,
}

/// Runs a vector in one version and, where it has some, with one value of its variable; `token` is its own part
/// of every topic and client id.
pub(super) fn run(
    vector: &Vector,
    version: ProtocolVersion,
    value: Option<usize>,
    token: &str,
    place: &mut dyn Place,
) -> Result<(), String> {
    let mut context = Context { version, token: token.to_owned(), variables: HashMap::new() };
    if let Some((name, values)) = &vector.over
        && let Some(value) = value
    {
        let bytes = values[value].bytes(&context)?;
        context.variables.insert(name.clone(), bytes);
    }
    let mut run = Run { place, context, connections: HashMap::new() };
    for step in &vector.steps {
        run.act(&step.action).map_err(|e| format!("line {}: `{}`: {e}", step.line, step.text))?;
    }
    let mut open: Vec<String> = run.connections.keys().cloned().collect();
    open.sort();
    for name in open {
        run.quiet(&name).map_err(|e| format!("{name} at the end: {e}"))?;
        run.lose(&name)?;
    }
    Ok(())
}

impl Run<'_> {
    fn act(&mut self, action: &Action) -> Result<(), String> {
        match action {
            Action::Connect { at, client, session } => self.connect(at, client, *session),
            Action::Send { at, bytes } => self.send(at, bytes),
            Action::Expect { at, alternatives } => self.expect(at, alternatives),
            Action::Ends { at, reasons } => {
                if self.context.version == ProtocolVersion::V5 {
                    let short = with_reasons(reasons, |r| format!("e0 ({r})"))?;
                    let long = with_reasons(reasons, |r| format!("e0 ({r} (no:11 ..))"))?;
                    self.expect(at, &[short, long].concat())?;
                }
                self.closed(at)
            }
            Action::Refused { at, reasons, v311 } => {
                if self.context.version == ProtocolVersion::V5 {
                    self.expect(at, &with_reasons(reasons, |r| format!("20 (00 {r} (..))"))?)?;
                } else if let Some(code) = v311 {
                    self.expect_text(at, &format!("20 02 00 {code:02x}"))?;
                }
                self.closed(at)
            }
            Action::Closed { at } => self.closed(at),
            Action::Quiet { at } => self.quiet(at),
            Action::Lose { at } => self.lose(at),
            Action::Pass { time } => {
                self.place.pass(*time);
                Ok(())
            }
            Action::Subscribe { at, qos, filter } => self.subscribe(at, *qos, filter),
            Action::Publish { at, qos, retain, topic, payload } => {
                self.publish(at, *qos, *retain, topic, payload)
            }
            Action::Gets { at, qos, retain, topic, payload } => self.gets(at, *qos, *retain, topic, payload),
            Action::Each { numbers, step } => {
                for number in numbers.clone() {
                    self.context.variables.insert("n".into(), number.to_be_bytes().into());
                    self.act(step).map_err(|e| format!("at {number}: {e}"))?;
                }
                Ok(())
            }
        }
    }

    /// The connection of this name; it is opened when it is not there.
    fn connection(&mut self, name: &str) -> usize {
        match self.connections.get(name) {
            Some(connection) => *connection,
            None => {
                let connection = self.place.open();
                self.connections.insert(name.to_owned(), connection);
                connection
            }
        }
    }

    fn send(&mut self, at: &str, bytes: &Expression) -> Result<(), String> {
        let bytes = bytes.bytes(&self.context)?;
        let connection = self.connection(at);
        self.place.send(connection, &bytes);
        Ok(())
    }

    fn send_text(&mut self, at: &str, text: &str) -> Result<(), String> {
        self.send(at, &Expression::parse(text)?)
    }

    fn expect(&mut self, at: &str, alternatives: &[Expression]) -> Result<(), String> {
        let connection = self.connection(at);
        let packet = match self.place.receive(connection) {
            Received::Packet(packet) => packet,
            other => return Err(format!("expected a packet, got {other:?}")),
        };
        let mut wrong = Vec::new();
        for alternative in alternatives {
            match alternative.check(&packet, &mut self.context) {
                Ok(()) => return Ok(()),
                Err(what) => wrong.push(what),
            }
        }
        Err(format!("{} — got {}", wrong.join("; or "), shown(&packet)))
    }

    fn expect_text(&mut self, at: &str, text: &str) -> Result<(), String> {
        self.expect(at, &Expression::parse_alternatives(text)?)
    }

    fn closed(&mut self, at: &str) -> Result<(), String> {
        let connection = self.connection(at);
        let got = self.place.receive(connection);
        self.connections.remove(at);
        match got {
            Received::Closed => Ok(()),
            Received::Packet(packet) => Err(format!("expected the end, got {}", shown(&packet))),
            Received::Nothing => Err("expected the end, but the connection stays open".to_owned()),
        }
    }

    /// A ping is answered at once, and nothing comes before the answer.
    fn quiet(&mut self, at: &str) -> Result<(), String> {
        self.send_text(at, "c0 00")?;
        self.expect_text(at, "d0 00")
    }

    fn lose(&mut self, at: &str) -> Result<(), String> {
        let connection = self.connections.remove(at).ok_or_else(|| format!("{at} is not open"))?;
        self.place.lose(connection);
        Ok(())
    }

    fn connect(&mut self, at: &str, client: &str, session: SessionKind) -> Result<(), String> {
        let (flags, expiry, present) = match session {
            SessionKind::Clean => ("02", "", "00"),
            SessionKind::Durable => ("00", "11 00000e10", "00"),
            SessionKind::Resumed => ("00", "11 00000e10", "01"),
        };
        self.send_text(
            at,
            &format!("10 (s\"MQTT\" v311{{04}} v5{{05}} {flags} 0000 p({expiry}) s\"{{t}}{client}\")"),
        )?;
        self.expect_text(at, &format!("20 ({present} 00 p(..))"))
    }

    fn subscribe(&mut self, at: &str, qos: u8, filter: &Expression) -> Result<(), String> {
        self.context.variables.insert("filter".into(), filter.bytes(&self.context)?);
        self.send_text(at, &format!("82 ({SUBSCRIBE_ID} p() $filter {qos:02x})"))?;
        self.expect_text(at, &format!("90 ({SUBSCRIBE_ID} p(..) {qos:02x})"))
    }

    fn publish(
        &mut self,
        at: &str,
        qos: u8,
        retain: bool,
        topic: &Expression,
        payload: &Expression,
    ) -> Result<(), String> {
        let first = 0x30 | qos << 1 | u8::from(retain);
        let id = if qos > 0 { PUBLISH_ID } else { "" };
        self.context.variables.insert("topic".into(), topic.bytes(&self.context)?);
        self.context.variables.insert("payload".into(), payload.bytes(&self.context)?);
        self.send_text(at, &format!("{first:02x} ($topic {id} p() $payload)"))?;
        match qos {
            0 => Ok(()),
            1 => self.expect_text(at, &format!("40 ({PUBLISH_ID} ack)")),
            _ => {
                self.expect_text(at, &format!("50 ({PUBLISH_ID} ack)"))?;
                self.send_text(at, &format!("62 ({PUBLISH_ID})"))?;
                self.expect_text(at, &format!("70 ({PUBLISH_ID})"))
            }
        }
    }

    /// Takes a message and acknowledges it to its end.
    fn gets(
        &mut self,
        at: &str,
        qos: u8,
        retain: bool,
        topic: &Expression,
        payload: &Expression,
    ) -> Result<(), String> {
        let first = 0x30 | qos << 1 | u8::from(retain);
        let id = if qos > 0 { "$got:2" } else { "" };
        self.context.variables.insert("topic".into(), topic.bytes(&self.context)?);
        self.context.variables.insert("payload".into(), payload.bytes(&self.context)?);
        self.expect_text(at, &format!("{first:02x} ($topic {id} p(im) $payload)"))?;
        match qos {
            0 => Ok(()),
            1 => self.send_text(at, "40 ($got)"),
            _ => {
                self.send_text(at, "50 ($got)")?;
                self.expect_text(at, "62 ($got)")?;
                self.send_text(at, "70 ($got)")
            }
        }
    }
}

fn with_reasons(reasons: &[u8], pattern: impl Fn(String) -> String) -> Result<Vec<Expression>, String> {
    reasons.iter().map(|reason| Expression::parse(&pattern(format!("{reason:02x}")))).collect()
}

/// A packet for an error message: hex, and what of it is text.
fn shown(packet: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 160;
    let part = &packet[..packet.len().min(SHOWN_BYTES_MAX)];
    let hex: Vec<String> = part.iter().map(|byte| format!("{byte:02x}")).collect();
    let text: String = part.iter().map(|b| if b.is_ascii_graphic() { *b as char } else { '.' }).collect();
    format!("{} bytes: {} {text}", packet.len(), hex.join(" "))
}
