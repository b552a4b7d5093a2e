//! Programs and libraries of the workspace that cargo does not build for the system tests by itself.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds a package, where that was not done yet, and returns the folder with what it makes.
pub(super) fn built(package: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a folder in the target folder");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--package", package, "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo runs");
    assert!(built.success(), "{package} does not build");
    target.join("debug")
}
