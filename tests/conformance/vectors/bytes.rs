//! The byte language of the vectors: what is sent, written down so that a person can read it, and patterns of
//! what must come. `tests/vectors/README.md` describes it.
//!
//! Knows nothing of connections or steps. Lengths are computed, so a wrong length is written in plain hex.

use std::collections::HashMap;

use protocol::ProtocolVersion;

/// How a group says its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    /// A variable byte integer: remaining length, property length.
    Variable,
    /// Two bytes: strings and binary fields.
    Two,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    Byte(u8),
    Text(Vec<u8>),
    Group(Size, Vec<Item>),
    /// Only in this version.
    In(ProtocolVersion, Vec<Item>),
    Repeat(Box<Item>, usize),
    Variable(String),
    /// Any bytes of this number, remembered under the name.
    Capture(String, usize),
    AnyByte,
    Rest,
    BrokerProperties,
    ReasonString,
    Accepted,
    /// Among the properties to the end of the group, this one is there, or is not.
    Property {
        id: u8,
        is_there: bool,
    },
}

/// Bytes to send, or a pattern of bytes to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expression(Vec<Item>);

/// What an expression is read in: the version, the vector's own token, and what was captured so far.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) version: ProtocolVersion,
    pub(super) token: String,
    pub(super) variables: HashMap<String, Vec<u8>>,
}

impl Expression {
    /// Parses the text of an expression.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { rest: text };
        let items = parser.items(None)?;
        Ok(Self(items))
    }

    /// Parses alternatives, separated by a bar.
    pub(super) fn parse_alternatives(text: &str) -> Result<Vec<Self>, String> {
        let mut quoted = false;
        let parts = text.split(|c: char| {
            quoted ^= c == '"';
            c == '|' && !quoted
        });
        parts.map(Self::parse).collect()
    }

    /// Makes the bytes.
    pub(super) fn bytes(&self, context: &Context) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        write(&self.0, context, &mut out)?;
        Ok(out)
    }

    /// Says where `bytes` differ; what the pattern captures is kept in the context when they do not.
    pub(super) fn check(&self, bytes: &[u8], context: &mut Context) -> Result<(), String> {
        let mut input = Input { bytes, at: 0, end: bytes.len() };
        let mut changed = context.clone();
        input.take(&self.0, &mut changed)?;
        input.finish()?;
        *context = changed;
        Ok(())
    }
}

fn write(items: &[Item], context: &Context, out: &mut Vec<u8>) -> Result<(), String> {
    for item in items {
        match item {
            Item::Byte(byte) => out.push(*byte),
            Item::Text(text) => out.extend(with_token(text, &context.token)),
            Item::Group(size, inner) => {
                let mut body = Vec::new();
                write(inner, context, &mut body)?;
                write_length(*size, body.len(), out)?;
                out.extend(body);
            }
            Item::In(version, inner) if *version == context.version => write(inner, context, out)?,
            Item::In(..) => {}
            Item::Repeat(item, times) => {
                let mut once = Vec::new();
                write(std::slice::from_ref(&**item), context, &mut once)?;
                out.extend(once.repeat(*times));
            }
            Item::Variable(name) => {
                let bytes = context.variables.get(name).ok_or_else(|| format!("${name} has no value yet"))?;
                out.extend(bytes);
            }
            other => return Err(format!("{other:?} stands for unknown bytes and cannot be sent")),
        }
    }
    Ok(())
}

