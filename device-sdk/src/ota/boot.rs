//! The boot loader's part: which slot starts.

use std::io;

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::flash::{Flash, Slot};
use super::record::BOOT;
use crate::hex;

/// How often a trial is started until it is given up.
pub const TRIAL_STARTS: u8 = 3;
const READ_BYTES: usize = 64 * 1024;

/// What is in a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The release's number.
    pub release: u64,
    /// What people call it.
    pub name: String,
    /// Its bytes.
    pub size: u64,
    /// SHA-256, 64 hexadecimal digits.
    pub sha256: String,
}

/// The record that decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BootRecord {
    /// The slot that was confirmed.
    pub(super) active: Slot,
    /// What is in the slots, the first being A; `None` for one that is being overwritten.
    pub(super) images: [Option<Image>; 2],
    /// Starts that are left to the other slot, while it is tried.
    pub(super) trial_starts: Option<u8>,
    /// The highest release that was confirmed.
    pub(super) highest: u64,
    /// The release that was given up last.
    pub(super) failed: Option<u64>,
}

impl BootRecord {
    pub(super) fn image(&self, slot: Slot) -> Option<&Image> {
        self.images[slot.index()].as_ref()
    }

    /// Ends the trial without success.
    pub(super) fn give_up(&mut self) {
        self.trial_starts = None;
        self.failed = self.image(self.active.other()).map(|image| image.release).or(self.failed);
    }
}

/// What was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Booted {
    /// The slot.
    pub slot: Slot,
    /// What is in it.
    pub image: Image,
    /// Whether it is on trial: it must be confirmed, or the next start may be the old one's.
    pub is_trial: bool,
}

/// Why nothing can be started.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The flash failed.
    #[error("the flash cannot be used: {0}")]
    Flash(#[from] io::Error),
    /// There is no record: the factory has not written one.
    #[error("the flash has no boot record; provision it with a first image")]
    NotProvisioned,
    /// Neither slot holds what its record says.
    #[error("neither slot holds a whole image")]
    NoImage,
}

/// Decides which slot starts.
///
/// ```
/// use device_sdk::ota::{Boot, DiskFlash};
///
/// let dir = tempfile::tempdir()?;
/// let mut flash = DiskFlash::open(dir.path(), 1024 * 1024)?;
/// assert!(Boot::choose(&mut flash).is_err(), "the factory has not been here");
/// Boot::provision(&mut flash, 7, "1.4.0", b"an image")?;
/// let booted = Boot::choose(&mut flash)?;
/// assert_eq!((booted.image.release, booted.is_trial), (7, false));
/// // What it started asks by its slot.
/// assert_eq!(Boot::started(&flash, booted.slot)?, booted);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Boot;

impl Boot {
    /// Writes the first image and its record, at the factory.
    ///
    /// # Errors
    /// The flash failed, or the image does not fit.
    pub fn provision(
        flash: &mut impl Flash,
        release: u64,
        name: &str,
        image: &[u8],
    ) -> Result<(), BootError> {
        if image.len() as u64 > flash.slot_bytes() {
            let what = format!("the image has {} bytes, a slot {}", image.len(), flash.slot_bytes());
            return Err(io::Error::other(what).into());
        }
        flash.write(Slot::A, 0, image)?;
        flash.sync(Slot::A)?;
        let digest = aws_lc_rs::digest::digest(&SHA256, image);
        let sha256 = hex::encode(digest.as_ref());
        let image = Image { release, name: name.to_owned(), size: image.len() as u64, sha256 };
        let images = [Some(image), None];
        let record =
            BootRecord { active: Slot::A, images, trial_starts: None, highest: release, failed: None };
        BOOT.store(flash, &record)?;
        Ok(())
    }

    /// Chooses what to start now. A trial has one start less afterwards; without one left, or if its image is not whole, it is
    /// given up and the old image starts. Should the old one be damaged, whatever is whole starts.
    ///
    /// # Errors
    /// There is nothing to start.
    pub fn choose(flash: &mut impl Flash) -> Result<Booted, BootError> {
        let mut record: BootRecord = BOOT.load(flash)?.ok_or(BootError::NotProvisioned)?;
        let tried = record.active.other();
        if let Some(starts) = record.trial_starts {
            if let Some(image) = record.image(tried).filter(|_| starts > 0).cloned()
                && is_whole(flash, tried, &image)?
            {
                record.trial_starts = Some(starts - 1);
                BOOT.store(flash, &record)?;
                return Ok(Booted { slot: tried, image, is_trial: true });
            }
            record.give_up();
            BOOT.store(flash, &record)?;
        }
        for slot in [record.active, tried] {
            if let Some(image) = record.image(slot)
                && is_whole(flash, slot, image)?
            {
                return Ok(Booted { slot, image: image.clone(), is_trial: false });
            }
        }
        Err(BootError::NoImage)
    }

    /// Returns what [`Self::choose`] has started in another process, a boot loader or a supervisor, that told this one its slot alone.
    ///
    /// # Errors
    /// The flash failed, or its record knows of no image in this slot.
    pub fn started(flash: &impl Flash, slot: Slot) -> Result<Booted, BootError> {
        let record: BootRecord = BOOT.load(flash)?.ok_or(BootError::NotProvisioned)?;
        let image = record.image(slot).ok_or(BootError::NoImage)?.clone();
        Ok(Booted { slot, image, is_trial: record.trial_starts.is_some() && slot != record.active })
    }
}

/// Reads a slot and compares it with what it should hold.
pub(super) fn is_whole(flash: &impl Flash, slot: Slot, image: &Image) -> io::Result<bool> {
    let mut context = Context::new(&SHA256);
    let mut bytes = vec![0; READ_BYTES];
    let mut offset = 0;
    while offset < image.size {
        let length = usize::try_from(image.size - offset).unwrap_or(READ_BYTES).min(READ_BYTES);
        match flash.read(slot, offset, &mut bytes[..length]) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
        context.update(&bytes[..length]);
        offset += length as u64;
    }
    Ok(hex::encode(context.finish().as_ref()) == image.sha256.to_ascii_lowercase())
}
