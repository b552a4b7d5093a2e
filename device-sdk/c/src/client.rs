//! A client, its thread, and what a program asks of it.

use std::ffi::c_char;
use std::future::Future;
use std::thread::JoinHandle;
use std::time::Duration;

use device_sdk::{Client, ClientError, Events, Message, PublishError, QoS, QueueError};
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Mutex, oneshot};
use tokio::time::timeout;

use crate::failure::{Failure, PrResult, bytes, text, told};
use crate::options::PrOptions;

/// A client; see pr_client_start().
#[derive(Debug)]
pub struct PrClient {
    client: Client,
    pub(crate) events: Mutex<Events>,
    pub(crate) runtime: Handle,
    /// Ends the thread when it is dropped.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for PrClient {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the client's thread has said so itself.
            let _ = thread.join();
        }
    }
}

impl PrClient {
    /// Waits for something no longer than this.
    pub(crate) fn wait<T>(
        &self,
        timeout_ms: u32,
        what: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        self.runtime.block_on(async {
            let waited = timeout(Duration::from_millis(timeout_ms.into()), what).await;
            waited.unwrap_or_else(|_| Err(Failure::timeout(timeout_ms)))
        })
    }
}

/// The client behind a pointer.
///
/// # Safety
/// `client` is null or from pr_client_start() and not stopped while `'a` lasts.
pub(crate) unsafe fn client<'a>(client: *const PrClient) -> Result<&'a PrClient, Failure> {
    // SAFETY: the caller promises it.
    unsafe { client.as_ref() }.ok_or_else(|| Failure::new(PrResult::Argument, "client is null"))
}

fn qos(level: u8) -> Result<QoS, Failure> {
    match level {
        0 => Ok(QoS::AtMostOnce),
        1 => Ok(QoS::AtLeastOnce),
        2 => Ok(QoS::ExactlyOnce),
        _ => Err(Failure::new(PrResult::Argument, format!("qos is {level}: it is 0, 1 or 2"))),
    }
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        let result = match error {
            PublishError::Stopped => PrResult::Ended,
            PublishError::Busy { .. } => PrResult::Full,
            PublishError::Refused { .. } => PrResult::Refused,
            _ => PrResult::Argument,
        };
        Self::new(result, error.to_string())
    }
}

impl From<QueueError> for Failure {
    fn from(error: QueueError) -> Self {
        let result = match error {
            QueueError::Full { .. } => PrResult::Full,
            QueueError::Stopped => PrResult::Ended,
            QueueError::Disk { .. } => PrResult::Io,
            _ => PrResult::Argument,
        };
        Self::new(result, error.to_string())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let result = match error {
            ClientError::Stopped => PrResult::Ended,
            ClientError::Limit { .. } => PrResult::Full,
            _ => PrResult::Argument,
        };
        Self::new(result, error.to_string())
    }
}

/// Starts a client and frees `options`, also if it fails. It connects, and connects again for ever; take its events with pr_next().
/// Null if it cannot be started. Freed by pr_client_stop().
///
/// # Safety
/// `options` is null or from pr_options_new(), and not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pr_client_start(options: *mut PrOptions) -> *mut PrClient {
    if options.is_null() {
        Failure::new(PrResult::Argument, "options is null").tell();
        return std::ptr::null_mut();
    }
    // SAFETY: it was made by Box::into_raw, and the caller gives it up.
    let options = unsafe { Box::from_raw(options) };
    match start(*options) {
        Ok(client) => Box::into_raw(Box::new(client)),
        Err(failure) => {
            failure.tell();
            std::ptr::null_mut()
        }
    }
}

fn start(options: PrOptions) -> Result<PrClient, Failure> {
    let io = |error: std::io::Error| Failure::new(PrResult::Io, error.to_string());
    let runtime = Builder::new_current_thread().enable_all().build().map_err(io)?;
    let (client, events) = {
        let _inside = runtime.enter();
        Client::spawn(options.0).map_err(|error| Failure::new(PrResult::Io, error.to_string()))?
    };
    let handle = runtime.handle().clone();
    let (stop, stopped) = oneshot::channel();
    let run = move || {
        // An error says that the client is dropped, which is the same.
        let _ = runtime.block_on(stopped);
    };
    let thread = std::thread::Builder::new().name("postrider".to_owned()).spawn(run).map_err(io)?;
    Ok(PrClient {
        client,
        events: Mutex::new(events),
        runtime: handle,
        stop: Some(stop),
        thread: Some(thread),
    })
}

