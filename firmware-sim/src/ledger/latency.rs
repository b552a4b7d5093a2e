//! How long records took: a histogram with buckets of about 3 %, of fixed size.

/// Buckets of one power of two.
const STEPS: usize = 32;
/// Powers of two above the first `STEPS` milliseconds: to 2^41 ms, 70 years.
const POWERS: usize = 36;

/// Latencies in milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Latency {
    buckets: Vec<u64>,
    count: u64,
    longest_ms: u64,
}

impl Default for Latency {
    fn default() -> Latency {
        Latency { buckets: vec![0; STEPS * (POWERS + 1)], count: 0, longest_ms: 0 }
    }
}

impl Latency {
    /// Counts one.
    pub fn add(&mut self, ms: u64) {
        self.buckets[place(ms)] += 1;
        self.count += 1;
        self.longest_ms = self.longest_ms.max(ms);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest, exactly.
    pub fn longest_ms(&self) -> u64 {
        self.longest_ms
    }

    /// The latency that so many percent do not exceed, rounded up to its bucket; 0 without any.
    pub fn percentile_ms(&self, percent: f64) -> u64 {
        let wanted = ((self.count as f64) * percent / 100.0).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (at, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return upper_ms(at).min(self.longest_ms);
            }
        }
        self.longest_ms
    }
}

fn place(ms: u64) -> usize {
    let power = (u64::BITS - (ms / STEPS as u64).leading_zeros()) as usize;
    if power > POWERS {
        return STEPS * (POWERS + 1) - 1;
    }
    match power {
        0 => ms as usize,
        // 32 to 63 in steps of 1, 64 to 127 in steps of 2 …
        power => STEPS * power + (ms >> (power - 1)) as usize - STEPS,
    }
}

/// The longest latency that falls into a bucket.
fn upper_ms(at: usize) -> u64 {
    let (power, step) = (at / STEPS, (at % STEPS) as u64);
    match power {
        0 => step,
        power => ((step + STEPS as u64 + 1) << (power - 1)) - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_falls_into_a_bucket_that_is_not_much_longer() {
        for ms in (0..100_000).chain([1 << 30, 1 << 40, (1 << 40) + 12_345]) {
            let upper = upper_ms(place(ms));
            assert!(upper >= ms && upper <= ms + ms / 31 + 1, "{ms} falls into a bucket up to {upper}");
        }
        assert_eq!(place(u64::MAX), STEPS * (POWERS + 1) - 1);
    }

    #[test]
    fn percentiles_are_of_all_that_was_counted() {
        let mut latency = Latency::default();
        assert_eq!(latency.percentile_ms(99.0), 0);
        for ms in 1..=1_000 {
            latency.add(ms);
        }
        assert!((500..=516).contains(&latency.percentile_ms(50.0)), "{}", latency.percentile_ms(50.0));
        assert!((990..=1_000).contains(&latency.percentile_ms(99.0)));
        assert_eq!(
            (latency.percentile_ms(100.0), latency.longest_ms(), latency.count()),
            (1_000, 1_000, 1_000)
        );
    }
}
