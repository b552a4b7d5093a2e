//! The position of message 0x0200, alone and in the batches of 0x0704.

use super::frame::{Bytes, decimal};
use crate::calendar::unix_ms;
use crate::fix::{Fix, FixKind};
use crate::geodesy::LatLon;

/// The most positions of one batch.
pub const POSITIONS_MAX: usize = 1_000;

const MPS_PER_TENTH_KMH: f64 = 0.1 / 3.6;
/// Terminals tell the time of China.
const ZONE_MS: i64 = 8 * 3_600_000;

/// Bits of [`Position::alarms`].
pub mod alarm {
    /// Somebody pressed the emergency button.
    pub const EMERGENCY: u32 = 1;
    /// Too fast.
    pub const SPEEDING: u32 = 1 << 1;
    /// The driver is tired.
    pub const FATIGUE: u32 = 1 << 2;
    /// The receiver of positions is broken.
    pub const GNSS_BROKEN: u32 = 1 << 4;
    /// Its antenna is off.
    pub const GNSS_ANTENNA_OPEN: u32 = 1 << 5;
    /// The vehicle's power is low.
    pub const POWER_LOW: u32 = 1 << 7;
    /// The vehicle's power is off.
    pub const POWER_OFF: u32 = 1 << 8;
    /// The vehicle is off its route.
    pub const OFF_ROUTE: u32 = 1 << 23;
    /// The vehicle was stolen.
    pub const STOLEN: u32 = 1 << 26;
    /// It moves although it should not.
    pub const MOVED_UNLAWFULLY: u32 = 1 << 28;
}

/// Bits of [`Position::status`].
pub mod status {
    /// The ignition is on.
    pub const IGNITION: u32 = 1;
    /// The place is known.
    pub const LOCATED: u32 = 1 << 1;
    /// South of the equator.
    pub const SOUTH: u32 = 1 << 2;
    /// West of Greenwich.
    pub const WEST: u32 = 1 << 3;
    /// The doors are locked.
    pub const LOCKED: u32 = 1 << 12;
}

/// Where a terminal is and what it tells with that.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Position {
    /// Bits of [`alarm`] and others.
    pub alarms: u32,
    /// Bits of [`status`] and others.
    pub status: u32,
    /// Millionths of a degree, without sign.
    pub lat_e6: u32,
    /// The same.
    pub lon_e6: u32,
    /// Height in metres.
    pub alt_m: u16,
    /// Speed in tenths of a kilometre an hour.
    pub speed_tenth_kmh: u16,
    /// Course in degrees.
    pub course_deg: u16,
    /// Time, in milliseconds since the Unix epoch.
    pub ts_ms: i64,
    /// The odometer in tenths of a kilometre (item 0x01).
    pub odometer_tenth_km: Option<u32>,
    /// Satellites used (item 0x31).
    pub sats: Option<u8>,
}

impl Position {
    /// Reads the body of 0x0200. Items that are not known are left out.
    pub fn read(body: &[u8]) -> Option<Position> {
        let mut rest = Bytes(body);
        let mut position = Position {
            alarms: rest.u32()?,
            status: rest.u32()?,
            lat_e6: rest.u32()?,
            lon_e6: rest.u32()?,
            alt_m: rest.u16()?,
            speed_tenth_kmh: rest.u16()?,
            course_deg: rest.u16()?,
            ts_ms: time_ms(rest.take(6)?)?,
            odometer_tenth_km: None,
            sats: None,
        };
        while !rest.0.is_empty() {
            let (item, length) = (rest.u8()?, rest.u8()?);
            let mut value = Bytes(rest.take(usize::from(length))?);
            match item {
                0x01 => position.odometer_tenth_km = value.u32(),
                0x31 => position.sats = value.u8(),
                _ => {}
            }
        }
        Some(position)
    }

