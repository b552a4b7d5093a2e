//! Letting others go first.

/// What the thread takes of its share where it cannot be put behind all others.
const NICE: i32 = 10;

/// Has the calling thread run while a processor has nothing else to do. It never gets its share back without privileges.
///
/// To be nice is not enough: a nice thread keeps its processor for the slice that it was given, some milliseconds, while
/// somebody waits who woke up for a message.
pub(super) fn give_way() {
    if !become_idle() {
        // If it cannot do that either, it takes its share like others.
        let _ = rustix::process::nice(NICE);
    }
}

#[cfg(target_os = "linux")]
fn become_idle() -> bool {
    use thread_priority::{
        NormalThreadSchedulePolicy::Idle, ThreadPriority, ThreadSchedulePolicy::Normal,
        set_thread_priority_and_policy, thread_native_id,
    };
    set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, Normal(Idle)).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn become_idle() -> bool {
    false
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use thread_priority::{NormalThreadSchedulePolicy, ThreadSchedulePolicy, thread_schedule_policy};

    #[test]
    fn who_gives_way_is_in_the_class_that_runs_when_nobody_else_does_and_others_are_not() {
        let before = thread_schedule_policy().unwrap();
        let idle = std::thread::spawn(|| {
            super::give_way();
            thread_schedule_policy().unwrap()
        });
        let idle = idle.join().unwrap();
        assert_eq!(idle, ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle));
        assert_eq!(thread_schedule_policy().unwrap(), before);
    }
}
