//! Results, and the words behind them.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// How a call ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrResult {
    /// It did what it says.
    Ok = 0,
    /// An argument is null, no UTF-8 or out of range.
    Argument = -1,
    /// The time was over. What was handed over before goes on: a publish may still arrive.
    Timeout = -2,
    /// The broker refused.
    Refused = -3,
    /// There is no room: the disk queue is full, or too much waits.
    Full = -4,
    /// A file, a socket or the disk queue failed.
    Io = -5,
    /// The client was stopped.
    Ended = -6,
}

/// A result that is no success, with its words.
pub(crate) struct Failure {
    pub(crate) result: PrResult,
    pub(crate) why: String,
}

impl Failure {
    pub(crate) fn new(result: PrResult, why: impl Into<String>) -> Self {
        Self { result, why: why.into() }
    }

    pub(crate) fn timeout(waited_ms: u32) -> Self {
        Self::new(PrResult::Timeout, format!("it was not done after {waited_ms} ms"))
    }

    /// Keeps the words for [`pr_last_error`].
    pub(crate) fn tell(self) -> PrResult {
        // A NUL inside would cut it: nothing that we say has one, but a topic in it may.
        let words = CString::new(self.why.replace('\0', "\u{fffd}")).unwrap_or_default();
        LAST.with(|last| last.replace(words));
        self.result
    }
}

pub(crate) fn told(outcome: Result<(), Failure>) -> PrResult {
    outcome.map_or_else(Failure::tell, |()| PrResult::Ok)
}

/// Says in words why the last call on this thread failed; empty if none did. Valid until the next call on this thread.
#[unsafe(no_mangle)]
pub extern "C" fn pr_last_error() -> *const c_char {
    LAST.with(|last| last.borrow().as_ptr())
}

/// Reads a text.
///
/// # Safety
/// `text` is null or points to bytes that end with a NUL and stay while `'a` lasts.
pub(crate) unsafe fn text<'a>(text: *const c_char, what: &str) -> Result<&'a str, Failure> {
    if text.is_null() {
        return Err(Failure::new(PrResult::Argument, format!("{what} is null")));
    }
    // SAFETY: it is not null, and the caller promises the rest.
    let bytes = unsafe { CStr::from_ptr(text) };
    bytes.to_str().map_err(|_| Failure::new(PrResult::Argument, format!("{what} is no UTF-8: {bytes:?}")))
}

/// Copies bytes.
///
/// # Safety
/// `bytes` is null, and `len` 0, or points to `len` bytes.
pub(crate) unsafe fn bytes(bytes: *const u8, len: usize, what: &str) -> Result<Vec<u8>, Failure> {
    match (bytes.is_null(), len) {
        (_, 0) => Ok(Vec::new()),
        (true, _) => Err(Failure::new(PrResult::Argument, format!("{what} is null and {len} bytes long"))),
        // SAFETY: it is not null, and the caller promises the length.
        (false, _) => Ok(unsafe { std::slice::from_raw_parts(bytes, len) }.to_vec()),
    }
}
