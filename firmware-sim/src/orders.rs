//! What an office asked of its devices, and what became of it: the book of commands that both speeds keep.

use std::collections::BTreeMap;

use device_sdk::commands::{Command, CommandResult, Status};
use device_sdk::{Message, QoS};
use serde::Deserialize;

use crate::ledger::{Ledger, Wrong, mix};
use crate::scenario;

/// What is read of a receipt.
#[derive(Deserialize)]
struct Receipt {
    id: String,
    state: String,
}

/// A command as its sender sees it.
#[derive(Debug)]
struct Asked {
    device: u32,
    number: u64,
    copies: u32,
    /// Copies that the broker says it will not deliver.
    undelivered: u32,
    end: Option<Status>,
    name: String,
    expires_at: Option<u64>,
    /// Whether an actuator that does not know ids has fired for it.
    is_claimed: bool,
}

impl Asked {
    fn has_ended(&self) -> bool {
        self.end.is_some() || self.undelivered >= self.copies
    }
}

/// One sending of a command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sending<'a> {
    pub(crate) command: &'a scenario::Command,
    /// Which of all commands of the run, from 1 on.
    pub(crate) round: u64,
    /// Which copy, from 0 on.
    pub(crate) copy: u32,
    /// The true time, milliseconds since the Unix epoch.
    pub(crate) unix_ms: u64,
}

/// The book.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    asked: BTreeMap<String, Asked>,
    /// Commands that devices did not carry out.
    pub(crate) refusals: u64,
}

impl Orders {
    /// Notes that a command goes to a device, and makes what is sent to `topic`.
    pub(crate) fn send(
        &mut self,
        sending: Sending<'_>,
        number: u32,
        topic: String,
    ) -> Result<Message, serde_json::Error> {
        let Sending { command, round, copy, unix_ms } = sending;
        let id = format!("c{round}-{number}");
        let sent_unix_ms = unix_ms - u64::from(copy) * command.copy_every_s * 1_000;
        let expires_at = (command.ttl_s > 0).then(|| sent_unix_ms + command.ttl_s * 1_000);
        if copy == 0 {
            let (device, copies) = (number - 1, command.copies);
            let name = command.name.clone();
            let (end, is_claimed) = (None, false);
            let asked =
                Asked { device, number: round, copies, undelivered: 0, end, name, expires_at, is_claimed };
            self.asked.insert(id.clone(), asked);
        }
        let payload =
            Command { id: id.clone(), name: command.name.clone(), args: serde_json::Value::Null, expires_at };
        let mut message = Message::new(topic, serde_json::to_vec(&payload)?)
            .qos(QoS::AtLeastOnce)
            .user_property("im-id", format!("{id}.{copy}"));
        // A broker gives up what is too old by itself; a copy sent late is as old as the first.
        let left_s = expires_at.map(|at| at.saturating_sub(unix_ms).div_ceil(1_000).max(1));
        if let Some(left_s) = left_s.and_then(|left_s| u32::try_from(left_s).ok()) {
            message = message.expiry_s(left_s);
        }
        Ok(message)
    }

    /// A device says what became of a command.
    pub(crate) fn hear_result(&mut self, payload: &[u8], ledger: &mut Ledger) {
        let Ok(result) = serde_json::from_slice::<CommandResult>(payload) else {
            return ledger.wrong(Wrong::Invented, 0, 0, "a result that is none".to_owned());
        };
        if !result.status.is_final() {
            return;
        }
        let Some(asked) = self.asked.get_mut(&result.id) else {
            let what = format!("a result of command {} that nobody sent", result.id);
            return ledger.wrong(Wrong::Invented, 0, 0, what);
        };
        match asked.end {
            None => {
                asked.end = Some(result.status);
                self.refusals += u64::from(matches!(result.status, Status::Rejected | Status::Expired));
            }
            Some(end) if end != result.status => {
                let what = format!("command {} ended as {end:?} and as {:?}", result.id, result.status);
                ledger.wrong(Wrong::TwoEnds, asked.device, asked.number, what);
            }
            Some(_) => {}
        }
    }

