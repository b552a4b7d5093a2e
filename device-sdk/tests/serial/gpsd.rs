//! The same recorded logs through our decoder and through gpsd, played by gpsfake.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use device_sdk::serial::nmea::{Decoder, Said};
use device_sdk::serial::{FixKind, GpsFix};

use crate::pty::sentence;

/// Moments of a log that are compared.
const MOMENTS: usize = 120;

/// The logs of receivers that the crate `nmea` is tested with.
fn recorded() -> Vec<PathBuf> {
    // Without those of other platforms, which may not have been downloaded.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .other_options(vec!["--offline".to_owned(), "--filter-platform".to_owned(), platform])
        .exec()
        .expect("cargo metadata reads this workspace");
    let nmea =
        metadata.packages.iter().find(|package| package.name.as_str() == "nmea").expect("we depend on it");
    let folder = nmea.manifest_path.parent().expect("a file is in a folder").join("tests/data");
    ["nmea1.log", "nmea_with_sat_info.log"].iter().map(|name| folder.join(name).into_std_path_buf()).collect()
}

/// A log of a receiver that loses its position for a while, whose line has faults, over midnight.
fn made() -> String {
    let mut log = String::new();
    for second in 0..90_u32 {
        let of_day = (86_400 - 30 + second) % 86_400;
        let time = format!("{:02}{:02}{:02}.00", of_day / 3_600, of_day / 60 % 60, of_day % 60);
        let date = if second < 30 { "251126" } else { "261126" };
        let (lat, lon) = (600.0 + f64::from(second) * 0.0123, 2456.4 + f64::from(second) * 0.0345);
        let place = format!("6{lat:08.4},N,0{lon:09.4},E");
        if (40..50).contains(&second) {
            log += &sentence(&format!("GPRMC,{time},V,,,,,,,{date},,,N"));
            log += &sentence(&format!("GPGGA,{time},,,,,0,00,99.9,,,,,,"));
            log += &sentence("GPGSA,A,1,,,,,,,,,,,,,99.9,99.9,99.9");
            continue;
        }
        let rmc = sentence(&format!(
            "GPRMC,{time},A,{place},12.5,{:.1},{date},,,A",
            80.0 + f64::from(second) / 10.0
        ));
        let gga = sentence(&format!(
            "GPGGA,{time},{place},1,07,1.1,{:.1},M,17.0,M,,",
            20.0 + f64::from(second) / 5.0
        ));
        // Bits fell over on the line: neither reads it.
        log += &if second % 17 == 5 { rmc.replace(",A,6", ",A,7") } else { rmc };
        log += &gga;
        log += &sentence("GPGSA,A,3,05,07,08,10,15,17,18,,,,,,1.9,1.1,1.5");
    }
    log
}

/// As much of a log as has so many moments.
fn beginning(log: &str) -> String {
    let mut moments = 0;
    let in_time = |line: &&str| {
        moments += usize::from(line.contains("RMC,"));
        moments <= MOMENTS
    };
    log.lines().take_while(in_time).map(|line| format!("{line}\r\n")).collect()
}

/// gpsd's reports with a position, by their time.
fn by_gpsd(log: &Path) -> Option<BTreeMap<String, serde_json::Value>> {
    let played = Command::new("gpsfake")
        .args(["-1", "-q", "-p", "-c", "0.003"])
        .arg(log)
        .stderr(Stdio::null())
        .stdin(Stdio::null())
        .output();
    let played = match played {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        played => played.expect("gpsfake runs"),
    };
    let text = String::from_utf8_lossy(&played.stdout).into_owned();
    let reports = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let fixes = reports.filter(|report| report["class"] == "TPV" && report["mode"].as_u64() >= Some(2));
    // The last of a moment has all of it.
    let timed = fixes.filter_map(|report| Some((report["time"].as_str()?.to_owned(), report)));
    Some(timed.collect())
}

fn by_us(log: &str) -> Vec<GpsFix> {
    let (mut decoder, mut fixes) = (Decoder::new(0), Vec::new());
    let mut take = |said| {
        if let Said::Fix(fix) = said {
            fixes.push(fix);
        }
    };
    decoder.push(log.as_bytes(), &mut take);
    decoder.flush(&mut take);
    fixes
}

#[test]
fn recorded_logs_give_the_fixes_that_gpsd_gives() {
    let recorded = recorded().into_iter().map(|path| {
        let log = std::fs::read_to_string(&path).expect("the crate has its logs");
        (path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned()), log)
    });
    for (name, log) in recorded.chain([("made".to_owned(), made())]) {
        let log = beginning(&log);
        let file = tempfile::NamedTempFile::with_suffix(".log").expect("a file can be made");
        std::fs::write(file.path(), &log).expect("it can be written");
        let Some(theirs) = by_gpsd(file.path()) else {
            println!("skipped: gpsfake is not installed (Debian packages gpsd and gpsd-tools)");
            return;
        };
        compare(&name, &by_us(&log), &theirs);
    }
}

fn compare(name: &str, ours: &[GpsFix], theirs: &BTreeMap<String, serde_json::Value>) {
    let mut compared = 0;
    let mut alone = Vec::new();
    for fix in ours {
        let time = chrono::DateTime::from_timestamp_millis(fix.ts_unix_ms).expect("a time");
        let key = time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
        let Some(report) = theirs.get(&key) else {
            alone.push(key);
            continue;
        };
        let close = |key: &str, ours: f64, within: f64| {
            let theirs = report[key].as_f64().unwrap_or_else(|| panic!("{name}: no {key} in {report}"));
            assert!((ours - theirs).abs() <= within, "{name}: {key} {ours}, gpsd {theirs}: {report}");
        };
        close("lat", fix.lat, 1e-8);
        close("lon", fix.lon, 1e-8);
        if let (Some(alt_m), true) = (fix.alt_m, report["altMSL"].is_number()) {
            close("altMSL", alt_m, 0.06);
        }
        if let (Some(speed_mps), true) = (fix.speed_mps, report["speed"].is_number()) {
            close("speed", speed_mps, 0.006);
        }
        if let (Some(course_deg), true) = (fix.course_deg, report["track"].is_number()) {
            close("track", course_deg, 0.06);
        }
        assert_eq!(report["mode"] == 3, fix.fix == FixKind::ThreeD, "{name}: {fix:?}, gpsd {report}");
        compared += 1;
    }
    println!(
        "{name}: {compared} fixes of {} compared, gpsd has {}, ours alone {alone:?}",
        ours.len(),
        theirs.len()
    );
    // gpsd has to learn how a receiver ends its moments before it reports all of them.
    assert!(alone.len() <= 3, "{name}: fixes that gpsd does not have: {alone:?}");
    assert!(theirs.len() <= compared, "{name}: gpsd has {} fixes, {compared} are ours", theirs.len());
    assert!(compared >= 20, "{name}: {compared} compared");
}
