//! A vector file: vectors, one after the other, each with its statements and its steps.
//!
//! `tests/vectors/README.md` describes the format. Knows nothing of how steps run.

use std::time::Duration;

use protocol::ProtocolVersion;

use super::bytes::Expression;

/// One vector.
#[derive(Clone, Debug)]
pub(super) struct Vector {
    /// The file's name without ending.
    pub(super) file: String,
    /// What it shows, in words.
    pub(super) name: String,
    pub(super) versions: Vec<ProtocolVersion>,
    /// It needs a broker that nobody else uses.
    pub(super) alone: bool,
    /// It runs in memory only: it lets more time pass than a test may take.
    pub(super) memory_only: bool,
    /// It runs against processes only: what it shows is not the engine's.
    pub(super) process_only: bool,
    /// It runs once for each of these bytes, which the variable of this name holds.
    pub(super) over: Option<(String, Vec<Expression>)>,
    pub(super) steps: Vec<Step>,
}

/// One line.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) line: usize,
    pub(super) text: String,
    pub(super) action: Action,
}

/// How CONNECT asks for its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionKind {
    /// Clean, and ends with its connection.
    Clean,
    /// A new one that lasts.
    Durable,
    /// One that lasts and must be there.
    Resumed,
}

/// What a step does; names are connections.
#[derive(Clone, Debug)]
pub(super) enum Action {
    Connect {
        at: String,
        client: String,
        session: SessionKind,
    },
    Send {
        at: String,
        bytes: Expression,
    },
    Expect {
        at: String,
        alternatives: Vec<Expression>,
    },
    /// DISCONNECT with one of these reasons in 5.0, nothing in 3.1.1, then the end.
    Ends {
        at: String,
        reasons: Vec<u8>,
    },
    /// CONNACK with one of these reasons in 5.0, with this code or none in 3.1.1, then the end.
    Refused {
        at: String,
        reasons: Vec<u8>,
        v311: Option<u8>,
    },
    Closed {
        at: String,
    },
    Quiet {
        at: String,
    },
    Lose {
        at: String,
    },
    Pass {
        time: Duration,
    },
    Subscribe {
        at: String,
        qos: u8,
        filter: Expression,
    },
    Publish {
        at: String,
        qos: u8,
        retain: bool,
        topic: Expression,
        payload: Expression,
    },
    Gets {
        at: String,
        qos: u8,
        retain: bool,
        topic: Expression,
        payload: Expression,
    },
    /// The step once for each number, which `$n` holds.
    Each {
        numbers: std::ops::RangeInclusive<u16>,
        step: Box<Action>,
    },
}

/// Parses a file.
pub(super) fn parse(file: &str, text: &str) -> Result<Vec<Vector>, String> {
    let mut vectors: Vec<Vector> = Vec::new();
    for (line, text) in joined_lines(text) {
        let at = |what: String| format!("{file}.vec:{line}: {what}");
        if let Some(name) = text.strip_prefix("== ") {
            vectors.push(Vector {
                file: file.to_owned(),
                name: name.trim().to_owned(),
                versions: vec![ProtocolVersion::V311, ProtocolVersion::V5],
                alone: false,
                memory_only: false,
                process_only: false,
                over: None,
                steps: Vec::new(),
            });
            continue;
        }
        let vector = vectors.last_mut().ok_or_else(|| at("a step before the first `== name`".into()))?;
        match text.split_once(' ').unwrap_or((&text, "")) {
            ("for", "3.1.1") => vector.versions = vec![ProtocolVersion::V311],
            ("for", "5.0") => vector.versions = vec![ProtocolVersion::V5],
            ("cites", _) => {}
            ("alone", "") => vector.alone = true,
            ("only", "memory") => vector.memory_only = true,
            ("only", "process") => vector.process_only = true,
            ("over", rest) => vector.over = Some(parse_over(rest).map_err(at)?),
            _ => {
                let action = parse_action(&text).map_err(|e| at(format!("{e} in `{text}`")))?;
                vector.steps.push(Step { line, text, action });
            }
        }
    }
    Ok(vectors)
}

/// Parses `name = bytes ; bytes`.
fn parse_over(text: &str) -> Result<(String, Vec<Expression>), String> {
    let (name, values) = text.split_once(" = ").ok_or_else(|| format!("`name = bytes` in `{text}`"))?;
    let values = values.split(';').map(Expression::parse).collect::<Result<_, _>>()?;
    Ok((name.trim().to_owned(), values))
}

