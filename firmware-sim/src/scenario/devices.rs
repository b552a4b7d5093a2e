//! Which devices something concerns.

use serde::Deserialize;

/// Some devices of a fleet: `"all"`, or numbers and ranges from 1 on as in `"3"` and `"1-20, 31"`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct Devices {
    /// First and last of each range, from 1 on; `None` = all.
    ranges: Option<Vec<(u32, u32)>>,
}

impl Devices {
    /// All devices of the fleet.
    pub fn all() -> Devices {
        Devices { ranges: None }
    }

    /// No device.
    pub fn none() -> Devices {
        Devices { ranges: Some(Vec::new()) }
    }

    /// Says whether the device with this number, from 1 on, is one of them.
    pub fn contains(&self, number: u32) -> bool {
        self.ranges
            .as_ref()
            .is_none_or(|ranges| ranges.iter().any(|(first, last)| (*first..=*last).contains(&number)))
    }

    /// Lists their numbers in a fleet of so many.
    pub fn numbers(&self, devices: u32) -> impl Iterator<Item = u32> {
        (1..=devices).filter(|number| self.contains(*number))
    }

    pub(super) fn check(&self, key: &str, devices: u32) -> Result<(), String> {
        let last = self.ranges.iter().flatten().map(|(_, last)| *last).max().unwrap_or(1);
        if last <= devices {
            return Ok(());
        }
        Err(format!("{key} names device {last}: there are 1 to {devices}"))
    }
}

impl TryFrom<String> for Devices {
    type Error = String;

    fn try_from(text: String) -> Result<Devices, String> {
        if text == "all" {
            return Ok(Devices::all());
        }
        if text == "none" {
            return Ok(Devices::none());
        }
        let number = |word: &str| {
            let parsed = word.trim().parse::<u32>().ok().filter(|number| *number > 0);
            parsed.ok_or_else(|| {
                format!("devices {text:?}: \"all\", \"none\", or numbers and ranges from 1 on such as \"1-20, 31\"")
            })
        };
        let mut ranges = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(format!("devices {text:?}: {first} is after {last}"));
            }
            ranges.push((first, last));
        }
        Ok(Devices { ranges: Some(ranges) })
    }
}
