//! The process's limit of open files: each connection is one.

/// Open files beside connections: the log, listeners, HTTP, what the runtime itself needs.
const OTHER_FILES: u64 = 512;

/// Raises the limit of open files as far as this user may, and says so if it stays below what
/// `connections_max` connections need.
pub fn raise_file_limit(connections_max: u32) {
    let wanted = u64::from(connections_max) + OTHER_FILES;
    match raise_to(wanted) {
        Ok(limit) if limit < wanted => tracing::info!(
            limit,
            wanted,
            connections_max,
            "open files are limited: raise the limit (ulimit -n, LimitNOFILE=) or lower mqtt.connections_max"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }
}

/// Raises the soft limit to `wanted`, or to the hard limit; returns the soft limit in force.
#[cfg(unix)]
fn raise_to(wanted: u64) -> std::io::Result<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // None is no limit.
    let current = current.unwrap_or(u64::MAX);
    let target = wanted.min(maximum.unwrap_or(u64::MAX));
    if current >= target {
        return Ok(current);
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(target), maximum })?;
    Ok(target)
}

/// Elsewhere sockets are not counted as files.
#[cfg(not(unix))]
fn raise_to(wanted: u64) -> std::io::Result<u64> {
    Ok(wanted)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_to_what_is_wanted_and_allowed_and_never_lowered() {
        let before = raise_to(0).unwrap();
        let raised = raise_to(u64::MAX).unwrap();
        assert!(raised >= before);
        assert_eq!(raise_to(before).unwrap(), raised);
    }
}
