//! Sparkplug B (Eclipse Sparkplug 3.0): births name the metrics of a device, data then may call them by number.
//!
//! The payload is protobuf; of it the few fields are read that lead to positions, everything else is skipped by its length.
//! One [`Device`] remembers the names and the last values of one edge node or device: data only has what changed.

use std::collections::BTreeMap;

use crate::fix::Fix;
use crate::geodesy::LatLon;

/// The most metrics that are remembered of one device.
pub const METRICS_MAX: usize = 10_000;
/// The most bytes of a metric's name.
pub const NAME_BYTES_MAX: usize = 256;

/// What a message of `spBv1.0/{group}/{kind}/{node}[/{device}]` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// NBIRTH or DBIRTH.
    Birth,
    /// NDATA or DDATA.
    Data,
    /// NDEATH or DDEATH.
    Death,
}

impl Kind {
    /// Reads the third level of a topic; `None` for commands and states, which say nothing of positions.
    pub fn of(level: &str) -> Option<Kind> {
        match level {
            "NBIRTH" | "DBIRTH" => Some(Kind::Birth),
            "NDATA" | "DDATA" => Some(Kind::Data),
            "NDEATH" | "DDEATH" => Some(Kind::Death),
            _ => None,
        }
    }
}

/// Why a payload says nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SparkplugError {
    /// Not protobuf, or cut.
    #[error("the payload ends within a field or has a field of no known kind, at byte {at} of {bytes}")]
    Malformed {
        /// Where.
        at: usize,
        /// How many bytes there are.
        bytes: usize,
    },
    /// Data calls metrics by numbers that no birth has named.
    #[error("metric {alias} was named by no birth: ask the edge node for a rebirth")]
    UnknownAlias {
        /// The number.
        alias: u64,
    },
    /// Too many metrics, or a name that is too long.
    #[error("a birth with more than {METRICS_MAX} metrics, or a name of more than {NAME_BYTES_MAX} bytes")]
    TooMuch,
}

/// What of a position a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Lat,
    Lon,
    Alt,
    Speed,
    Course,
    Hdop,
    Sats,
}

impl Role {
    /// By the last level of the name, as `Position/Latitude`.
    fn of(name: &str) -> Option<Role> {
        let last = name.rsplit('/').next().unwrap_or(name);
        let is = |words: &[&str]| words.iter().any(|word| last.eq_ignore_ascii_case(word));
        [
            (Role::Lat, &["lat", "latitude"][..]),
            (Role::Lon, &["lon", "lng", "long", "longitude"]),
            (Role::Alt, &["alt", "altitude", "elevation"]),
            (Role::Speed, &["speed", "groundspeed"]),
            (Role::Course, &["course", "heading", "bearing"]),
            (Role::Hdop, &["hdop"]),
            (Role::Sats, &["sats", "satellites"]),
        ]
        .into_iter()
        .find_map(|(role, words)| is(words).then_some(role))
    }
}

/// What is known of one edge node or device.
#[derive(Debug, Clone, Default)]
pub struct Device {
    /// Metrics by their numbers; `None` for those that are no part of a position.
    aliases: BTreeMap<u64, Option<Role>>,
    values: BTreeMap<Role, f64>,
}

impl Device {
    /// Takes a message; gives a fix if a place came with it, at the time of the metric. Speed is taken as metres a second.
    ///
    /// # Errors
    /// A payload that cannot be read, or that needs a birth that was not seen; nothing of it is taken then.
    pub fn take(&mut self, kind: Kind, payload: &[u8]) -> Result<Option<Fix>, SparkplugError> {
        if kind == Kind::Death {
            *self = Device::default();
            return Ok(None);
        }
        let (sent_ms, metrics) = read_payload(payload)?;
        let mut next = if kind == Kind::Birth { Device::default() } else { self.clone() };
        let mut place_ms = None;
        for metric in metrics {
            let role = next.role(&metric, kind)?;
            if let (Some(role), Some(value)) = (role, metric.value) {
                next.values.insert(role, value);
                if matches!(role, Role::Lat | Role::Lon) {
                    place_ms = place_ms.max(metric.ts_ms.or(sent_ms));
                }
            }
        }
        *self = next;
        Ok(place_ms.and_then(|ts_ms| self.fix(ts_ms)))
    }

