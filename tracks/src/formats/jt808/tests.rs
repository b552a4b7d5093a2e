//! Frames and messages in both editions; frames of two other implementations were read alike when the golden frames were made.

use proptest::prelude::*;

use super::*;
use crate::fix::FixKind;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

const HEARTBEAT: &str = "7e 0002 0000 013812345678 0001 32 7e";

/// The only frame of a stream.
fn frame(hex: &str) -> Frame {
    let mut seen = Vec::new();
    Frames::default().push(&bytes(hex), |frame| seen.push(frame.unwrap()));
    assert_eq!(seen.len(), 1, "{seen:?}");
    seen.remove(0)
}

fn position() -> Position {
    Position {
        alarms: alarm::SPEEDING | alarm::POWER_OFF,
        status: status::IGNITION | status::LOCATED | status::LOCKED,
        lat_e6: 31_230_416,
        lon_e6: 121_473_701,
        alt_m: 12,
        speed_tenth_kmh: 540,
        course_deg: 271,
        ts_ms: 1_795_694_400_000,
        odometer_tenth_km: Some(1_234_567),
        sats: Some(11),
    }
}

fn said(version: Version, id: u16, body: Vec<u8>) -> Message {
    let frame = Frame { id, version, phone: "13812345678".to_owned(), serial: 0x7d7e, part: None, body };
    let written = frame.write().unwrap();
    let mut seen = None;
    Frames::default().push(&written, |frame| seen = Some(frame.unwrap()));
    assert_eq!(seen.as_ref(), Some(&frame));
    Message::of(&frame).unwrap()
}

#[test]
fn a_position_is_read_to_the_last_field_and_becomes_a_fix() {
    let frame = frame(
        "7e 0200 0025 013812345678 007d02 00000102 00001003 01dc89d0 073d8aa5 000c 021c 010f 261126200000 0104 0012d687 3101 0b b9 7e",
    );
    assert_eq!((frame.id, frame.serial, frame.phone.as_str()), (0x0200, 0x7e, "13812345678"));
    let Message::Position(read) = Message::of(&frame).unwrap() else { panic!("{frame:?}") };
    assert_eq!(read, position());
    assert_eq!(frame.body, position().write());
    let fix = read.fix();
    assert_eq!((fix.ts_ms, fix.lat, fix.lon), (1_795_694_400_000, 31.230_416, 121.473_701));
    assert_eq!((fix.course_deg, fix.sats, fix.fix), (Some(271.0), Some(11), FixKind::TwoD));
    assert!((fix.speed_mps.unwrap() - 15.0).abs() < 1e-9);
    let south_west = Position { status: status::LOCATED | status::SOUTH | status::WEST, ..position() }.fix();
    assert_eq!((south_west.lat, south_west.lon), (-31.230_416, -121.473_701));
    assert!(!Position { status: 0, ..position() }.fix().is_usable());
}

#[test]
fn both_editions_register_and_authenticate() {
    let text = |bytes: &[u8], length: usize| [bytes, &vec![0; length - bytes.len()]].concat();
    for (version, lengths) in [(Version::V2013, [5, 20, 7]), (Version::V2019(1), [11, 30, 30])] {
        let body = [
            bytes("001f 0064"),
            text(b"MAKER", lengths[0]),
            text(b"M-1", lengths[1]),
            text(b"T000007", lengths[2]),
            vec![1],
            b"A12345".to_vec(),
        ];
        let Message::Register(registration) = said(version, 0x0100, body.concat()) else {
            panic!("{version:?}")
        };
        assert_eq!((registration.province, registration.city, registration.plate_colour), (31, 100, 1));
        assert_eq!(
            (
                &registration.maker[..],
                &registration.model[..],
                &registration.terminal[..],
                &registration.plate[..]
            ),
            (&b"MAKER"[..], &b"M-1"[..], &b"T000007"[..], &b"A12345"[..])
        );
        let code = match version {
            Version::V2013 => b"secret".to_vec(),
            Version::V2019(_) => [&[6][..], b"secret", &[b'1'; 15], &[0; 20]].concat(),
        };
        assert_eq!(said(version, 0x0102, code), Message::Authenticate { code: b"secret".to_vec() });
        assert_eq!(said(version, 0x0002, vec![]), Message::Heartbeat);
        assert_eq!(said(version, 0x0003, vec![]), Message::SignOff);
        assert_eq!(said(version, 0x0f00, vec![1]), Message::Other { id: 0x0f00 });
        let answer = Message::Answer { serial: 5, id: 0x8500, verdict: Verdict::Unsupported };
        assert_eq!(said(version, 0x0001, bytes("0005 8500 03")), answer);
    }
}

#[test]
fn a_batch_is_its_positions_and_a_batch_that_is_cut_is_none() {
    let one = position().write();
    let item = [&(one.len() as u16).to_be_bytes()[..], &one].concat();
    let body = [&bytes("0003 01")[..], &item, &item, &item].concat();
    assert_eq!(said(Version::V2013, 0x0704, body.clone()), Message::Positions(vec![position(); 3]));
    let cut = Frame { body: body[..body.len() - 1].to_vec(), ..frame(HEARTBEAT) };
    let error = Message::of(&Frame { id: 0x0704, ..cut }).unwrap_err().to_string();
    assert!(error.contains("message 0x0704"), "{error}");
}

