//! WebSocket frames of a client, cut anywhere, with payload going the other way in between.
//!
//! The input is a list of frames, good and bad, or any bytes. What is read must be what a plain reading of RFC 6455
//! gives for the whole stream; what is written must be frames that carry the payload and answer pings and closes.

use super::parsers::Frames;
use super::source::Source;

const PINGS_BYTES_MAX: usize = 125;

pub(crate) fn run(input: &[u8]) {
    frames(&mut Source::new(input));
}

/// How a stream of frames ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    /// The client's close, and the status that answers it.
    Closed(u16),
    Bad,
}

/// What a stream of frames says.
#[derive(Debug)]
struct Said {
    payload: Vec<u8>,
    pings: Vec<Vec<u8>>,
    end: End,
}

fn frames(source: &mut Source<'_>) {
    let message_bytes_max = source.pick(&[1 << 20, 300, 5]);
    let cuts = source.bytes(8).to_vec();
    let out: Vec<u8> = (0..=255).cycle().take(source.pick(&[0, 3, 130, 70_000])).collect();
    let steps = source.bytes(6).to_vec();
    let ends = source.one_in(3);
    let stream = stream(source);
    let said = read_plainly(&stream, message_bytes_max);

    let mut frames = Frames::new(message_bytes_max);
    let (mut got, mut failed, mut written) = (Vec::new(), false, Written { out: &out, bytes: Vec::new() });
    for (at, piece) in super::decode::parts(&stream, &cuts).into_iter().enumerate() {
        let mut piece = piece.to_vec();
        match frames.read(&mut piece) {
            Ok(length) => got.extend_from_slice(&piece[..length]),
            Err(_) => {
                failed = true;
                break;
            }
        }
        let step = steps.get(at).map_or(usize::MAX, |step| usize::from(*step) + 1);
        written.write_some(&mut frames, step);
    }
    assert_eq!(failed, said.end == End::Bad, "{said:?}");
    assert!(
        said.payload.starts_with(&got) && (failed || said.payload.len() == got.len()),
        "{got:?}, {said:?}"
    );
    assert_eq!(frames.is_ended(), said.end != End::Open);
    if ends {
        frames.end();
    }
    written.write_all(&mut frames);
    assert!(!frames.wants_write());
    check_written(&written.bytes, &out, &said, ends);
}

/// Makes a client's stream: frames that the input describes, with bytes of its own among them.
fn stream(source: &mut Source<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    while !source.is_empty() {
        match source.byte() {
            0..32 => stream.extend_from_slice(source.bytes(20)),
            choice => {
                // A binary frame, a piece, the last piece, and control frames; sometimes any first byte.
                let first = match choice {
                    32..64 => source.byte(),
                    _ => source.pick(&[0x82, 0x02, 0x00, 0x80, 0x89, 0x8a, 0x88]),
                };
                let payload = match source.below(8) {
                    7 => vec![b'p'; source.pick(&[125, 126, 200, 65_535, 65_536])],
                    _ => source.bytes(12).to_vec(),
                };
                frame(&mut stream, first, &payload, choice % 16 == 15);
            }
        }
        if stream.len() > 200_000 {
            break;
        }
    }
    stream
}

