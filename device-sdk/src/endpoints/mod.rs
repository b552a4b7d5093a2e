//! The way to a broker: addresses, what to try when one does not answer, and what to remember of it.
//!
//! - [`Endpoint`] and [`Ladder`]: one address, and the ways that it stands for.
//! - `book`: the order of the ways; what the broker's references and past failures do to it. Pure.
//! - `race`: attempts side by side (RFC 8305). Knows no sockets.
//! - `memory`: the file of what worked on which network.
//! - [`Proxy`], `web_socket`: what lies between TCP and MQTT besides TLS.
//! - `dial`: puts them together.

mod book;
mod dial;
mod endpoint;
#[cfg(any(feature = "proxy", feature = "websocket"))]
mod http_head;
mod memory;
mod proxy;
mod race;
#[cfg(feature = "websocket")]
mod web_socket;

use std::path::PathBuf;

pub use endpoint::{Carrier, Endpoint, EndpointError, Ladder};
pub use proxy::{Proxy, ProxyError};

pub(crate) use book::Referral;
pub(crate) use dial::{Dialer, Dialing, Duplex, Ended, Layers, Stream};

use crate::StartError;
use book::ENDPOINTS_MAX;

/// Longest name of a network that the broker takes, bytes.
pub(crate) const NETWORK_BYTES_MAX: usize = memory::NETWORK_BYTES_MAX;

/// How a client looks for its broker, besides the first address.
///
/// ```
/// use device_sdk::Options;
/// let mut options = Options::new("mqtts://eu.broker.example", "truck-7");
/// // Tried beside the first one when that does not answer within a quarter of a second.
/// options.reach.alternatives = vec!["mqtts://us.broker.example".to_owned()];
/// // After a restart the device begins with what worked on this network.
/// options.reach.memory_file = Some("/var/lib/gateway/reach.json".into());
/// options.user_properties.push(("im-net".to_owned(), "carrier-lte".to_owned()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReachOptions {
    /// More addresses of the same broker, at most 15: `host:port` or URLs.
    pub alternatives: Vec<String>,
    /// What an address without a port stands for.
    pub ladder: Ladder,
    /// How long an address has before the next one is tried beside it, milliseconds (RFC 8305: 250).
    pub address_delay_ms: u64,
    /// A proxy that all connections go through.
    pub proxy: Option<Proxy>,
    /// File that remembers which way worked on which network, named by the user property `im-net` or
    /// [`crate::Client::set_network`], and where the broker moved to; `None` = remembered until the program ends.
    pub memory_file: Option<PathBuf>,
}

impl Default for ReachOptions {
    fn default() -> Self {
        Self {
            alternatives: Vec::new(),
            ladder: Ladder::default(),
            address_delay_ms: 250,
            proxy: None,
            memory_file: None,
        }
    }
}

impl Carrier {
    /// Says whether this build of the crate can use it.
    fn is_supported(self) -> bool {
        (cfg!(feature = "tls") || !self.is_secure()) && (cfg!(feature = "websocket") || !self.is_web_socket())
    }
}

/// Reads all addresses of the options: those without a scheme get TLS when `with_tls`, and no other may be without it then.
pub(crate) fn read_addresses(
    first: &str,
    reach: &ReachOptions,
    with_tls: bool,
) -> Result<Vec<Endpoint>, StartError> {
    let bad = |what: String| StartError::Options { what };
    let count = 1 + reach.alternatives.len();
    if count > ENDPOINTS_MAX {
        return Err(bad(format!("{count} broker addresses are given, the limit is {ENDPOINTS_MAX}")));
    }
    if reach.proxy.is_some() && !cfg!(feature = "proxy") {
        return Err(bad(
            "this build has no proxies: enable the feature \"proxy\" of the device SDK".to_owned()
        ));
    }
    let texts = std::iter::once(first).chain(reach.alternatives.iter().map(String::as_str));
    let read = |text: &str| {
        let mut endpoint: Endpoint = text.parse().map_err(|error: EndpointError| bad(error.to_string()))?;
        if with_tls && !text.contains("://") {
            endpoint = endpoint.secured();
        }
        let carrier = endpoint.carrier;
        if with_tls && !carrier.is_secure() {
            return Err(bad(format!(
                "broker address {endpoint} is without TLS although TLS options are given: \
                 write mqtts:// or wss://, or leave the TLS options out"
            )));
        }
        if !carrier.is_supported() {
            return Err(bad(format!(
                "broker address {endpoint} needs a feature of the device SDK that this build lacks: \
                 enable \"tls\" and \"websocket\""
            )));
        }
        Ok(endpoint)
    };
    texts.map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(first: &str, with_tls: bool) -> Result<String, String> {
        let endpoints = read_addresses(first, &ReachOptions::default(), with_tls);
        endpoints.map(|endpoints| endpoints[0].to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn tls_options_make_addresses_secure_and_contradict_plain_urls() {
        assert_eq!(read("h:1", false), Ok("mqtt://h:1".to_owned()));
        assert_eq!(read("h:1", true), Ok("mqtts://h:1".to_owned()));
        assert_eq!(read("wss://h", true), Ok("wss://h/mqtt".to_owned()));
        assert_eq!(read("mqtts://h", false), Ok("mqtts://h".to_owned()));
        for plain in ["mqtt://h:1", "ws://h"] {
            assert!(read(plain, true).is_err_and(|error| error.contains("is without TLS although")));
        }
    }

    #[test]
    fn addresses_are_bounded() {
        let mut reach = ReachOptions { alternatives: vec!["h:1".to_owned(); 15], ..ReachOptions::default() };
        assert_eq!(read_addresses("h:1", &reach, false).map(|all| all.len()).ok(), Some(16));
        reach.alternatives.push("h:1".to_owned());
        let error = read_addresses("h:1", &reach, false).unwrap_err().to_string();
        assert!(error.contains("17 broker addresses"), "{error}");
    }
}