    /// The broker says what became of a copy.
    pub(crate) fn hear_receipt(&mut self, payload: &[u8]) {
        let Ok(receipt) = serde_json::from_slice::<Receipt>(payload) else { return };
        let Some((id, _)) = receipt.id.rsplit_once('.') else { return };
        if let Some(asked) = self.asked.get_mut(id) {
            asked.undelivered += u32::from(!matches!(receipt.state.as_str(), "delivered" | "read"));
        }
    }

    /// An actuator that does not know ids fired: for the first command of this name to this device for which none has yet, one
    /// that has not expired before one that has. Returns its number and expiry.
    pub(crate) fn claim(&mut self, device: u32, name: &str, unix_ms: u64) -> Option<(u64, Option<u64>)> {
        let open = self
            .asked
            .values_mut()
            .filter(|asked| asked.device == device && asked.name == name && !asked.is_claimed);
        let is_late = |asked: &Asked| asked.expires_at.is_some_and(|at| at <= unix_ms);
        let asked = open.min_by_key(|asked| (is_late(asked), asked.number))?;
        asked.is_claimed = true;
        Some((asked.number, asked.expires_at))
    }

    /// The number of a command, for findings.
    pub(crate) fn number_of(&self, id: &str) -> u64 {
        self.asked.get(id).map_or(0, |asked| asked.number)
    }

    /// Whether every command has an end.
    pub(crate) fn is_settled(&self) -> bool {
        self.asked.values().all(Asked::has_ended)
    }

    /// Folds what became of the commands into a hash.
    pub(crate) fn hash(&self, hash: u64) -> u64 {
        let end = |asked: &Asked| asked.end.map_or(0, |end| 1 + end as u64);
        self.asked.values().fold(hash, |hash, asked| mix(mix(hash, asked.number), end(asked)))
    }

    /// How many commands there were, by what became of them.
    pub(crate) fn ends(&self) -> BTreeMap<&'static str, u64> {
        let mut ends = BTreeMap::new();
        for asked in self.asked.values() {
            let word = match asked.end {
                Some(Status::Done) => "done",
                Some(Status::Failed) => "failed",
                Some(Status::Rejected) => "rejected",
                Some(Status::Expired) => "expired",
                _ if asked.has_ended() => "undelivered",
                _ => "open",
            };
            *ends.entry(word).or_default() += 1;
        }
        ends
    }

    /// Tells what has no end at its sender.
    pub(crate) fn find_endless(&self, ledger: &mut Ledger) {
        for (id, asked) in &self.asked {
            if !asked.has_ended() {
                let what = format!("command {id} was sent {} times and has no end", asked.copies);
                ledger.wrong(Wrong::NoEnd, asked.device, asked.number, what);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn each_command_is_claimed_once_and_one_that_is_valid_first() {
        let text = "name = \"a\"\nduration_s = 100\n[fleet]\ndevices = 2\n\
                    [[command]]\nat_s = 1\nttl_s = 5\n[[command]]\nat_s = 2\nttl_s = 50\n[[command]]\nat_s = 3\nname = \"lock\"\n";
        let scenario = Scenario::parse("a.toml", text).unwrap();
        let mut orders = Orders::default();
        for (round, command) in (1..).zip(&scenario.commands) {
            let sending = Sending { command, round, copy: 0, unix_ms: command.at_s * 1_000 };
            orders.send(sending, 2, "dev/b/cmd".to_owned()).unwrap();
        }
        assert_eq!(orders.claim(0, "unlock", 10_000), None);
        assert_eq!(orders.claim(1, "unlock", 10_000), Some((2, Some(52_000))));
        assert_eq!(orders.claim(1, "unlock", 10_000), Some((1, Some(6_000))));
        assert_eq!(orders.claim(1, "unlock", 10_000), None);
        assert_eq!(orders.claim(1, "lock", 10_000), Some((3, Some(63_000))));
    }
}