/// Says goodbye to the broker and frees the client. A goodbye that takes longer than `timeout_ms` is left out.
///
/// # Safety
/// `stopped` is null or from pr_client_start(), and nobody uses it any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pr_client_stop(stopped: *mut PrClient, timeout_ms: u32) -> PrResult {
    if stopped.is_null() {
        return Failure::new(PrResult::Argument, "client is null").tell();
    }
    // SAFETY: it was made by Box::into_raw, and the caller gives it up.
    let client = unsafe { Box::from_raw(stopped) };
    told(client.wait(timeout_ms, async { Ok(client.client.disconnect().await?) }))
}

/// Publishes and waits for the broker: its acknowledgement at QoS 1 and 2, written to the socket at QoS 0. Waits through
/// reconnects. `seq`, if not null, gets the number of a message in a conversation, else 0.
///
/// # Safety
/// `publisher` is from pr_client_start(), `topic` a text, `payload` has `payload_len` bytes, `seq` is null or a place to write to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pr_publish(
    publisher: *const PrClient,
    topic: *const c_char,
    payload: *const u8,
    payload_len: usize,
    qos_level: u8,
    retain: bool,
    timeout_ms: u32,
    seq: *mut u64,
) -> PrResult {
    let publish = || {
        // SAFETY: the caller promises a client, a text and the length.
        let (publisher, topic, payload) =
            unsafe { (client(publisher)?, text(topic, "topic")?, bytes(payload, payload_len, "payload")?) };
        let message = Message::new(topic, payload).qos(qos(qos_level)?).retain(retain);
        let published = publisher.wait(timeout_ms, async { Ok(publisher.client.publish(message).await?) })?;
        // SAFETY: the caller promises a place to write to, or null.
        if let Some(seq) = unsafe { seq.as_mut() } {
            *seq = published.seq.unwrap_or(0);
        }
        Ok(())
    };
    told(publish())
}

/// Stores a message in the disk queue, from where it goes to the broker at QoS 1 when there is a connection. Returns when it is on the
/// disk: then it survives a power cut.
///
/// # Safety
/// `publisher` is from pr_client_start(), `topic` a text, `payload` has `payload_len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pr_enqueue(
    publisher: *const PrClient,
    topic: *const c_char,
    payload: *const u8,
    payload_len: usize,
    timeout_ms: u32,
) -> PrResult {
    let enqueue = || {
        // SAFETY: the caller promises a client, a text and the length.
        let (publisher, topic, payload) =
            unsafe { (client(publisher)?, text(topic, "topic")?, bytes(payload, payload_len, "payload")?) };
        let message = Message::new(topic, payload).qos(QoS::AtLeastOnce);
        publisher.wait(timeout_ms, async { Ok(publisher.client.enqueue(message).await?) })
    };
    told(enqueue())
}

/// Waits until the broker has acknowledged everything in the disk queue.
///
/// # Safety
/// `publisher` is from pr_client_start().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pr_queue_drain(publisher: *const PrClient, timeout_ms: u32) -> PrResult {
    // SAFETY: the caller promises a client.
    let publisher = unsafe { client(publisher) };
    told(publisher.and_then(|publisher| {
        publisher.wait(timeout_ms, async {
            publisher.client.queue_drained().await;
            Ok(())
        })
    }))
}

/// Subscribes to a filter and waits for the broker; its messages come from pr_next().
///
/// # Safety
/// `subscriber` is from pr_client_start(), `filter` a text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pr_subscribe(
    subscriber: *const PrClient,
    filter: *const c_char,
    qos_level: u8,
    timeout_ms: u32,
) -> PrResult {
    let subscribe = || {
        // SAFETY: the caller promises a client and a text.
        let (subscriber, filter) = unsafe { (client(subscriber)?, text(filter, "filter")?) };
        let filters = [(filter, qos(qos_level)?)];
        let codes =
            subscriber.wait(timeout_ms, async { Ok(subscriber.client.subscribe(&filters).await?) })?;
        match codes.first().filter(|code| code.is_failure()) {
            Some(code) => Err(Failure::new(
                PrResult::Refused,
                format!("the broker refuses {filter:?}: {}", code.text()),
            )),
            None => Ok(()),
        }
    };
    told(subscribe())
}

/// Unsubscribes from a filter and waits for the broker.
///
/// # Safety
/// `subscriber` is from pr_client_start(), `filter` a text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pr_unsubscribe(
    subscriber: *const PrClient,
    filter: *const c_char,
    timeout_ms: u32,
) -> PrResult {
    let unsubscribe = || {
        // SAFETY: the caller promises a client and a text.
        let (subscriber, filter) = unsafe { (client(subscriber)?, text(filter, "filter")?) };
        subscriber.wait(timeout_ms, async { Ok(subscriber.client.unsubscribe(&[filter]).await?) })?;
        Ok(())
    };
    told(unsubscribe())
}
