//! A disk that loses what was not synced: a file system of its own in a file, whose power can be cut.
//!
//! What programs wrote and did not sync is in the memory of this file system alone. When it is shut down without its
//! journal, as by a power cut, nothing of that gets into the file any more; programs that still run get errors.
//! Mounted again, it has what the disk had. Nothing is known here of who writes what: log, view and all else lose alike.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// Size of the file, of which only what is written takes space.
const DISK_BYTES: u64 = 2 << 30;

/// Shuts a file system down as soon as it is told to, without a word to the disk (`FS_IOC_SHUTDOWN`, `NOLOGFLUSH`).
const SHUT_DOWN: &str = "import fcntl, os, struct, sys\n\
    disk = os.open(sys.argv[1], os.O_RDONLY)\n\
    print('ready', flush=True)\n\
    sys.stdin.readline()\n\
    fcntl.ioctl(disk, 0x8004587D, struct.pack('I', 2))";

/// The disk; it is gone with the value.
pub(super) struct LossyDisk {
    image: PathBuf,
    mounted_at: PathBuf,
    /// The program that cuts the power.
    switch: Option<Child>,
    _dir: TempDir,
}

impl LossyDisk {
    /// Makes one; `None` where that is not allowed.
    pub(super) fn new() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (image, mounted_at) = (dir.path().join("image"), dir.path().join("disk"));
        File::create(&image).and_then(|file| file.set_len(DISK_BYTES)).expect("a file for the disk");
        fs::create_dir(&mounted_at).expect("a directory");
        let mut disk = Self { image, mounted_at, switch: None, _dir: dir };
        let made = is_done(Command::new("mkfs.ext4").arg("-q").arg(&disk.image)) && disk.mount();
        made.then_some(disk)
    }

    /// A directory on it.
    pub(super) fn store(&self) -> PathBuf {
        self.mounted_at.join("store")
    }

    /// What is not synced by now is lost, and who writes is told that the disk is gone.
    pub(super) fn cut_power(&mut self) {
        let mut switch = self.switch.take().expect("the power is on");
        let told = switch.stdin.take().expect("stdin is piped").write_all(b"now\n");
        let is_cut = told.is_ok() && switch.wait().is_ok_and(|status| status.success());
        assert!(is_cut, "the power of the disk cannot be cut");
    }

    /// The power is back. Nobody may have a file open.
    pub(super) fn restore_power(&mut self) {
        assert!(is_done(Command::new("umount").arg(&self.mounted_at)), "somebody still uses the disk");
        assert!(self.mount(), "the disk cannot be mounted again");
    }

    fn mount(&mut self) -> bool {
        // Long between its own syncs, so that much is lost.
        let options = ["-o", "loop,commit=300"];
        let is_mounted = is_done(Command::new("mount").args(options).args([&self.image, &self.mounted_at]));
        if is_mounted {
            let switch = Command::new("python3")
                .args(["-c", SHUT_DOWN])
                .arg(&self.mounted_at)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn();
            let mut switch = switch.expect("python3 runs");
            let mut ready = String::new();
            let said = BufReader::new(switch.stdout.take().expect("stdout is piped")).read_line(&mut ready);
            said.expect("the switch says that it is ready");
            self.switch = Some(switch);
        }
        is_mounted
    }
}

impl Drop for LossyDisk {
    fn drop(&mut self) {
        if let Some(mut switch) = self.switch.take() {
            // Both fail only when it is gone already, which is what is wanted.
            let _ = switch.kill();
            let _ = switch.wait();
        }
        // Lazily: the broker that used it may not be gone yet.
        is_done(Command::new("umount").arg("-l").arg(&self.mounted_at));
    }
}

fn is_done(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// What was synced is there after the power was cut, and what was not is not: the disk is what it says.
#[test]
fn the_disk_loses_what_was_not_synced_and_nothing_else() {
    let Some(mut disk) = LossyDisk::new() else {
        println!("not allowed to mount a file system here: not tested");
        return;
    };
    let mounted_at = disk.mounted_at.clone();
    let write = |name: &str, is_synced: bool| {
        let path = mounted_at.join(name);
        fs::write(&path, [7; 4_096]).expect("the disk takes it");
        if is_synced {
            File::open(&path).and_then(|file| file.sync_all()).expect("the disk syncs it");
        }
    };
    write("synced", true);
    write("not synced", false);
    disk.cut_power();
    assert!(fs::write(mounted_at.join("later"), [7]).is_err(), "a disk without power takes nothing");
    disk.restore_power();
    let read = |name: &str| fs::read(mounted_at.join(name)).ok();
    assert_eq!(read("synced"), Some(vec![7; 4_096]));
    assert_ne!(read("not synced"), Some(vec![7; 4_096]));
}
