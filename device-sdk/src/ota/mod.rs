//! Updates over the air that cannot brick: two slots, a signed manifest, a trial with a way back.
//!
//! ```text
//!  begin ──> download (resumes at its offset) ──> finish ──> restart ──> trial ──confirm──> the new release is the device's
//!    │            │                                  │                     │
//!  refused:     the other slot                    not the              not confirmed in time, or it
//!  signature,   is overwritten, the               image that           does not start: back to the
//!  model,       running one never                 was signed           old one, and this release is
//!  downgrade                                                           not tried again
//! ```
//!
//! Invariants, whatever moment the power ends at:
//!
//! - The slot that the device would start is never written to. What is downloaded counts only when all of it is on flash and its
//!   SHA-256 is the manifest's, which an Ed25519 key of the list has signed.
//! - What slot is started stands in a record of two copies with checksums, written in turn, so one of them is always whole ([`Boot`]).
//! - [`Boot::choose`], the boot loader's part, checks the image again before it starts it, and counts the starts of a trial down.
//! - A release number lower than the highest that was ever confirmed is refused.
//!
//! [`Flash`] is what a device maker implements for real partitions; [`DiskFlash`] does it on plain files. [`Updater`] is the running
//! program's part, and [`download`] drives it from a [`Source`], such as [`HttpSource`].

mod boot;
mod fetch;
mod flash;
mod http;
mod manifest;
mod record;
mod updater;

pub use boot::{Boot, BootError, Booted, Image, TRIAL_STARTS};
pub use fetch::{DownloadError, Source, download};
pub use flash::{DiskFlash, Flash, Slot};
pub use http::HttpSource;
pub use manifest::{MANIFEST_BYTES_MAX, Manifest, ManifestError, ReleaseKeys, SignedManifest};
pub use updater::{Begun, OtaError, Updater, UpdaterOptions};

#[cfg(test)]
mod tests;
