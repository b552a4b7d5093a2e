//! What a client is made with.

use std::ffi::c_char;
use std::path::PathBuf;

use device_sdk::{Options, QueueOptions, TlsIdentity, TlsOptions};

use crate::failure::{Failure, PrResult, bytes, text, told};

/// How to reach a broker; see pr_options_new().
#[derive(Debug)]
pub struct PrOptions(pub(crate) Options);

/// Makes options for an MQTT 5 session that the broker keeps for an hour. `address` is `host:port`. Null where an argument is
/// no text. Freed by pr_client_start() or pr_options_free().
///
/// # Safety
/// Both arguments are null or texts that end with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pr_options_new(address: *const c_char, client_id: *const c_char) -> *mut PrOptions {
    // SAFETY: the caller promises texts.
    let made = unsafe { text(address, "address") }.and_then(|address| {
        // SAFETY: the same.
        let client_id = unsafe { text(client_id, "client_id") }?;
        Ok(Options::new(address, client_id))
    });
    match made {
        Ok(options) => Box::into_raw(Box::new(PrOptions(options))),
        Err(failure) => {
            failure.tell();
            std::ptr::null_mut()
        }
    }
}

/// Frees options that no client was started with; null is allowed.
///
/// # Safety
/// `options` is null or from pr_options_new(), and not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pr_options_free(options: *mut PrOptions) {
    if !options.is_null() {
        // SAFETY: it was made by Box::into_raw, and the caller gives it up.
        drop(unsafe { Box::from_raw(options) });
    }
}

/// Changes options, if they are there.
///
/// # Safety
/// `options` is null or from pr_options_new(), and nobody else uses it now.
unsafe fn change(
    options: *mut PrOptions,
    change: impl FnOnce(&mut Options) -> Result<(), Failure>,
) -> PrResult {
    // SAFETY: the caller promises that it is null or ours, and used by nobody else.
    let options = unsafe { options.as_mut() };
    let outcome = options.ok_or_else(|| Failure::new(PrResult::Argument, "options is null"));
    told(outcome.and_then(|options| change(&mut options.0)))
}

/// Sets the user name and the password; the password may hold any bytes.
///
/// # Safety
/// `options` is from pr_options_new(), `username` a text, `password` has `password_len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pr_options_credentials(
    options: *mut PrOptions,
    username: *const c_char,
    password: *const u8,
    password_len: usize,
) -> PrResult {
    let set = |options: &mut Options| {
        // SAFETY: the caller promises a text.
        options.username = Some(unsafe { text(username, "username") }?.to_owned());
        // SAFETY: the caller promises the length.
        options.password = Some(unsafe { bytes(password, password_len, "password") }?);
        Ok(())
    };
    // SAFETY: the caller promises options.
    unsafe { change(options, set) }
}

/// Turns TLS on. `ca_file`: PEM of the authorities to trust, null for the system's. `cert_file` and `key_file`: PEM of the client's
/// certificate and key, both null for none.
///
/// # Safety
/// `options` is from pr_options_new(), the others are null or texts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pr_options_tls(
    options: *mut PrOptions,
    ca_file: *const c_char,
    cert_file: *const c_char,
    key_file: *const c_char,
) -> PrResult {
    let path = |given: *const c_char, what| {
        // SAFETY: the caller promises a text where it is not null.
        (!given.is_null()).then(|| unsafe { text(given, what) }.map(PathBuf::from)).transpose()
    };
    let set = |options: &mut Options| {
        let identity = match (path(cert_file, "cert_file")?, path(key_file, "key_file")?) {
            (Some(cert_file), Some(key_file)) => Some(TlsIdentity { cert_file, key_file }),
            (None, None) => None,
            _ => {
                return Err(Failure::new(
                    PrResult::Argument,
                    "cert_file and key_file go together: one is null",
                ));
            }
        };
        let ca_file = path(ca_file, "ca_file")?;
        options.tls = Some(TlsOptions { ca_file, identity, ..TlsOptions::default() });
        Ok(())
    };
    // SAFETY: the caller promises options.
    unsafe { change(options, set) }
}

/// Gives the client a disk queue for pr_enqueue() in the folder `dir`, of at most `bytes_max` bytes.
///
/// # Safety
/// `options` is from pr_options_new(), `dir` a text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pr_options_queue(
    options: *mut PrOptions,
    dir: *const c_char,
    bytes_max: u64,
) -> PrResult {
    let set = |options: &mut Options| {
        // SAFETY: the caller promises a text.
        let dir = unsafe { text(dir, "dir") }?;
        options.queue = Some(QueueOptions::new(dir, bytes_max));
        Ok(())
    };
    // SAFETY: the caller promises options.
    unsafe { change(options, set) }
}

/// Sets the Keep Alive in seconds; 0 = off.
///
/// # Safety
/// `options` is from pr_options_new().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pr_options_keep_alive(options: *mut PrOptions, seconds: u16) -> PrResult {
    let set = |options: &mut Options| {
        options.keep_alive_s = seconds;
        Ok(())
    };
    // SAFETY: the caller promises options.
    unsafe { change(options, set) }
}