    fn role(&mut self, metric: &Metric, kind: Kind) -> Result<Option<Role>, SparkplugError> {
        match (&metric.name, metric.alias) {
            (Some(name), alias) => {
                let role = Role::of(name);
                if let Some(alias) = alias.filter(|_| kind == Kind::Birth) {
                    self.aliases.insert(alias, role);
                    if self.aliases.len() > METRICS_MAX {
                        return Err(SparkplugError::TooMuch);
                    }
                }
                Ok(role)
            }
            (None, Some(alias)) => {
                self.aliases.get(&alias).copied().ok_or(SparkplugError::UnknownAlias { alias })
            }
            (None, None) => Ok(None),
        }
    }

    fn fix(&self, ts_ms: i64) -> Option<Fix> {
        let value = |role| self.values.get(&role).copied();
        Some(Fix {
            alt_m: value(Role::Alt),
            speed_mps: value(Role::Speed),
            course_deg: value(Role::Course),
            hdop: value(Role::Hdop),
            sats: value(Role::Sats).filter(|sats| (0.0..256.0).contains(sats)).map(|sats| sats as u8),
            ..Fix::at(ts_ms, LatLon::new(value(Role::Lat)?, value(Role::Lon)?))
        })
    }
}

/// One metric, as far as it is read.
#[derive(Debug, Default)]
struct Metric {
    name: Option<String>,
    alias: Option<u64>,
    ts_ms: Option<i64>,
    /// Any kind of number.
    value: Option<f64>,
}

fn read_payload(payload: &[u8]) -> Result<(Option<i64>, Vec<Metric>), SparkplugError> {
    let (mut sent_ms, mut metrics) = (None, Vec::new());
    let mut fields = Fields::of(payload);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Value::Varint(ms)) => sent_ms = i64::try_from(ms).ok(),
            (2, Value::Bytes(_)) if metrics.len() >= METRICS_MAX => return Err(SparkplugError::TooMuch),
            (2, Value::Bytes(bytes)) => metrics.push(read_metric(bytes)?),
            _ => {}
        }
    }
    Ok((sent_ms, metrics))
}

fn read_metric(bytes: &[u8]) -> Result<Metric, SparkplugError> {
    /// Datatypes whose integers have a sign: Int8 to Int64.
    const SIGNED: std::ops::RangeInclusive<u64> = 1..=4;
    let (mut metric, mut is_signed, mut is_null) = (Metric::default(), false, false);
    let (mut int, mut long) = (None, None);
    let mut fields = Fields::of(bytes);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Value::Bytes(name)) if name.len() > NAME_BYTES_MAX => return Err(SparkplugError::TooMuch),
            (1, Value::Bytes(name)) => metric.name = Some(String::from_utf8_lossy(name).into_owned()),
            (2, Value::Varint(alias)) => metric.alias = Some(alias),
            (3, Value::Varint(ms)) => metric.ts_ms = i64::try_from(ms).ok(),
            (4, Value::Varint(datatype)) => is_signed = SIGNED.contains(&datatype),
            (7, Value::Varint(null)) => is_null = null != 0,
            (10, Value::Varint(value)) => int = Some(value as u32),
            (11, Value::Varint(value)) => long = Some(value),
            (12, Value::Fixed32(value)) => metric.value = Some(f64::from(f32::from_bits(value))),
            (13, Value::Fixed64(value)) => metric.value = Some(f64::from_bits(value)),
            _ => {}
        }
    }
    if let Some(int) = int {
        metric.value = Some(if is_signed { f64::from(int as i32) } else { f64::from(int) });
    } else if let Some(long) = long {
        metric.value = Some(if is_signed { long as i64 as f64 } else { long as f64 });
    }
    metric.value = metric.value.filter(|value| !is_null && value.is_finite());
    Ok(metric)
}

/// The fields of a protobuf message.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

impl<'a> Fields<'a> {
    fn of(bytes: &'a [u8]) -> Fields<'a> {
        Fields { bytes, at: 0 }
    }

    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, SparkplugError> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let malformed = SparkplugError::Malformed { at: self.at, bytes: self.bytes.len() };
        self.read().map(Some).ok_or(malformed)
    }

