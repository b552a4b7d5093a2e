//! Brings an image from where it is to the updater, over whatever breaks on the way.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::flash::Flash;
use super::updater::{OtaError, Updater};
use crate::Backoff;

/// Bytes asked of a source at a time.
const PART_BYTES: usize = 256 * 1024;
/// Failures of a source in a row until a download gives up; it goes on where it was when it is called again.
const FAILURES_MAX: u32 = 8;
const PAUSES: Backoff = Backoff { min_ms: 500, max_ms: 30_000 };

/// Where an image comes from.
///
/// ```
/// use std::io;
/// use device_sdk::Bytes;
/// use device_sdk::ota::Source;
///
/// /// An image that came on a stick.
/// struct Stick(Bytes);
///
/// impl Source for Stick {
///     async fn read(&mut self, offset: u64, bytes_max: usize) -> io::Result<Bytes> {
///         let from = usize::try_from(offset).map_err(io::Error::other)?;
///         if from >= self.0.len() {
///             return Err(io::ErrorKind::UnexpectedEof.into());
///         }
///         Ok(self.0.slice(from..self.0.len().min(from + bytes_max)))
///     }
/// }
/// ```
pub trait Source: Send {
    /// Returns at least one and at most `bytes_max` bytes of the image from an offset on.
    ///
    /// # Errors
    /// They do not come now; the same is asked for again after a pause.
    fn read(&mut self, offset: u64, bytes_max: usize) -> impl Future<Output = io::Result<Bytes>> + Send;
}

/// Why a download ended.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The source failed too often in a row.
    #[error("the image does not come: {0}")]
    Source(io::Error),
    /// The updater refused what came, or its flash failed.
    #[error(transparent)]
    Updater(#[from] OtaError),
    /// The runtime is shutting down.
    #[error("the runtime is shutting down")]
    Stopping,
}

/// Downloads what [`Updater::begin`] has begun from where it is, checks it and puts it on trial. May be dropped and called again; the
/// flash is written on blocking threads.
///
/// # Errors
/// See [`DownloadError`].
pub async fn download<F: Flash + 'static>(
    updater: &Arc<Mutex<Updater<F>>>,
    source: &mut impl Source,
) -> Result<(), DownloadError> {
    let (mut failures, mut pause_ms) = (0, 0);
    loop {
        let progress = on_flash(updater, |updater| {
            let progress = updater.downloading().map(|(manifest, offset)| (offset, manifest.size));
            progress.ok_or(OtaError::NotBegun)
        });
        let (offset, size) = progress.await?;
        if offset >= size {
            return on_flash(updater, Updater::finish).await;
        }
        let wanted = usize::try_from(size - offset).unwrap_or(PART_BYTES).min(PART_BYTES);
        let read = source.read(offset, wanted).await.and_then(|bytes| match bytes.len() {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(bytes.slice(..bytes.len().min(wanted))),
        });
        match read {
            Ok(bytes) => {
                (failures, pause_ms) = (0, 0);
                on_flash(updater, move |updater| updater.write(&bytes)).await?;
            }
            Err(error) => {
                failures += 1;
                if failures >= FAILURES_MAX {
                    return Err(DownloadError::Source(error));
                }
                pause_ms = PAUSES.next_ms(pause_ms, fastrand::u64(..));
                tracing::warn!(%error, offset, size, pause_ms, "a part of the image did not come");
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            }
        }
    }
}

async fn on_flash<F: Flash + 'static, T: Send + 'static>(
    updater: &Arc<Mutex<Updater<F>>>,
    work: impl FnOnce(&mut Updater<F>) -> Result<T, OtaError> + Send + 'static,
) -> Result<T, DownloadError> {
    let updater = updater.clone();
    let work = move || work(&mut updater.lock().unwrap_or_else(PoisonError::into_inner));
    let done = tokio::task::spawn_blocking(work).await.map_err(|_| DownloadError::Stopping)?;
    Ok(done?)
}