    /// Writes the body of 0x0200. A time outside the years 2000 to 2099 becomes zeros, which nobody reads.
    pub fn write(&self) -> Vec<u8> {
        let words = [self.alarms, self.status, self.lat_e6, self.lon_e6].map(u32::to_be_bytes);
        let halves = [self.alt_m, self.speed_tenth_kmh, self.course_deg].map(u16::to_be_bytes);
        let mut body: Vec<u8> = words.concat().into_iter().chain(halves.concat()).collect();
        body.extend(time_bcd(self.ts_ms).unwrap_or_default());
        if let Some(odometer) = self.odometer_tenth_km {
            body.extend([0x01, 4].into_iter().chain(odometer.to_be_bytes()));
        }
        body.extend(self.sats.into_iter().flat_map(|sats| [0x31, 1, sats]));
        body
    }

    /// Reads the body of 0x0704.
    pub(super) fn read_batch(body: &[u8]) -> Option<Vec<Position>> {
        let mut rest = Bytes(body);
        let (count, _kind) = (usize::from(rest.u16()?), rest.u8()?);
        let position = |rest: &mut Bytes| {
            let length = usize::from(rest.u16()?);
            Position::read(rest.take(length)?)
        };
        (count <= POSITIONS_MAX).then_some(())?;
        (0..count).map(|_| position(&mut rest)).collect()
    }

    /// The fix in it: in the datum of the terminal, see [`crate::datum`].
    pub fn fix(&self) -> Fix {
        let signed =
            |e6: u32, bit: u32| f64::from(e6) / 1e6 * if self.status & bit == 0 { 1.0 } else { -1.0 };
        let place = LatLon::new(signed(self.lat_e6, status::SOUTH), signed(self.lon_e6, status::WEST));
        let is_located = self.status & status::LOCATED != 0;
        Fix {
            alt_m: Some(f64::from(self.alt_m)),
            speed_mps: Some(f64::from(self.speed_tenth_kmh) * MPS_PER_TENTH_KMH),
            course_deg: Some(f64::from(self.course_deg)),
            sats: self.sats,
            fix: if is_located { FixKind::TwoD } else { FixKind::None },
            ..Fix::at(self.ts_ms, place)
        }
    }
}

/// The time of `YYMMDDhhmmss` in China.
fn time_ms(bcd: &[u8]) -> Option<i64> {
    let digits = decimal(bcd)?;
    let two = |from: usize| digits.get(from..from + 2)?.parse::<i64>().ok();
    let (hour, minute, second) = (two(6)?, two(8)?, two(10)?);
    let is_time = hour < 24 && minute < 60 && second < 60;
    let after_ms = ((hour * 60 + minute) * 60 + second) * 1_000;
    unix_ms(2_000 + two(0)?, two(2)?, two(4)?, after_ms).filter(|_| is_time).map(|ms| ms - ZONE_MS)
}

fn time_bcd(ts_ms: i64) -> Option<[u8; 6]> {
    let local_s = (ts_ms + ZONE_MS).div_euclid(1_000);
    let (day, of_day_s) = (local_s.div_euclid(86_400), local_s.rem_euclid(86_400));
    let is_day = |year, month, date| unix_ms(year, month, date, 0) == Some(day * 86_400_000);
    // Within the year: few enough to try.
    let year = 1_970 + (day as f64 / 365.2425) as i64;
    let (year, month, date) = (year - 1..=year + 1)
        .flat_map(|year| (1..=12).flat_map(move |month| (1..=31).map(move |date| (year, month, date))))
        .find(|&(year, month, date)| is_day(year, month, date))?;
    let bcd = |number: i64| (((number / 10) << 4) | (number % 10)) as u8;
    let time = [of_day_s / 3_600, of_day_s / 60 % 60, of_day_s % 60];
    (2_000..2_100)
        .contains(&year)
        .then(|| [bcd(year - 2_000), bcd(month), bcd(date), bcd(time[0]), bcd(time[1]), bcd(time[2])])
}
