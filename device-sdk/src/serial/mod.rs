//! What hangs on a gateway's serial lines: GPS receivers, a lock, a CAN adapter.
//!
//! - [`Gps`]: a receiver that speaks NMEA 0183. Its baud rate is found, its line may be pulled out and put in again.
//! - [`nmea`]: the same without a line, for bytes from anywhere: sentences to fixes.
//! - [`SerialLock`]: a lock that is asked in checked lines, each request carried out once.
//! - [`slcan`]: a CAN adapter that speaks the Lawicel protocol, and its frames.
//!
//! Lines are untrusted: every buffer has a bound, what cannot be read is counted and left out.

mod fix;
mod gps;
mod line;
mod lock;
pub mod nmea;
pub mod slcan;

use std::io;
use std::time::Duration;

use tokio_serial::{SerialPortBuilder, SerialPortBuilderExt, SerialStream};

pub use fix::{FixKind, GpsFix};
pub use gps::{BAUDS, Gps, GpsEvent, GpsOptions};
pub use lock::{LOCK_BAUD, LockError, LockState, SerialLock};

/// Pause between attempts to open a line that is not there.
const REOPEN: Duration = Duration::from_millis(250);

/// A line with 8 data bits, no parity, 1 stop bit and no flow control.
fn port(path: &str, baud: u32) -> SerialPortBuilder {
    tokio_serial::new(path, baud)
}

fn open(path: &str, baud: u32) -> io::Result<SerialStream> {
    port(path, baud).open_native_async().map_err(io::Error::from)
}