fn frame(out: &mut Vec<u8>, first: u8, payload: &[u8], in_eight_bytes: bool) {
    const MASK: [u8; 4] = [0x12, 0x00, 0xff, 0x78];
    out.push(first);
    match payload.len() {
        length if in_eight_bytes || length > 65_535 => {
            out.push(0x80 | 127);
            out.extend((length as u64).to_be_bytes());
        }
        length @ 0..126 => out.push(0x80 | length as u8),
        length => {
            out.push(0x80 | 126);
            out.extend((length as u16).to_be_bytes());
        }
    }
    out.extend(MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// Reads a whole stream as RFC 6455 section 5 says it, one frame after the other.
fn read_plainly(stream: &[u8], message_bytes_max: u64) -> Said {
    let mut said = Said { payload: Vec::new(), pings: Vec::new(), end: End::Open };
    let (mut at, mut message) = (0, None);
    while let Some(&first) = stream.get(at) {
        let (is_last, opcode) = (first & 0x80 != 0, first & 0x0f);
        let is_control = opcode >= 8;
        let is_in_order = match opcode {
            0 => message.is_some(),
            2 => message.is_none(),
            8..=10 => is_last,
            _ => false,
        };
        if first & 0x70 != 0 || !is_in_order {
            said.end = End::Bad;
            return said;
        }
        let Some(&second) = stream.get(at + 1) else { return said };
        let (length_bytes, least) = match second & 0x7f {
            126 => (2, 126),
            127 => (8, 65_536),
            _ => (0, 0),
        };
        if second & 0x80 == 0 || (is_control && length_bytes > 0) {
            said.end = End::Bad;
            return said;
        }
        let mask_at = at + 2 + length_bytes;
        let Some(mask) = stream.get(mask_at..mask_at + 4) else { return said };
        let length = match length_bytes {
            0 => u64::from(second & 0x7f),
            _ => stream[at + 2..mask_at].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        };
        let whole = u64::saturating_add(message.unwrap_or(0), length);
        if length < least || length >> 63 != 0 || (!is_control && whole > message_bytes_max) {
            said.end = End::Bad;
            return said;
        }
        if !is_control {
            message = (!is_last).then_some(whole);
        }
        let from = mask_at + 4;
        let to = from.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
        let there = &stream[from..to.min(stream.len())];
        let bytes = there.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        let is_whole = to <= stream.len();
        match opcode {
            9 if is_whole => said.pings.push(bytes.collect()),
            8 if is_whole => {
                said.end = End::Closed(answer(&bytes.collect::<Vec<_>>()));
                return said;
            }
            8..=10 => {}
            _ => said.payload.extend(bytes),
        }
        at = to;
    }
    said
}

/// The status that answers a close.
fn answer(payload: &[u8]) -> u16 {
    match *payload {
        [] => 1000,
        [high, low, ..] => match u16::from_be_bytes([high, low]) {
            1000..=1003 | 1007..=1014 | 3000..=4999 if std::str::from_utf8(&payload[2..]).is_err() => 1007,
            status @ (1000..=1003 | 1007..=1014 | 3000..=4999) => status,
            _ => 1002,
        },
        _ => 1002,
    }
}

/// What goes the other way.
struct Written<'a> {
    /// Payload that is not sent yet.
    out: &'a [u8],
    bytes: Vec<u8>,
}

impl Written<'_> {
    /// The socket takes so many bytes.
    fn write_some(&mut self, frames: &mut Frames, step: usize) -> bool {
        let (head, body) = frames.next_out(self.out.len());
        let all = [&head[..], &self.out[..body]].concat();
        let taken = all.len().min(step);
        self.bytes.extend_from_slice(&all[..taken]);
        self.out = &self.out[frames.sent(taken)..];
        taken > 0
    }

    fn write_all(&mut self, frames: &mut Frames) {
        let mut rounds = 0;
        while self.write_some(frames, 40_000) {
            rounds += 1;
            assert!(rounds < 1_000, "there is no end of what is to be written");
        }
    }
}

/// What was written is frames, and nothing else is in them than what belongs there.
fn check_written(mut bytes: &[u8], out: &[u8], said: &Said, ended: bool) {
    let (mut payload, mut pongs, mut closes) = (Vec::new(), Vec::new(), Vec::new());
    while let Some((&[first, second], rest)) = bytes.split_first_chunk() {
        let (length, rest) = match second {
            126 => rest.split_first_chunk().map(|(l, rest)| (usize::from(u16::from_be_bytes(*l)), rest)),
            127 => rest.split_first_chunk().map(|(l, rest)| (u64::from_be_bytes(*l) as usize, rest)),
            length => Some((usize::from(length), rest)),
        }
        .expect("a whole header");
        let (body, rest) = rest.split_at_checked(length).expect("a whole frame");
        match first {
            0x82 => payload.extend_from_slice(body),
            0x8a => pongs.push(body.to_vec()),
            0x88 => closes.push(u16::from_be_bytes(body.try_into().expect("a status alone"))),
            other => panic!("a frame that begins with {other:#x}"),
        }
        // [RFC 6455 section 5.5.1] no data after a close.
        assert!(closes.is_empty() || first != 0x82, "payload after a close");
        bytes = rest;
    }
    assert!(bytes.is_empty(), "half a frame at the end");
    assert_eq!(payload, out);
    assert!(pongs.iter().all(|pong| pong.len() <= PINGS_BYTES_MAX));
    // Every pong answers a ping, in their order; a ping that a newer one has overtaken has none.
    let mut pings = said.pings.iter();
    assert!(pongs.iter().all(|pong| pings.any(|ping| ping == pong)), "{pongs:?}, {:?}", said.pings);
    assert_eq!(pongs.is_empty(), said.pings.is_empty());
    match (said.end, &closes[..]) {
        (End::Bad, [1002 | 1003 | 1009]) => {}
        (End::Closed(status), [sent]) => assert_eq!(*sent, status),
        (End::Open, []) => assert!(!ended),
        (End::Open, [1000]) => assert!(ended),
        (end, closes) => panic!("{closes:?} after {end:?}"),
    }
}
