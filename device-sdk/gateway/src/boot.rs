//! The boot loader's part: which image runs, this program's own or one that came over the air.
//!
//! Whoever starts the gateway (systemd) always starts the program that was installed. With `[update]` in the configuration it chooses a slot and becomes
//! what is in it, which is told its slot. So a trial that crashes is counted, and after three starts the old image is back.

use std::convert::Infallible;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Context as _;
use device_sdk::ota::{Boot, BootError, DiskFlash, Slot};

use crate::config::Update;

/// The argument that says which slot a program was started from.
pub(crate) const SLOT: &str = "--slot";
/// What the installed program counts as: every release that is signed is higher.
const INSTALLED_RELEASE: u64 = 0;

/// Becomes the image that is to run, with the same configuration.
pub(crate) fn start(update: &Update, file: &str) -> anyhow::Result<Infallible> {
    let mut flash = update.flash()?;
    let booted = match Boot::choose(&mut flash) {
        Err(BootError::NotProvisioned) => {
            install(&mut flash)?;
            Boot::choose(&mut flash)?
        }
        chosen => chosen?,
    };
    let path = flash.path(booted.slot);
    // Nobody may have it open for writing when it is started.
    drop(flash);
    std::fs::set_permissions(&path, Permissions::from_mode(0o755))
        .with_context(|| format!("{} cannot be made a program", path.display()))?;
    let slot = match booted.slot {
        Slot::A => "a",
        Slot::B => "b",
    };
    tracing::info!(slot, release = booted.image.release, trial = booted.is_trial, "starting");
    let error = Command::new(&path).args([SLOT, slot, file]).exec();
    Err(error).with_context(|| format!("{} cannot be started", path.display()))
}

/// Reads the slot of [`SLOT`].
pub(crate) fn slot(text: &str) -> Option<Slot> {
    match text {
        "a" => Some(Slot::A),
        "b" => Some(Slot::B),
        _ => None,
    }
}

/// Puts this program into the first slot.
fn install(flash: &mut DiskFlash) -> anyhow::Result<()> {
    let own = std::env::current_exe().context("the path of this program is not known")?;
    let image = std::fs::read(&own).with_context(|| format!("{} cannot be read", own.display()))?;
    Boot::provision(flash, INSTALLED_RELEASE, env!("CARGO_PKG_VERSION"), &image)
        .context("this program cannot be put into the first slot")
}
