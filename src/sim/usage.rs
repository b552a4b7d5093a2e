//! What a run costs this process, as Linux tells it; elsewhere nothing is told.

/// Bytes of a page of memory on the machines that this runs on.
const PAGE_BYTES: u64 = 4_096;

/// What the process has used.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    resident_bytes: u64,
    cpu_ns: u64,
}

impl Usage {
    /// Reads what has been used so far; `None` where the system does not tell.
    pub(super) fn now() -> Option<Usage> {
        let field = |file: &str, place: usize| -> Option<u64> {
            std::fs::read_to_string(file).ok()?.split_whitespace().nth(place)?.parse().ok()
        };
        let resident_bytes = field("/proc/self/statm", 1)? * PAGE_BYTES;
        Some(Usage { resident_bytes, cpu_ns: field("/proc/self/schedstat", 0)? })
    }

    /// Says what was used since `before`, in words: the most memory, which was seen earlier.
    pub(super) fn line(self, before: Usage, resident_most_bytes: u64, devices: u32, records: u64) -> String {
        let cpu_ns = self.cpu_ns.saturating_sub(before.cpu_ns);
        let bytes = resident_most_bytes.saturating_sub(before.resident_bytes);
        format!(
            "process    {:.1} s of CPU, {:.1} µs a record; {} MB resident, {} bytes a device, the broker's included",
            cpu_ns as f64 / 1e9,
            cpu_ns as f64 / 1e3 / records.max(1) as f64,
            bytes / 1_000_000,
            bytes / u64::from(devices.max(1))
        )
    }

    /// Bytes of memory that the process has now.
    pub(super) fn resident_bytes(self) -> u64 {
        self.resident_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_costs_is_told_a_record_and_a_device() {
        let before = Usage { resident_bytes: 1_000_000, cpu_ns: 500_000_000 };
        let after = Usage { resident_bytes: 3_000_000, cpu_ns: 2_500_000_000 };
        assert_eq!(
            after.line(before, 7_000_000, 1_000, 100_000),
            "process    2.0 s of CPU, 20.0 µs a record; 6 MB resident, 6000 bytes a device, the broker's included"
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn linux_tells_what_was_used() {
        assert!(Usage::now().unwrap().resident_bytes() > 0);
    }
}
