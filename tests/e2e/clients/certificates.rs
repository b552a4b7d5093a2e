//! An authority, a server's certificate and a device's, as `postrider certs` makes them.

use std::path::{Path, PathBuf};

use crate::broker_process::{Build, postrider};

/// The device's common name.
pub(super) const DEVICE: &str = "truck-7";

/// Files in PEM.
#[derive(Debug)]
pub(super) struct Certificates {
    pub(super) ca: PathBuf,
    pub(super) server: PathBuf,
    pub(super) server_key: PathBuf,
    pub(super) device: PathBuf,
    pub(super) device_key: PathBuf,
}

impl Certificates {
    /// Makes them in a directory of a test's own.
    pub(super) fn make(dir: &Path) -> Self {
        let dir = dir.join("certs");
        let done = postrider(Build::Release)
            .arg("certs")
            .arg(&dir)
            .args(["--device", DEVICE])
            .output()
            .expect("postrider certs runs");
        assert!(done.status.success(), "{done:?}");
        let path = |name: &str| dir.join(name);
        Self {
            ca: path("ca.crt"),
            server: path("server.crt"),
            server_key: path("server.key"),
            device: path(&format!("{DEVICE}.crt")),
            device_key: path(&format!("{DEVICE}.key")),
        }
    }
}
