//! Frames, cut everywhere, good and bad.

use super::*;

const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

/// A frame as a client sends it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        len @ 0..126 => out.push(0x80 | len as u8),
        len @ 126..65_536 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

fn frames() -> Frames {
    Frames::new(1_000_000)
}

/// Reads in pieces of at most `step` bytes.
fn read_all(frames: &mut Frames, bytes: &[u8], step: usize) -> Result<Vec<u8>, FrameError> {
    let mut payload = Vec::new();
    for piece in bytes.chunks(step) {
        let mut piece = piece.to_vec();
        let len = frames.read(&mut piece)?;
        payload.extend_from_slice(&piece[..len]);
    }
    Ok(payload)
}

/// Everything that goes out for this payload, when the socket takes `step` bytes at a time.
fn write_all(frames: &mut Frames, mut payload: &[u8], step: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let (head, body) = frames.next_out(payload.len());
        let all = [head, &payload[..body]].concat();
        if all.is_empty() {
            assert!(!frames.wants_write());
            return out;
        }
        let taken = all.len().min(step);
        out.extend_from_slice(&all[..taken]);
        payload = &payload[frames.sent(taken)..];
    }
}

/// [MQTT-6.0.0-2]
#[test]
fn payload_comes_whole_however_the_stream_is_cut() {
    let payload: Vec<u8> = (0..=255).cycle().take(1000).collect();
    let stream = [
        frame(0x82, &payload[..3]),
        frame(0x02, &payload[3..200]),
        frame(0x89, b"between"),
        frame(0x00, b""),
        frame(0x80, &payload[200..900]),
        frame(0x8a, b"unasked"),
        frame(0x82, b""),
        frame(0x82, &payload[900..]),
    ]
    .concat();
    for step in 1..stream.len() {
        let mut frames = frames();
        assert_eq!(read_all(&mut frames, &stream, step).unwrap(), payload, "in pieces of {step}");
        assert_eq!(write_all(&mut frames, b"", 1), [&[0x8a, 7][..], b"between"].concat());
    }
}

#[test]
fn long_frames_are_read_and_written() {
    for len in [125, 126, 65_535, 65_536, 200_000] {
        let payload: Vec<u8> = (0..len).map(|i| (i / 7) as u8).collect();
        assert_eq!(read_all(&mut frames(), &frame(0x82, &payload), 1000).unwrap(), payload);
        let out = write_all(&mut frames(), &payload, 997);
        let head = out.len() - len;
        assert_eq!(
            head,
            if len < 126 {
                2
            } else if len < 65_536 {
                4
            } else {
                10
            }
        );
        assert_eq!((out[0], &out[head..]), (0x82, &payload[..]));
    }
}

#[test]
fn what_is_no_frame_of_a_client_is_refused_with_its_status() {
    let mut unmasked = frame(0x82, b"a");
    unmasked[1] &= 0x7f;
    let with_length = |second: u8, length: &[u8]| [&[0x82, 0x80 | second][..], length, &MASK].concat();
    for (bytes, error, code) in [
        (frame(0x81, b"text"), FrameError::Text, 1003),
        (unmasked, FrameError::NotMasked, 1002),
        (frame(0xc2, b""), FrameError::Reserved(0b100), 1002),
        (frame(0x92, b""), FrameError::Reserved(0b001), 1002),
        (frame(0x83, b""), FrameError::Opcode(3), 1002),
        (frame(0x8b, b""), FrameError::Opcode(11), 1002),
        (frame(0x09, b""), FrameError::Control, 1002),
        (frame(0x89, &[0; 126]), FrameError::Control, 1002),
        (frame(0x80, b""), FrameError::Continuation, 1002),
        ([frame(0x02, b""), frame(0x82, b"")].concat(), FrameError::Continuation, 1002),
        (with_length(126, &[0, 125]), FrameError::Length, 1002),
        (with_length(127, &[0, 0, 0, 0, 0, 0, 255, 255]), FrameError::Length, 1002),
        (with_length(127, &[0x80, 0, 0, 0, 0, 1, 0, 0]), FrameError::Length, 1002),
        (with_length(127, &[0, 0, 0, 0, 0x40, 0, 0, 0]), FrameError::TooBig(1_000_000), 1009),
        (
            [frame(0x02, &[0; 600_000]), frame(0x80, &[0; 400_001])].concat(),
            FrameError::TooBig(1_000_000),
            1009,
        ),
    ] {
        for step in [1, bytes.len()] {
            let mut frames = frames();
            assert_eq!(read_all(&mut frames, &bytes, step), Err(error));
            assert!(frames.is_ended());
            let [high, low] = u16::to_be_bytes(code);
            assert_eq!(write_all(&mut frames, b"", 1), [0x88, 2, high, low], "{error}");
        }
    }
}

#[test]
fn a_close_is_answered_once_and_nothing_is_read_after_it() {
    for (payload, code) in [
        (&b""[..], 1000_u16),
        (&1000_u16.to_be_bytes(), 1000),
        (&[0x03, 0xe9, b'b', b'y', b'e'], 1001),
        (&4000_u16.to_be_bytes(), 4000),
        (&[0x03], 1002),
        (&1005_u16.to_be_bytes(), 1002),
        (&999_u16.to_be_bytes(), 1002),
        (&2999_u16.to_be_bytes(), 1002),
        (&[0x03, 0xe8, 0xc3, 0xa9], 1000),
        (&[0x03, 0xe8, 0xed, 0xa0, 0x80], 1007),
    ] {
        let mut frames = frames();
        let stream = [frame(0x82, b"before"), frame(0x88, payload), frame(0x81, b"after")].concat();
        assert_eq!(read_all(&mut frames, &stream, 5).unwrap(), b"before");
        assert!(frames.is_ended());
        frames.end();
        let [high, low] = code.to_be_bytes();
        assert_eq!(write_all(&mut frames, b"", 1), [0x88, 2, high, low]);
    }
}

#[test]
fn control_frames_go_out_between_frames_and_the_close_last() {
    let mut frames = frames();
    let (head, body) = frames.next_out(5);
    assert_eq!((head, body), (&[0x82, 5][..], 5));
    assert_eq!(frames.sent(4), 2);
    frames.read(&mut frame(0x89, b"one")).unwrap();
    frames.read(&mut frame(0x89, b"two")).unwrap();
    frames.end();
    let rest = write_all(&mut frames, b"llo, world", 3);
    let expected = [&b"llo"[..], &[0x8a, 3], b"two", &[0x82, 7], b", world", &[0x88, 2, 0x03, 0xe8]].concat();
    assert_eq!(rest, expected);
}

#[test]
fn pings_without_end_take_the_memory_of_one() {
    let mut frames = frames();
    for i in 0..10_000_u16 {
        frames.read(&mut frame(0x89, &i.to_be_bytes())).unwrap();
    }
    assert_eq!(write_all(&mut frames, b"", 100), [&[0x8a, 2][..], &9_999_u16.to_be_bytes()].concat());
}

#[test]
fn any_bytes_are_read_without_a_panic_and_never_grow() {
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..20_000 {
        let mut bytes: Vec<u8> = (0..40)
            .map(|_| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random as u8
            })
            .collect();
        // Most random bytes end at the first: let more of them get further.
        bytes[0] = 0x80 | bytes[0] & 0x0f;
        bytes[1] |= 0x80;
        let mut frames = frames();
        let len = bytes.len();
        let read = frames.read(&mut bytes);
        assert!(read.is_err() || read.is_ok_and(|payload| payload <= len));
    }
}