/// Lines without comments; what is indented goes on where the line before ended.
fn joined_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = without_comment(line);
        if line.trim().is_empty() {
            continue;
        }
        match lines.last_mut().filter(|_| line.starts_with(' ')) {
            Some((_, before)) => {
                before.push(' ');
                before.push_str(line.trim());
            }
            None => lines.push((at + 1, line.trim().to_owned())),
        }
    }
    lines
}

/// A comment begins with `#` that is not in quotes, at the line's start or behind a space.
fn without_comment(line: &str) -> &str {
    let mut quoted = false;
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        quoted ^= c == '"';
        if c == '#' && !quoted && before == ' ' {
            return &line[..at];
        }
        before = c;
    }
    line
}

fn parse_action(text: &str) -> Result<Action, String> {
    let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
    let rest = rest.trim();
    if first == "pass" {
        let seconds: u64 = rest.strip_suffix('s').and_then(|n| n.parse().ok()).ok_or("seconds like 2s")?;
        return Ok(Action::Pass { time: Duration::from_secs(seconds) });
    }
    if first == "each" {
        let (range, step) = rest.split_once(' ').ok_or("a range and a step")?;
        let (from, to) = range.split_once("..").ok_or("a range like 1..10")?;
        let number = |text: &str| text.parse::<u16>().map_err(|e| e.to_string());
        return Ok(Action::Each {
            numbers: number(from)?..=number(to)?,
            step: Box::new(parse_action(step)?),
        });
    }
    let at = first.to_owned();
    let (word, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    match word {
        ">" => Ok(Action::Send { at, bytes: Expression::parse(rest)? }),
        "<" => Ok(Action::Expect { at, alternatives: Expression::parse_alternatives(rest)? }),
        "closed" => Ok(Action::Closed { at }),
        "quiet" => Ok(Action::Quiet { at }),
        "lose" => Ok(Action::Lose { at }),
        "ends" => Ok(Action::Ends { at, reasons: hex_bytes(rest)? }),
        "refused" => {
            let (reasons, v311) = match rest.split_once("or") {
                None => (rest, None),
                Some((reasons, code)) => (reasons, hex_bytes(code)?.first().copied()),
            };
            Ok(Action::Refused { at, reasons: hex_bytes(reasons)?, v311 })
        }
        "connect" => parse_connect(at, rest),
        "subscribe" => {
            let (qos, filter) = rest.split_once(' ').ok_or("a QoS and a filter")?;
            let qos = qos.parse().map_err(|e| format!("QoS: {e}"))?;
            Ok(Action::Subscribe { at, qos, filter: Expression::parse(&format!("s{}", filter.trim()))? })
        }
        "publish" | "gets" => parse_message(at, word, rest),
        other => Err(format!("unknown step {other:?}")),
    }
}

fn parse_connect(at: String, rest: &str) -> Result<Action, String> {
    let mut client = at.clone();
    let mut session = SessionKind::Clean;
    let mut words = rest.split_whitespace();
    while let Some(word) = words.next() {
        match word {
            "durable" => session = SessionKind::Durable,
            "resumed" => session = SessionKind::Resumed,
            "as" => client = words.next().ok_or("a name behind `as`")?.to_owned(),
            other => return Err(format!("{other:?} is no word of connect")),
        }
    }
    Ok(Action::Connect { at, client, session })
}

/// Parses `1 retained "topic" "payload"`.
fn parse_message(at: String, word: &str, rest: &str) -> Result<Action, String> {
    let (head, strings) = rest.split_at(rest.find('"').ok_or("a topic in quotes")?);
    let mut head = head.split_whitespace();
    let qos = head.next().and_then(|q| q.parse().ok()).ok_or("a QoS")?;
    let retain = match head.next() {
        None => false,
        Some("retained") => true,
        Some(other) => return Err(format!("{other:?} is not `retained`")),
    };
    let middle = strings[1..].find('"').ok_or("a topic in quotes")? + 2;
    let topic = Expression::parse(&format!("s{}", &strings[..middle]))?;
    let payload = Expression::parse(&strings[middle..])?;
    Ok(if word == "publish" {
        Action::Publish { at, qos, retain, topic, payload }
    } else {
        Action::Gets { at, qos, retain, topic, payload }
    })
}

fn hex_bytes(text: &str) -> Result<Vec<u8>, String> {
    text.split_whitespace()
        .map(|word| u8::from_str_radix(word, 16).map_err(|e| format!("{word:?}: {e}")))
        .collect()
}
