//! `$SYS/broker/...`: the broker's numbers as messages, under the names that mosquitto gave them, so that
//! dashboards made for it work.
//!
//! Nothing is published while nobody subscribes to a `$SYS` filter, so an idle broker is not woken for it: a
//! SUBSCRIBE that names `$SYS` has the numbers written anew first. The loads are sampled when the shard has
//! something to do anyway; a long silence between two samples counts as its own average.

use std::collections::HashMap;

use engine::{Input, Now, Stats};
use protocol::{Packet, Subscribe};

use super::{Core, Counts};

/// What the topics begin with.
const FIRST_LEVEL: &str = "$SYS";

/// A SUBSCRIBE has the numbers written anew if they are older than this.
const FRESH_MS: u64 = 1_000;

/// Load averages are over these many minutes.
const PERIODS: [u32; 3] = [1, 5, 15];

/// What has a load average, and its total since the start.
fn totals(stats: &Stats, counts: &Counts) -> [(&'static str, u64); 9] {
    [
        ("messages/received", counts.packets_in),
        ("messages/sent", counts.packets_out),
        ("publish/received", stats.publishes_in),
        ("publish/sent", stats.publishes_out),
        ("publish/dropped", stats.dropped),
        ("bytes/received", counts.bytes_in),
        ("bytes/sent", counts.bytes_out),
        ("sockets", counts.accepted),
        ("connections", stats.connects),
    ]
}

/// The state behind the topics.
#[derive(Debug)]
pub(super) struct Sys {
    /// 0 = nothing is published.
    interval_ms: u64,
    published_ms: Option<u64>,
    sampled_ms: u64,
    totals: [u64; 9],
    /// A minute's worth, over each period.
    loads: [[f64; 3]; 9],
    /// What was published last: a number that stays is not published again.
    last: HashMap<String, String>,
}

impl Sys {
    pub(super) fn new(interval_s: u32) -> Self {
        Self {
            interval_ms: u64::from(interval_s) * 1000,
            published_ms: None,
            sampled_ms: 0,
            totals: [0; 9],
            loads: [[0.0; 3]; 9],
            last: HashMap::new(),
        }
    }

    /// When the numbers are due while somebody hears them.
    fn due_ms(&self) -> Option<u64> {
        let after = |at_ms| at_ms + self.interval_ms;
        (self.interval_ms > 0).then(|| self.published_ms.map_or(0, after))
    }

    fn is_stale(&self, now_ms: u64) -> bool {
        self.interval_ms > 0 && self.published_ms.is_none_or(|at| now_ms >= at + FRESH_MS)
    }

    /// Takes a sample if the last one is an interval old.
    fn sample(&mut self, now_ms: u64, stats: &Stats, counts: &Counts) {
        let elapsed_ms = now_ms.saturating_sub(self.sampled_ms);
        if self.interval_ms == 0 || elapsed_ms < self.interval_ms {
            return;
        }
        self.sampled_ms = now_ms;
        let minutes = elapsed_ms as f64 / 60_000.0;
        for (at, (_, total)) in totals(stats, counts).into_iter().enumerate() {
            let per_minute = total.saturating_sub(self.totals[at]) as f64 / minutes;
            self.totals[at] = total;
            for (load, period) in self.loads[at].iter_mut().zip(PERIODS) {
                *load = per_minute + (*load - per_minute) * (-minutes / f64::from(period)).exp();
            }
        }
    }

    /// Returns every topic below `$SYS/broker/` with its text.
    fn topics(&self, uptime_s: u64, stats: &Stats, counts: &Counts) -> Vec<(String, String)> {
        let away = stats.sessions.saturating_sub(stats.connections);
        let stored = stats.queued + stats.retained + stats.informs;
        let mut topics = vec![
            ("version".to_owned(), format!("postrider version {}", env!("CARGO_PKG_VERSION"))),
            ("uptime".to_owned(), format!("{uptime_s} seconds")),
        ];
        let numbers = [
            ("clients/total", stats.sessions),
            ("clients/connected", stats.connections),
            ("clients/active", stats.connections),
            ("clients/disconnected", away),
            ("clients/inactive", away),
            ("clients/maximum", stats.connections_peak),
            ("clients/expired", stats.sessions_expired),
            ("messages/received", counts.packets_in),
            ("messages/sent", counts.packets_out),
            ("messages/stored", stored),
            ("store/messages/count", stored),
            ("subscriptions/count", stats.subscriptions),
            ("retained messages/count", stats.retained + stats.informs),
            ("bytes/received", counts.bytes_in),
            ("bytes/sent", counts.bytes_out),
            ("publish/messages/received", stats.publishes_in),
            ("publish/messages/sent", stats.publishes_out),
            ("publish/messages/dropped", stats.dropped),
            ("publish/bytes/received", stats.payload_bytes_in),
            ("publish/bytes/sent", stats.payload_bytes_out),
        ];
        topics.extend(numbers.map(|(name, number)| (name.to_owned(), number.to_string())));
        for ((name, _), loads) in totals(stats, counts).into_iter().zip(self.loads) {
            for (period, load) in PERIODS.into_iter().zip(loads) {
                topics.push((format!("load/{name}/{period}min"), format!("{load:.2}")));
            }
        }
        topics
    }

    /// Returns those whose text is not what it was.
    fn changed(&mut self, topics: Vec<(String, String)>) -> Vec<(String, String)> {
        let is_new = |(topic, text): &(String, String)| self.last.get(topic) != Some(text);
        let changed: Vec<_> = topics.into_iter().filter(is_new).collect();
        self.last.extend(changed.iter().cloned());
        changed
    }
}

impl Core {
    /// When the timer must look at the `$SYS` topics; `None` while nobody hears them.
    pub(super) fn sys_due_ms(&self) -> Option<u64> {
        self.sys.due_ms().filter(|_| self.engine.has_connections() && self.engine.hears(FIRST_LEVEL))
    }

    /// Keeps the load averages up, at the end of a turn.
    pub(super) fn sample_sys(&mut self, now: Now) {
        self.sys.sample(now.monotonic_ms, &self.engine.counters(), &self.counts);
    }

    /// Publishes what has changed.
    pub(super) fn publish_sys(&mut self, now: Now) {
        self.sample_sys(now);
        self.sys.published_ms = Some(now.monotonic_ms);
        let stats = self.engine.stats();
        let topics = self.sys.topics(now.monotonic_ms / 1000, &stats, &self.counts);
        for (name, text) in self.sys.changed(topics) {
            let topic = format!("{FIRST_LEVEL}/broker/{name}").into();
            self.input(now, Input::Inform { topic, payload: text.into() });
        }
    }

    /// Writes the numbers anew before a packet that asks for them reaches the engine.
    pub(super) fn refresh_sys(&mut self, now: Now, packet: &Packet) {
        if let Packet::Subscribe(Subscribe { filters, .. }) = packet
            && self.sys.is_stale(now.monotonic_ms)
            && filters.iter().any(|f| f.filter.contains(FIRST_LEVEL))
        {
            self.publish_sys(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(bytes_in: u64) -> Counts {
        Counts { bytes_in, ..Counts::default() }
    }

    #[test]
    fn a_steady_rate_becomes_the_load_and_silence_lets_it_fall() {
        let mut sys = Sys::new(10);
        let stats = Stats::default();
        for n in 1..=6 * 60 {
            sys.sample(n * 10_000, &stats, &counts(n * 100));
        }
        let of = |sys: &Sys| sys.loads[5].map(|load| load.round() as u64);
        assert_eq!(of(&sys), [600, 600, 589], "100 bytes every 10 s");
        sys.sample(3_600_000 + 9_999, &stats, &counts(36_000));
        assert_eq!(of(&sys), [600, 600, 589], "not before its time");
        sys.sample(3_600_000 + 60_000, &stats, &counts(36_000));
        assert_eq!(of(&sys), [221, 491, 551], "a minute of silence: e^-1, e^-1/5, e^-1/15");
    }

    #[test]
    fn only_what_changed_is_published_again() {
        let mut sys = Sys::new(10);
        let first = sys.topics(1, &Stats::default(), &counts(0));
        assert_eq!(sys.changed(first.clone()), first);
        let second = sys.topics(2, &Stats::default(), &counts(7));
        let changed = sys.changed(second);
        let expected = [("uptime", "2 seconds"), ("bytes/received", "7")];
        assert_eq!(changed, expected.map(|(topic, text)| (topic.to_owned(), text.to_owned())));
    }

    #[test]
    fn switched_off_it_is_never_due() {
        assert_eq!((Sys::new(0).due_ms(), Sys::new(0).is_stale(u64::MAX)), (None, false));
        assert_eq!((Sys::new(10).due_ms(), Sys::new(10).is_stale(0)), (Some(0), true));
    }
}
