//! What a queue has names for: itself, and the topics that its entries mention again and again.
//!
//! A log of its own, of which nothing is ever dropped; it is bounded. Its records by their first byte:
//! - 1: the queue's id, 8 bytes little-endian, random. The first record.
//! - 2: a topic. The first one is number 1, the next 2, and so on.
//!
//! A topic's record is committed before that of an entry that mentions it.

use std::collections::HashMap;

use bytestring::ByteString;
use storage::{Disk, Log, LogError};

/// Most topics with a number, and their longest; others are written out in each entry.
const TOPICS_MAX: usize = 256;
const TOPIC_BYTES_MAX: usize = 256;

const QUEUE_ID: u8 = 1;
const TOPIC: u8 = 2;

#[derive(Debug)]
pub(super) struct Names<D: Disk> {
    log: Log<D>,
    id: u64,
    topics: Vec<ByteString>,
    numbers: HashMap<ByteString, u64>,
}

/// Why the names could not be read or made.
#[derive(Debug)]
pub(super) enum NamesError {
    Log(LogError),
    Record(String),
}

impl From<LogError> for NamesError {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl<D: Disk> Names<D> {
    /// Reads the names; a new queue gets its id.
    pub(super) fn open(mut log: Log<D>, new_id: u64) -> Result<Self, NamesError> {
        let (mut id, mut topics) = (None, Vec::new());
        for record in log.replay()? {
            let (lsn, bytes) = record?;
            let unknown =
                || NamesError::Record(format!("name {}: {} bytes of unknown kind", lsn.0, bytes.len()));
            match bytes.split_first() {
                Some((&QUEUE_ID, rest)) => {
                    id = Some(u64::from_le_bytes(rest.try_into().map_err(|_| unknown())?));
                }
                Some((&TOPIC, rest)) => {
                    let topic = String::from_utf8(rest.to_vec()).map_err(|_| unknown())?;
                    topics.push(ByteString::from(topic));
                }
                _ => return Err(unknown()),
            }
        }
        let id = match id {
            Some(id) => id,
            None => {
                let mut record = vec![QUEUE_ID];
                record.extend_from_slice(&new_id.to_le_bytes());
                log.append(&record)?;
                log.commit()?;
                new_id
            }
        };
        let numbers = topics.iter().cloned().zip(1..).collect();
        Ok(Self { log, id, topics, numbers })
    }

    /// Returns the queue's id.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Test only: forgets the id that is on disk.
    pub(super) fn plant_id(&mut self, id: u64) {
        self.id = id;
    }

    /// Returns the topic's number, given now if it can have one; 0 if not.
    pub(super) fn number(&mut self, topic: &ByteString) -> Result<u64, LogError> {
        if let Some(number) = self.numbers.get(topic) {
            return Ok(*number);
        }
        if self.topics.len() >= TOPICS_MAX || topic.len() > TOPIC_BYTES_MAX {
            return Ok(0);
        }
        let mut record = vec![TOPIC];
        record.extend_from_slice(topic.as_bytes());
        match self.log.append(&record).and_then(|_| self.log.commit()) {
            Ok(_) => {}
            Err(LogError::Full { .. }) => return Ok(0),
            Err(error) => return Err(error),
        }
        self.topics.push(topic.clone());
        let number = self.topics.len() as u64;
        self.numbers.insert(topic.clone(), number);
        Ok(number)
    }

    /// Returns the topic with this number.
    pub(super) fn topic(&self, number: u64) -> Option<&ByteString> {
        let at = usize::try_from(number).ok()?.checked_sub(1)?;
        self.topics.get(at)
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        self.log.disk_bytes()
    }

    pub(super) fn close(self) -> Result<(), LogError> {
        self.log.close()
    }
}

#[cfg(test)]
mod tests {
    use storage::LogConfig;
    use storage::sim::SimDisk;

    use super::*;

    fn open(disk: &SimDisk, new_id: u64) -> Names<SimDisk> {
        let config = LogConfig { segment_bytes: 4096, ..LogConfig::default() };
        Names::open(Log::open_on(disk.clone(), config).unwrap(), new_id).unwrap()
    }

    #[test]
    fn names_stay_over_a_power_cut_and_their_number_is_bounded() {
        let mut rng = fastrand::Rng::with_seed(1);
        let disk = SimDisk::new(1);
        let mut names = open(&disk, 77);
        for number in 1..=TOPICS_MAX as u64 {
            let topic = ByteString::from(format!("dev/{number}/telemetry/gps"));
            assert_eq!(names.number(&topic).unwrap(), number);
            assert_eq!(names.number(&topic).unwrap(), number);
        }
        assert_eq!(names.number(&"one/too/many".into()).unwrap(), 0);
        let names = open(&disk.crash(&mut rng), 78);
        assert_eq!((names.id(), names.topics.len()), (77, TOPICS_MAX));
        assert_eq!(names.topic(200).unwrap(), "dev/200/telemetry/gps");
        assert_eq!((names.topic(0), names.topic(257)), (None, None));
    }

    #[test]
    fn a_long_topic_gets_no_number() {
        let mut names = open(&SimDisk::new(1), 1);
        assert_eq!(names.number(&"x".repeat(TOPIC_BYTES_MAX + 1).into()).unwrap(), 0);
        assert_eq!(names.number(&"x".repeat(TOPIC_BYTES_MAX).into()).unwrap(), 1);
    }
}