fn write_length(size: Size, length: usize, out: &mut Vec<u8>) -> Result<(), String> {
    match size {
        Size::Two => out.extend(u16::try_from(length).map_err(|e| e.to_string())?.to_be_bytes()),
        Size::Variable => {
            let mut left = length;
            loop {
                let more = if left > 0x7f { 0x80 } else { 0 };
                out.push((left & 0x7f) as u8 | more);
                left >>= 7;
                if left == 0 {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Puts the vector's token in place of `{t}`.
fn with_token(text: &[u8], token: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, behind)) = rest.split_first() {
        if let Some(behind) = rest.strip_prefix(b"{t}") {
            out.extend(token.as_bytes());
            rest = behind;
        } else {
            out.push(first);
            rest = behind;
        }
    }
    out
}

/// The part of a packet that one group of a pattern must match.
struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl Input<'_> {
    fn next(&mut self) -> Result<u8, String> {
        if self.at >= self.end {
            return Err(format!("byte {}: the packet or group ends too early", self.at));
        }
        self.at += 1;
        Ok(self.bytes[self.at - 1])
    }

    fn expect(&mut self, wanted: &[u8]) -> Result<(), String> {
        for want in wanted {
            let got = self.next()?;
            if got != *want {
                return Err(format!("byte {}: expected {want:02x}, got {got:02x}", self.at - 1));
            }
        }
        Ok(())
    }

    fn finish(&self) -> Result<(), String> {
        if self.at == self.end {
            return Ok(());
        }
        Err(format!("byte {}: {} bytes more than expected", self.at, self.end - self.at))
    }

    /// Reads a length and sets the bytes it counts apart.
    fn group(&mut self, size: Size) -> Result<Self, String> {
        let mut length = 0;
        match size {
            Size::Two => length = usize::from(self.next()?) << 8 | usize::from(self.next()?),
            Size::Variable => {
                for shift in [0, 7, 14, 21] {
                    let byte = self.next()?;
                    length |= usize::from(byte & 0x7f) << shift;
                    if byte < 0x80 {
                        break;
                    }
                }
            }
        }
        if self.at + length > self.end {
            return Err(format!("byte {}: a group of {length} bytes goes over its end", self.at));
        }
        let group = Self { bytes: self.bytes, at: self.at, end: self.at + length };
        self.at += length;
        Ok(group)
    }

    fn take(&mut self, items: &[Item], context: &mut Context) -> Result<(), String> {
        for item in items {
            match item {
                Item::Byte(byte) => self.expect(&[*byte])?,
                Item::Text(text) => self.expect(&with_token(text, &context.token))?,
                Item::Group(size, inner) => {
                    let mut group = self.group(*size)?;
                    group.take(inner, context)?;
                    group.finish()?;
                }
                Item::In(version, inner) if *version == context.version => self.take(inner, context)?,
                Item::In(..) => {}
                Item::Repeat(item, times) => {
                    for _ in 0..*times {
                        self.take(std::slice::from_ref(&**item), context)?;
                    }
                }
                Item::Variable(name) => {
                    let wanted = context.variables.get(name).cloned();
                    self.expect(&wanted.ok_or_else(|| format!("${name} has no value yet"))?)?;
                }
                Item::Capture(name, bytes) => {
                    let got = (0..*bytes).map(|_| self.next()).collect::<Result<Vec<u8>, _>>()?;
                    context.variables.insert(name.clone(), got);
                }
                Item::AnyByte => drop(self.next()?),
                Item::Rest => self.at = self.end,
                Item::BrokerProperties => self.skip_broker_properties(),
                Item::ReasonString => {
                    if self.at < self.end && self.bytes[self.at] == 0x1f {
                        self.at += 1;
                        self.group(Size::Two)?;
                    }
                }
                Item::Accepted => self.take_accepted(context)?,
                Item::Property { id, is_there } => {
                    if self.property_ids()?.contains(id) != *is_there {
                        let word = if *is_there { "missing" } else { "there" };
                        return Err(format!("property {id:02x} is {word}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// Skips user properties whose names begin with `im-`.
    fn skip_broker_properties(&mut self) {
        loop {
            let before = self.at;
            let is_ours = self.next() == Ok(0x26)
                && self.group(Size::Two).is_ok_and(|name| name.bytes[name.at..name.end].starts_with(b"im-"))
                && self.group(Size::Two).is_ok();
            if !is_ours {
                self.at = before;
                return;
            }
        }
    }

    /// The identifiers of the properties from here to the end of the group; nothing is taken.
    fn property_ids(&self) -> Result<Vec<u8>, String> {
        let mut rest = Self { ..*self };
        let mut ids = Vec::new();
        while rest.at < rest.end {
            let id = rest.next()?;
            ids.push(id);
            match id {
                0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28..=0x2a => rest.at += 1,
                0x13 | 0x21..=0x23 => rest.at += 2,
                0x02 | 0x11 | 0x18 | 0x27 => rest.at += 4,
                0x0b => while rest.next()? >= 0x80 {},
                0x26 => {
                    rest.group(Size::Two)?;
                    rest.group(Size::Two)?;
                }
                0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => {
                    rest.group(Size::Two)?;
                }
                _ => return Err(format!("byte {}: {id:02x} is no property", rest.at - 1)),
            }
        }
        Ok(ids)
    }

    /// What follows the packet id of an acknowledgement that is no refusal.
    fn take_accepted(&mut self, context: &Context) -> Result<(), String> {
        if context.version == ProtocolVersion::V311 || self.at == self.end {
            return Ok(());
        }
        let reason = self.next()?;
        if reason >= 0x80 {
            return Err(format!("byte {}: refused with {reason:02x}", self.at - 1));
        }
        if self.at < self.end {
            self.group(Size::Variable)?;
        }
        Ok(())
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    /// Parses up to the closing character, or to the end.
    fn items(&mut self, close: Option<char>) -> Result<Vec<Item>, String> {
        let mut items = Vec::new();
        loop {
            self.rest = self.rest.trim_start();
            let Some(next) = self.rest.chars().next() else {
                return match close {
                    None => Ok(items),
                    Some(close) => Err(format!("{close:?} is missing")),
                };
            };
            if Some(next) == close {
                self.skip(1);
                return Ok(items);
            }
            let item = self.item()?;
            if let Some(times) = self.rest.strip_prefix('*') {
                let digits = times.len() - times.trim_start_matches(|c: char| c.is_ascii_digit()).len();
                let number = times[..digits].parse().map_err(|e| format!("after `*`: {e}"))?;
                self.skip(1 + digits);
                items.push(Item::Repeat(Box::new(item), number));
            } else {
                items.push(item);
            }
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }

    fn starts(&mut self, word: &str) -> bool {
        let is = self.rest.starts_with(word);
        if is {
            self.skip(word.len());
        }
        is
    }

    fn item(&mut self) -> Result<Item, String> {
        if self.starts("s\"") {
            return Ok(Item::Group(Size::Two, vec![Item::Text(self.text()?)]));
        }
        if self.starts("\"") {
            return Ok(Item::Text(self.text()?));
        }
        if self.starts("p(") {
            let group = Item::Group(Size::Variable, self.items(Some(')'))?);
            return Ok(Item::In(ProtocolVersion::V5, vec![group]));
        }
        if self.starts("(") {
            return Ok(Item::Group(Size::Variable, self.items(Some(')'))?));
        }
        if self.starts("[") {
            return Ok(Item::Group(Size::Two, self.items(Some(']'))?));
        }
        if self.starts("v5{") {
            return Ok(Item::In(ProtocolVersion::V5, self.items(Some('}'))?));
        }
        if self.starts("v311{") {
            return Ok(Item::In(ProtocolVersion::V311, self.items(Some('}'))?));
        }
        if self.starts("..") {
            return Ok(Item::Rest);
        }
        if self.starts("??") {
            return Ok(Item::AnyByte);
        }
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '$' && c != ':');
        let word = &self.rest[..end.unwrap_or(self.rest.len())];
        let item = match word {
            "im" => Item::BrokerProperties,
            "why" => Item::ReasonString,
            "ack" => Item::Accepted,
            _ => named_or_hex(word)?,
        };
        // Hex is taken byte by byte.
        self.skip(if matches!(item, Item::Byte(_)) { 2 } else { word.len() });
        Ok(item)
    }

    /// Reads to the closing quote.
    fn text(&mut self) -> Result<Vec<u8>, String> {
        let mut text = Vec::new();
        let mut chars = self.rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.skip(at + 1);
                    return Ok(text);
                }
                '\\' => {
                    let escaped = chars.next().map(|(_, c)| c);
                    text.extend(match escaped {
                        Some(c @ ('"' | '\\')) => [c as u8],
                        _ => return Err(format!("an unknown escape in {:?}", self.rest)),
                    });
                }
                c => text.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        Err(format!("a quote is not closed: {:?}", self.rest))
    }
}

fn named_or_hex(word: &str) -> Result<Item, String> {
    if let Some((is, id)) = word.split_once(':').filter(|(is, _)| ["has", "no"].contains(is)) {
        let id = u8::from_str_radix(id, 16).map_err(|e| format!("in {word:?}: {e}"))?;
        return Ok(Item::Property { id, is_there: is == "has" });
    }
    if let Some(name) = word.strip_prefix('$') {
        return match name.split_once(':') {
            None => Ok(Item::Variable(name.to_owned())),
            Some((name, bytes)) => {
                let bytes = bytes.parse().map_err(|e| format!("in {word:?}: {e}"))?;
                Ok(Item::Capture(name.to_owned(), bytes))
            }
        };
    }
    let pair = word.get(..2).filter(|_| word.len().is_multiple_of(2));
    let byte = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok());
    byte.map(Item::Byte).ok_or_else(|| format!("{word:?} is neither hex nor a known word"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(version: ProtocolVersion) -> Context {
        Context { version, token: "T1".into(), variables: HashMap::new() }
    }

    fn bytes(text: &str, version: ProtocolVersion) -> Vec<u8> {
        Expression::parse(text).and_then(|e| e.bytes(&context(version))).expect("an expression that is right")
    }

    #[test]
    fn lengths_and_versions_are_filled_in() {
        let connect = "10 (s\"MQTT\" v5{05} v311{04} 02 0000 p(21 0002) s\"{t}a\")";
        assert_eq!(bytes(connect, ProtocolVersion::V311), b"\x10\x0f\0\x04MQTT\x04\x02\0\0\0\x03T1a");
        assert_eq!(
            bytes(connect, ProtocolVersion::V5),
            b"\x10\x13\0\x04MQTT\x05\x02\0\0\x03\x21\0\x02\0\x03T1a"
        );
        assert_eq!(bytes("(61*200)", ProtocolVersion::V5), [&[0xc8, 0x01][..], &[b'a'; 200]].concat());
        assert_eq!(bytes("[ff \"\\\"\"]", ProtocolVersion::V5), b"\0\x02\xff\"");
    }

    #[test]
    fn patterns_are_exact_where_they_name_no_wildcard() {
        let cases: [(&str, &[u8], bool); 14] = [
            ("20 (00 00 (has:21 no:22 ..))", b"\x20\x06\0\0\x03\x21\0\x01", true),
            ("20 (00 00 (no:21 ..))", b"\x20\x06\0\0\x03\x21\0\x01", false),
            ("20 (00 00 (..))", b"\x20\x05\0\0\x02\x21\x01", true),
            ("20 (00 00 (..))", b"\x20\x05\x01\0\x02\x21\x01", false),
            ("20 (00 00 ())", b"\x20\x05\0\0\x02\x21\x01", false),
            ("40 (0001 ack)", b"\x40\x02\0\x01", true),
            ("40 (0001 ack)", b"\x40\x04\0\x01\x10\0", true),
            ("40 (0001 ack)", b"\x40\x03\0\x01\x97", false),
            ("40 (0001 ack)", b"\x40\x02\0\x02", false),
            ("30 (s\"t\" (im) \"x\")", b"\x30\x11\0\x01t\x0c\x26\0\x04im-a\0\x03bcdx", true),
            ("30 (s\"t\" (im) \"x\")", b"\x30\x11\0\x01t\x0c\x26\0\x04my-a\0\x03bcdx", false),
            ("e0 (81 (why))", b"\xe0\x06\x81\x04\x1f\0\x01x", true),
            ("e0 (81 (why))", b"\xe0\x02\x81\0", true),
            ("?? 01", b"\xff\x01", true),
        ];
        for (pattern, input, is_match) in cases {
            let parsed = Expression::parse(pattern).expect("a pattern that is right");
            let got = parsed.check(input, &mut context(ProtocolVersion::V5));
            assert_eq!(got.is_ok(), is_match, "{pattern} and {input:02x?}: {got:?}");
        }
    }

    #[test]
    fn a_capture_is_what_is_sent_later() {
        let mut context = context(ProtocolVersion::V5);
        let pattern = Expression::parse("32 (s\"t\" $id:2 () ..)").expect("a pattern that is right");
        pattern.check(b"\x32\x07\0\x01t\x12\x34\0x", &mut context).expect("it matches");
        let ack = Expression::parse("40 ($id)").and_then(|e| e.bytes(&context));
        assert_eq!(ack.as_deref(), Ok(&b"\x40\x02\x12\x34"[..]));
    }

    #[test]
    fn what_is_written_wrong_is_told() {
        for text in ["(00", "\"open", "0", "zz", "s\"\\q\"", "00 )"] {
            assert!(Expression::parse(text).is_err(), "{text}");
        }
    }
}
