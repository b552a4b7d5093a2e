//! GPS receivers on a pseudo-terminal: baud rates found, fixes read, unplugged and plugged in again.

use std::time::{Duration, Instant};

use device_sdk::serial::{Gps, GpsEvent, GpsFix, GpsOptions};
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};
use tokio_serial::{SerialPort as _, SerialStream};

use crate::pty::{PATIENCE, Socket, sentence};

/// A receiver that speaks every `every`; at another rate than its own, what arrives is noise.
fn receiver(mut device: SerialStream, baud: u32, every: Duration) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut ticks = interval(every);
        for second in 0_u32.. {
            ticks.tick().await;
            let time = format!("{:02}{:02}{:02}.00", 12 + second / 3_600, second / 60 % 60, second % 60);
            let sentences = [
                sentence(&format!("GPRMC,{time},A,6010.2000,N,02456.4000,E,9.7,84.4,261126,,,A")),
                sentence(&format!("GPGGA,{time},6010.2000,N,02456.4000,E,1,08,0.9,23.5,M,17.0,M,,")),
                sentence("GPGSA,A,3,05,07,08,10,15,17,18,19,30,,,,1.2,0.9,0.8"),
            ];
            let mut bytes = sentences.concat().into_bytes();
            // What the other end has set.
            if device.baud_rate().is_ok_and(|set| set != baud) {
                bytes.iter_mut().for_each(|byte| *byte = byte.rotate_left(3) | 0x80);
            }
            // Nobody may have the line open.
            let _ = device.write(&bytes).await;
        }
    })
}

async fn next(gps: &mut Gps) -> GpsEvent {
    timeout(PATIENCE, gps.next()).await.expect("something happens").expect("the receiver is read")
}

async fn next_fix(gps: &mut Gps) -> GpsFix {
    loop {
        if let GpsEvent::Fix(fix) = next(gps).await {
            return fix;
        }
    }
}

#[tokio::test]
async fn the_baud_rate_is_found_and_fixes_come() {
    for baud in [9_600, 38_400] {
        let socket = Socket::new();
        let receiver = receiver(socket.plug(), baud, Duration::from_millis(200));
        let mut gps = Gps::spawn(GpsOptions::new(socket.path()));
        assert_eq!(next(&mut gps).await, GpsEvent::Found { baud });
        let first = next_fix(&mut gps).await;
        assert_eq!((first.lat, first.lon, first.alt_m, first.sats), (60.17, 24.94, Some(23.5), Some(8)));
        let second = next_fix(&mut gps).await;
        assert_eq!(second.ts_unix_ms - first.ts_unix_ms, 1_000, "none is left out");
        receiver.abort();
    }
}

#[tokio::test]
async fn a_receiver_that_is_pulled_out_and_put_in_again_is_read_again() {
    let socket = Socket::new();
    let mut gps = Gps::spawn(GpsOptions::new(socket.path()));
    let GpsEvent::Lost { why } = next(&mut gps).await else { panic!("there is no line") };
    assert!(why.contains(socket.path()) && why.contains("cannot be opened"), "{why}");
    // At a rate that is tried late: once it is known, it is tried first.
    for (round, baud) in [57_600, 57_600, 4_800].into_iter().enumerate() {
        let receiver = receiver(socket.plug(), baud, Duration::from_secs(1));
        let plugged = Instant::now();
        assert_eq!(next(&mut gps).await, GpsEvent::Found { baud });
        next_fix(&mut gps).await;
        println!("round {round}: fixes {} ms after it was put in", plugged.elapsed().as_millis());
        receiver.abort();
        assert!(receiver.await.is_err_and(|e| e.is_cancelled()), "its end of the line is closed");
        socket.unplug();
        loop {
            match next(&mut gps).await {
                GpsEvent::Lost { .. } => break,
                GpsEvent::Found { .. } => panic!("it is not there"),
                GpsEvent::Fix(_) | GpsEvent::NoFix => {}
            }
        }
    }
}

#[tokio::test]
async fn a_receiver_that_changes_its_rate_is_found_again_and_noise_is_counted() {
    let socket = Socket::new();
    let mut device = socket.plug();
    let mut gps = Gps::spawn(GpsOptions::new(socket.path()));
    let burst = sentence("GPRMC,120000.00,A,6010.2000,N,02456.4000,E,9.7,84.4,261126,,,A").repeat(3);
    while timeout(Duration::from_millis(300), gps.next()).await.is_err() {
        let _ = device.write(burst.as_bytes()).await;
    }
    device.write_all(b"$GPRMC,120000.00,A,60*00\r\nnoise\r\n").await.expect("it is open");
    // Noise is no sign of life: it is looked for again, and told once.
    let lost = timeout(PATIENCE, async {
        loop {
            let _ = device.write(&[0xF0; 40]).await;
            match timeout(Duration::from_millis(50), gps.next()).await {
                Ok(Some(GpsEvent::Lost { why })) => return why,
                Ok(None) => panic!("the task ended"),
                Ok(Some(_)) | Err(_) => {}
            }
        }
    });
    let why = lost.await.expect("it is lost");
    assert!(why.contains("no sentence for 3 s"), "{why}");
    let faults = gps.faults();
    assert_eq!((faults.broken, faults.noise > 0), (1, true), "{faults:?}");
}
