//! How much memory there is for this process: the machine's, or less where a control group says so.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Memory that there is, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MachineMemory {
    pub(crate) bytes: u64,
    pub(crate) of: &'static str,
}

/// Returns the memory that there is for this process; `None` where the system does not tell.
pub(crate) fn machine_memory() -> Option<MachineMemory> {
    below(Path::new("/"))
}

fn below(root: &Path) -> Option<MachineMemory> {
    let machine = read(&root.join("proc/meminfo")).as_deref().and_then(total_of_meminfo);
    let machine = machine.map(|bytes| MachineMemory { bytes, of: "the machine" });
    let group = limit_of_group(root).map(|bytes| MachineMemory { bytes, of: "the control group" });
    machine.into_iter().chain(group).min_by_key(|memory| memory.bytes)
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn total_of_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// Returns the lowest limit of the process's control group and those above it, in either version.
fn limit_of_group(root: &Path) -> Option<u64> {
    let groups = read(&root.join("proc/self/cgroup"))?;
    let limits = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let (top, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            some if some.split(',').any(|c| c == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        lowest(&root.join(top), path, file)
    });
    limits.min()
}

/// Inside a container the path may not be there: the top then is the container's own group.
fn lowest(top: &Path, path: &str, file: &str) -> Option<u64> {
    let mut folder: PathBuf = top.join(path.trim_start_matches('/'));
    let mut lowest = None;
    while folder.starts_with(top) {
        // "max" is no limit.
        let limit = read(&folder.join(file)).and_then(|text| text.trim().parse().ok());
        lowest = limit.into_iter().chain(lowest).min();
        if !folder.pop() {
            break;
        }
    }
    lowest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> Option<MachineMemory> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        below(root.path())
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:       16384 kB\nMemFree:            12 kB\n");

    #[test]
    fn the_lowest_of_the_machine_and_its_control_groups_counts() {
        let machine_has = |bytes| Some(MachineMemory { bytes, of: "the machine" });
        let group_has = |bytes| Some(MachineMemory { bytes, of: "the control group" });
        let v1 = ("proc/self/cgroup", "5:cpu:/\n4:memory:/a/b\n0::/\n");
        let v2 = ("proc/self/cgroup", "0::/a/b\n");
        for (files, expected) in [
            (vec![], None),
            (vec![MEMINFO], machine_has(16_777_216)),
            (vec![("proc/meminfo", "nonsense")], None),
            (vec![MEMINFO, v2], machine_has(16_777_216)),
            (vec![MEMINFO, v2, ("sys/fs/cgroup/a/b/memory.max", "max\n")], machine_has(16_777_216)),
            (vec![MEMINFO, v2, ("sys/fs/cgroup/a/b/memory.max", "5000\n")], group_has(5_000)),
            (
                vec![
                    v2,
                    ("sys/fs/cgroup/a/b/memory.max", "max\n"),
                    ("sys/fs/cgroup/a/memory.max", "7000\n"),
                    ("sys/fs/cgroup/memory.max", "9000\n"),
                ],
                group_has(7_000),
            ),
            (vec![MEMINFO, v2, ("sys/fs/cgroup/memory.max", "3000\n")], group_has(3_000)),
            (
                vec![MEMINFO, v1, ("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712")],
                machine_has(16_777_216),
            ),
            (vec![MEMINFO, v1, ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "4096")], group_has(4_096)),
        ] {
            assert_eq!(machine(&files), expected, "{files:?}");
        }
    }

    #[test]
    fn this_machine_has_memory() {
        if Path::new("/proc/meminfo").exists() {
            assert!(machine_memory().is_some_and(|memory| memory.bytes > 1024 * 1024));
        }
    }
}