    fn read(&mut self) -> Option<(u64, Value<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 0b111 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((tag >> 3, value))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn varint(mut number: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while number >= 0x80 {
            bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        bytes.push(number as u8);
        bytes
    }

    fn field(number: u64, bytes: &[u8]) -> Vec<u8> {
        [varint((number << 3) | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
    }

    fn number(field: u64, value: u64) -> Vec<u8> {
        [varint(field << 3), varint(value)].concat()
    }

    fn double(value: f64) -> Vec<u8> {
        [varint((13 << 3) | 1), value.to_le_bytes().to_vec()].concat()
    }

    fn named(name: &str, alias: u64, value: Vec<u8>) -> Vec<u8> {
        field(2, &[field(1, name.as_bytes()), number(2, alias), number(4, 10), value].concat())
    }

    fn by_alias(alias: u64, ts_ms: u64, value: Vec<u8>) -> Vec<u8> {
        field(2, &[number(2, alias), number(3, ts_ms), value].concat())
    }

    fn born() -> Device {
        let birth = [
            number(1, 1_700_000_000_000),
            named("bdSeq", 0, number(11, 3)),
            named("Position/Latitude", 1, double(60.17)),
            named("Position/Longitude", 2, double(24.94)),
            named("Position/Altitude", 3, [number(4, 3), number(10, (-5i32) as u32 as u64)].concat()),
            named("Engine/Oil", 4, double(1.0)),
            named("Position/Satellites", 5, number(10, 11)),
        ]
        .concat();
        let mut device = Device::default();
        let fix = device.take(Kind::Birth, &birth).unwrap().unwrap();
        assert_eq!(
            (fix.ts_ms, fix.lat, fix.lon, fix.alt_m, fix.sats),
            (1_700_000_000_000, 60.17, 24.94, Some(-5.0), Some(11))
        );
        device
    }

    #[test]
    fn a_birth_names_metrics_and_data_changes_some_of_them() {
        let mut device = born();
        let moved = by_alias(2, 1_700_000_001_000, double(24.95));
        let fix = device.take(Kind::Data, &moved).unwrap().unwrap();
        assert_eq!((fix.ts_ms, fix.lat, fix.lon), (1_700_000_001_000, 60.17, 24.95));
        assert_eq!(device.take(Kind::Data, &by_alias(4, 1_700_000_002_000, double(2.0))).unwrap(), None);
        let null = field(2, &[number(2, 1), number(7, 1)].concat());
        assert_eq!(device.take(Kind::Data, &null).unwrap(), None);
    }

    #[test]
    fn data_without_a_birth_asks_for_one_and_a_death_forgets_it() {
        let data = by_alias(1, 5, double(60.0));
        assert_eq!(Device::default().take(Kind::Data, &data), Err(SparkplugError::UnknownAlias { alias: 1 }));
        let mut device = born();
        assert_eq!(device.take(Kind::Death, &[]).unwrap(), None);
        assert!(device.take(Kind::Data, &data).unwrap_err().to_string().contains("rebirth"));
        let mut whole = born();
        let cut = whole.take(Kind::Data, &data[..data.len() - 1]).unwrap_err().to_string();
        assert!(cut.contains("byte 0 of"), "{cut}");
    }

    #[test]
    fn births_are_bounded() {
        let many: Vec<u8> =
            (0..=METRICS_MAX as u64).flat_map(|alias| named("x", alias, double(0.0))).collect();
        assert_eq!(Device::default().take(Kind::Birth, &many), Err(SparkplugError::TooMuch));
        let long = named(&"x".repeat(NAME_BYTES_MAX + 1), 1, double(0.0));
        assert_eq!(Device::default().take(Kind::Birth, &long), Err(SparkplugError::TooMuch));
        assert_eq!(
            [Kind::of("DDATA"), Kind::of("NBIRTH"), Kind::of("DDEATH"), Kind::of("DCMD")],
            [Some(Kind::Data), Some(Kind::Birth), Some(Kind::Death), None]
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_without_panic(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..5)) {
            let mut device = born();
            for payload in payloads {
                let _ = device.take(Kind::Data, &field(2, &payload));
                let _ = device.take(Kind::Birth, &payload);
            }
        }
    }
}