#[test]
fn doors_are_controlled_in_both_editions_and_the_answer_has_the_place() {
    let table = [
        (Version::V2013, Control::Lock, "01"),
        (Version::V2013, Control::Unlock, "00"),
        (Version::V2019(1), Control::Lock, "0001 0001 00"),
        (Version::V2019(1), Control::Unlock, "0001 0001 01"),
    ];
    for (version, control, body) in table {
        let frame = Reply::Control(control).frame(version, "13812345678", 9);
        assert_eq!((frame.id, &frame.body), (0x8500, &bytes(body)), "{version:?} {control:?}");
        let written = frame.write().unwrap();
        assert_eq!(Frame::read(&written[1..written.len() - 1]).unwrap(), frame);
    }
    let body = [&9u16.to_be_bytes()[..], &position().write()].concat();
    let controlled = Message::Controlled { serial: 9, position: position() };
    assert_eq!(said(Version::V2019(1), 0x0500, body), controlled);
}

#[test]
fn a_platform_answers() {
    let written = |reply: Reply, version| reply.frame(version, "13812345678", 1).write().unwrap();
    let ok = Reply::Answer { serial: 0x7e, id: 0x0200, verdict: Verdict::Ok };
    assert_eq!(
        written(ok.clone(), Version::V2013),
        bytes("7e 8001 0005 013812345678 0001 007d02 0200 00 c8 7e")
    );
    assert_eq!(
        written(ok, Version::V2019(1)),
        bytes("7e 8001 4005 01 00000000013812345678 0001 007d02 0200 00 89 7e")
    );
    let code = Reply::Registered { serial: 3, code: b"secret".to_vec() };
    assert_eq!(code.frame(Version::V2013, "1", 1).body, [&bytes("0003 00")[..], b"secret"].concat());
    let no = Reply::NotRegistered { serial: 3, reason: 2 };
    assert_eq!(
        (no.frame(Version::V2013, "1", 1).body, no.frame(Version::V2013, "1", 1).id),
        (bytes("0003 02"), 0x8100)
    );
    for byte in 0..=255u8 {
        assert_eq!(u8::from(Verdict::from(byte)), byte);
    }
}

#[test]
fn frames_are_cut_out_of_any_stream_and_what_is_wrong_is_said() {
    let good = frame(HEARTBEAT);
    let stream = [
        bytes("00 ff"),
        good.write().unwrap(),
        // One flag ends this frame and begins the next.
        good.write().unwrap()[1..].to_vec(),
        bytes("0002 0000 013812345678 0001 33 7e"),
        bytes("0002 7d03 7e"),
        bytes("0002 7e"),
        bytes("0002 0005 013812345678 0001 37 7e"),
        bytes("0002 0400 013812345678 0001 36 7e"),
        bytes("0002 0000 01381234567a 0001 30 7e"),
        vec![0x55; 5_000],
        good.write().unwrap(),
    ]
    .concat();
    for step in [1, 3, stream.len()] {
        let (mut frames, mut seen) = (Frames::default(), Vec::new());
        stream.chunks(step).for_each(|chunk| {
            frames.push(chunk, |frame| seen.push(frame.map_err(|error| error.to_string())))
        });
        let want = [
            "",
            "",
            "checksum",
            "after the escape",
            "checksum",
            "5 bytes of body",
            "enciphered",
            "decimal digits",
            "longer than",
            "",
        ];
        assert_eq!(seen.len(), want.len(), "{seen:?}");
        for (got, want) in seen.iter().zip(want) {
            match got {
                Ok(frame) => assert_eq!((frame, want), (&good, "")),
                Err(error) => assert!(!want.is_empty() && error.contains(want), "{want}: {error}"),
            }
        }
    }
    let long = Frame { body: vec![0; 1_024], ..good.clone() };
    assert!(long.write().unwrap_err().to_string().contains("1024"));
    assert_eq!(Frame { phone: "12x".to_owned(), ..good }.write(), Err(FrameError::Phone));
}

proptest! {
    #[test]
    fn what_is_written_is_read(id in any::<u16>(), serial in any::<u16>(), phone in "[1-9][0-9]{0,11}", is_2019 in any::<bool>(), part in any::<Option<(u16, u16)>>(), body in prop::collection::vec(any::<u8>(), 0..1_023)) {
        let version = if is_2019 { Version::V2019(1) } else { Version::V2013 };
        let part = part.map(|(total, number)| Part { total, number });
        let frame = Frame { id, version, phone, serial, part, body };
        let written = frame.write().unwrap();
        prop_assert!(written[1..written.len() - 1].iter().all(|byte| *byte != 0x7e) && written.len() <= FRAME_BYTES_MAX + 2);
        prop_assert_eq!(Frame::read(&written[1..written.len() - 1]).unwrap(), frame);
    }

    #[test]
    fn positions_at_any_second_of_the_century_are_read_as_written(second in 946_656_000..4_102_416_000i64, lat in 0..90_000_000u32) {
        let at = Position { ts_ms: second * 1_000, lat_e6: lat, ..position() };
        prop_assert_eq!(Position::read(&at.write()).unwrap(), at);
    }

    #[test]
    fn any_bytes_are_taken_without_panic(stream in prop::collection::vec(prop_oneof![Just(0x7eu8), Just(0x7d), any::<u8>()], 0..300), id in prop::sample::select(vec![0x0001u16, 0x0100, 0x0102, 0x0200, 0x0500, 0x0704]), is_2019 in any::<bool>()) {
        Frames::default().push(&stream, |frame| drop(frame.map(|frame| Message::of(&frame))));
        let version = if is_2019 { Version::V2019(1) } else { Version::V2013 };
        let _ = Message::of(&Frame { id, version, phone: String::new(), serial: 0, part: None, body: stream });
    }

    #[test]
    fn any_time_is_written_without_panic(ts_ms in -1_000_000_000_000_000..1_000_000_000_000_000i64) {
        let at = Position { ts_ms, ..position() };
        prop_assert!(at.write().len() >= 28);
    }
}
