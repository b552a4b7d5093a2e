//! CAN adapters on a pseudo-terminal: frames both ways, errors told, unplugged and plugged in again.

use std::time::Duration;

use device_sdk::serial::slcan::{Bitrate, CanAdapter, CanEvent, Frame, FrameError, SendError};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_serial::SerialStream;

use crate::pty::{PATIENCE, Socket, read};

#[test]
fn frames_are_written_and_read_as_the_protocol_says() {
    let frame = |made: Result<Frame, FrameError>| made.expect("it fits");
    let table = [
        (frame(Frame::standard(0x7FF, &[])), "t7FF0"),
        (frame(Frame::standard(0x123, &[0, 0xFF, 1])), "t123300FF01"),
        (frame(Frame::extended(0x1FFF_FFFF, &[9; 8])), "T1FFFFFFF80909090909090909"),
        (frame(Frame::standard(1, &[0; 4])).remote(), "r0014"),
        (frame(Frame::extended(1, &[])).remote(), "R000000010"),
    ];
    for (frame, line) in table {
        assert_eq!(frame.to_line(), line);
        assert_eq!(Frame::from_line(line), Ok(frame));
        // With a time stamp, and in small letters.
        assert_eq!(Frame::from_line(&format!("{line}12ab")), Ok(frame));
    }
    for wrong in [
        "",
        "t",
        "t12",
        "t1239",
        "t12320",
        "t123+00",
        "t8FF0",
        "T200000000",
        "x1230",
        "t1230é",
        "t12301",
        "é",
    ] {
        assert!(Frame::from_line(wrong).is_err(), "{wrong}");
    }
    assert_eq!(Frame::standard(0x800, &[]), Err(FrameError::Id { id: 0x800, max: 0x7FF }));
    assert_eq!(Frame::extended(0, &[0; 9]), Err(FrameError::TooLong(9)));
}

/// An adapter: tells its commands, and refuses those that begin with one of `refused`.
fn adapter(
    mut device: SerialStream,
    refused: &'static str,
) -> (JoinHandle<()>, mpsc::UnboundedReceiver<String>) {
    let (sender, commands) = mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        let mut text = Vec::new();
        loop {
            let Some(bytes) = read(&mut device).await else {
                tokio::task::yield_now().await;
                continue;
            };
            for byte in bytes {
                if byte != b'\r' {
                    text.push(byte);
                    continue;
                }
                let command = String::from_utf8(std::mem::take(&mut text)).expect("commands are text");
                let answer: &[u8] = match command.as_bytes().first() {
                    None => b"\r",
                    Some(first) if refused.as_bytes().contains(first) => b"\x07",
                    // What is on the bus comes between commands and answers.
                    Some(b't') => b"t0011AA\rz\r",
                    Some(b'T') => b"Z\r",
                    Some(_) => b"\r",
                };
                device.write_all(answer).await.expect("the gateway listens");
                if !command.is_empty() {
                    sender.send(command).expect("the test looks on");
                }
            }
        }
    });
    (task, commands)
}

async fn next(can: &mut CanAdapter) -> CanEvent {
    timeout(PATIENCE, can.next()).await.expect("something happens").expect("the adapter is served")
}

#[tokio::test]
async fn an_adapter_is_opened_sends_hears_and_comes_back() {
    let socket = Socket::new();
    let frame = Frame::extended(0x18EA_FF00, &[0xEC, 0xFE, 0x00]).expect("it fits");
    let mut can = CanAdapter::spawn(socket.path(), 115_200, Bitrate::K250);
    assert!(matches!(next(&mut can).await, CanEvent::Lost { .. }));
    assert_eq!(can.send(frame).await, Err(SendError::Absent));
    for _ in 0..2 {
        let (device, mut commands) = adapter(socket.plug(), "");
        assert_eq!(next(&mut can).await, CanEvent::Open);
        assert_eq!(can.send(frame).await, Ok(()));
        assert_eq!(can.send(Frame::standard(2, &[7]).expect("it fits")).await, Ok(()));
        let heard = Frame::standard(1, &[0xAA]).expect("it fits");
        assert_eq!(next(&mut can).await, CanEvent::Frame(heard));
        device.abort();
        assert!(device.await.is_err_and(|e| e.is_cancelled()));
        let mut said = Vec::new();
        while let Some(command) = commands.recv().await {
            said.push(command);
        }
        assert_eq!(said, ["C", "S5", "O", "T18EAFF003ECFE00", "t002107"]);
        socket.unplug();
        assert!(matches!(next(&mut can).await, CanEvent::Lost { .. }));
    }
}

#[tokio::test]
async fn what_the_adapter_refuses_is_told() {
    let socket = Socket::new();
    let (device, _commands) = adapter(socket.plug(), "T");
    let mut can = CanAdapter::spawn(socket.path(), 115_200, Bitrate::M1);
    assert_eq!(next(&mut can).await, CanEvent::Open);
    let frame = Frame::extended(1, &[]).expect("it fits");
    assert_eq!(can.send(frame).await, Err(SendError::Refused));
    device.abort();

    let socket = Socket::new();
    let (device, _commands) = adapter(socket.plug(), "O");
    let mut can = CanAdapter::spawn(socket.path(), 115_200, Bitrate::K500);
    let CanEvent::Lost { why } = next(&mut can).await else { panic!("its channel does not open") };
    assert!(why.contains("refuses O"), "{why}");
    let late = timeout(Duration::from_millis(10), can.send(frame)).await;
    assert!(matches!(late, Err(_) | Ok(Err(SendError::Absent))), "{late:?}");
    device.abort();
}
