//! What a client tells its program.

use std::ffi::{CString, c_char};

use device_sdk::{Event, Incoming};

use crate::client::{PrClient, client};
use crate::failure::{Failure, PrResult};

/// Kinds of events.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrEventKind {
    /// Something that this version of the header does not know.
    Other = 0,
    /// A message arrived; see pr_event_topic(), pr_event_payload() and pr_event_seq().
    Message = 1,
    /// The connection is up.
    Connected = 2,
    /// The connection, or an attempt at one, failed; it is tried again. See pr_event_text().
    Disconnected = 3,
    /// The broker refused the connection; it is tried again. See pr_event_text().
    Refused = 4,
}

/// Something that happened; see pr_next().
#[derive(Debug)]
pub struct PrEvent {
    kind: PrEventKind,
    topic: CString,
    text: CString,
    message: Option<Incoming>,
}

impl From<Event> for PrEvent {
    fn from(event: Event) -> Self {
        // MQTT allows no NUL in a topic, and our own words have none.
        let c_text = |text: &str| CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default();
        let (kind, topic, text, message) = match event {
            Event::Message(message) => {
                (PrEventKind::Message, c_text(&message.topic), String::new(), Some(message))
            }
            Event::Connected { .. } => (PrEventKind::Connected, CString::default(), String::new(), None),
            Event::Disconnected { why, .. } => (PrEventKind::Disconnected, CString::default(), why, None),
            Event::Refused { why, reason, .. } => {
                (PrEventKind::Refused, CString::default(), format!("{}: {why}", reason.text()), None)
            }
            other => (PrEventKind::Other, CString::default(), format!("{other:?}"), None),
        };
        Self { kind, topic, text: c_text(&text), message }
    }
}

/// Waits for the next event; null if none came in `timeout_ms` or the client has ended, which pr_last_error() tells. A program must
/// take its events: while 256 wait, nothing is read from the broker. Freed by pr_event_free().
///
/// # Safety
/// `listener` is from pr_client_start().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pr_next(listener: *const PrClient, timeout_ms: u32) -> *mut PrEvent {
    // SAFETY: the caller promises a client.
    let listener = unsafe { client(listener) };
    let event = listener.and_then(|listener| {
        listener.wait(timeout_ms, async {
            let mut events = listener.events.lock().await;
            events.next().await.ok_or_else(|| Failure::new(PrResult::Ended, "the client has ended"))
        })
    });
    match event {
        Ok(event) => Box::into_raw(Box::new(event.into())),
        Err(failure) => {
            failure.tell();
            std::ptr::null_mut()
        }
    }
}

/// Frees an event; null is allowed.
///
/// # Safety
/// `event` is null or from pr_next(), and not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pr_event_free(event: *mut PrEvent) {
    if !event.is_null() {
        // SAFETY: it was made by Box::into_raw, and the caller gives it up.
        drop(unsafe { Box::from_raw(event) });
    }
}

/// Says what an event is; null is none that is known.
///
/// # Safety
/// `event` is null or from pr_next().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pr_event_kind(event: *const PrEvent) -> PrEventKind {
    // SAFETY: the caller promises it.
    unsafe { event.as_ref() }.map_or(PrEventKind::Other, |event| event.kind)
}

/// The topic of a message, else an empty text. Valid until the event is freed.
///
/// # Safety
/// `event` is null or from pr_next().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pr_event_topic(event: *const PrEvent) -> *const c_char {
    // SAFETY: the caller promises it.
    unsafe { event.as_ref() }.map_or(c"".as_ptr(), |event| event.topic.as_ptr())
}

/// Why, in words, for events that have a reason, else an empty text. Valid until the event is freed.
///
/// # Safety
/// `event` is null or from pr_next().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pr_event_text(event: *const PrEvent) -> *const c_char {
    // SAFETY: the caller promises it.
    unsafe { event.as_ref() }.map_or(c"".as_ptr(), |event| event.text.as_ptr())
}

/// The payload of a message, its length in `len`; null and 0 if there is none. Valid until the event is freed.
///
/// # Safety
/// `event` is null or from pr_next(), `len` a place to write to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pr_event_payload(event: *const PrEvent, len: *mut usize) -> *const u8 {
    // SAFETY: the caller promises it.
    let message = unsafe { event.as_ref() }.and_then(|event| event.message.as_ref());
    let payload = message.map(|message| &message.payload).filter(|payload| !payload.is_empty());
    // SAFETY: the caller promises a place to write to, or null.
    if let Some(len) = unsafe { len.as_mut() } {
        *len = payload.map_or(0, |payload| payload.len());
    }
    payload.map_or(std::ptr::null(), |payload| payload.as_ptr())
}

/// The number of a message in its conversation, 0 if it has none.
///
/// # Safety
/// `event` is null or from pr_next().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pr_event_seq(event: *const PrEvent) -> u64 {
    // SAFETY: the caller promises it.
    let message = unsafe { event.as_ref() }.and_then(|event| event.message.as_ref());
    message.and_then(Incoming::seq).unwrap_or(0)
}
