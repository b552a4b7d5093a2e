//! A line whose other end a test plays: a pseudo terminal behind a link, so that it can be pulled out and put in again.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tokio_serial::{SerialPort, SerialStream};

/// Nothing takes this long, whatever else the machine does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A place where devices are plugged in.
pub(crate) struct Socket {
    _dir: TempDir,
    link: PathBuf,
}

impl Socket {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder can be made");
        let link = dir.path().join("tty");
        Self { _dir: dir, link }
    }

    /// What a gateway opens.
    pub(crate) fn path(&self) -> &str {
        self.link.to_str().expect("a path of plain letters")
    }

    /// Plugs a device in; the test plays it. It is pulled out with [`Socket::unplug`] and by being dropped.
    pub(crate) fn plug(&self) -> SerialStream {
        let (device, line) = SerialStream::pair().expect("a pseudo terminal");
        symlink(line.name().expect("a pseudo terminal has a name"), &self.link)
            .expect("the link can be made");
        device
    }

    pub(crate) fn unplug(&self) {
        std::fs::remove_file(&self.link).expect("it was plugged in");
    }
}

/// Reads what is there, waiting for the first byte; `None` while nobody has the line open.
pub(crate) async fn read(device: &mut SerialStream) -> Option<Vec<u8>> {
    use tokio::io::AsyncReadExt as _;
    let mut bytes = [0; 256];
    match device.read(&mut bytes).await {
        Ok(0) | Err(_) => None,
        Ok(count) => Some(bytes[..count].to_vec()),
    }
}

/// Makes a line of what stands between `$` and `*`, its checksum reckoned apart from the library's.
pub(crate) fn sentence(body: &str) -> String {
    let sum = body.bytes().fold(0, |sum, byte| sum ^ byte);
    format!("${body}*{sum:02X}\r\n")
}
