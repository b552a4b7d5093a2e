//! An address to listen on, as people write it: `HOST:PORT`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A host name or IP address and a port; IPv6 addresses stand in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPort {
    host: String,
    port: u16,
}

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No `:`.
    #[error("{0:?} has no port, expected HOST:PORT such as 127.0.0.1:1883")]
    NoPort(String),
    /// No host before the `:`.
    #[error("{0:?} has no host, expected HOST:PORT such as 127.0.0.1:1883 (0.0.0.0 for every interface)")]
    NoHost(String),
    /// An IPv6 address without brackets, or brackets around something else.
    #[error("{0:?} is ambiguous, expected an IPv6 address as [ADDRESS]:PORT such as [::1]:1883")]
    Brackets(String),
    /// The port is no number of 0 to 65,535.
    #[error("{port:?} in {text:?} is no port, expected 0 to 65535")]
    Port {
        /// The whole text.
        text: String,
        /// What stood after the `:`.
        port: String,
    },
}

impl HostPort {
    /// Makes an address from its parts.
    pub fn new(host: &str, port: u16) -> Self {
        Self { host: host.to_owned(), port }
    }

    /// Returns the host, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for HostPort {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (host, port) = text.rsplit_once(':').ok_or_else(|| AddressError::NoPort(text.to_owned()))?;
        let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if host.contains([':', '[', ']'])
            && inner.is_none_or(|inner| inner.parse::<std::net::Ipv6Addr>().is_err())
        {
            return Err(AddressError::Brackets(text.to_owned()));
        }
        if host.is_empty() {
            return Err(AddressError::NoHost(text.to_owned()));
        }
        let port =
            port.parse().map_err(|_| AddressError::Port { text: text.to_owned(), port: port.to_owned() })?;
        Ok(Self { host: inner.unwrap_or(host).to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl TryFrom<String> for HostPort {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<HostPort> for String {
    fn from(address: HostPort) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_written_the_same() {
        for text in ["127.0.0.1:1883", "localhost:0", "0.0.0.0:65535", "[::1]:1883", "broker.example:80"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_is_wrong() {
        for (text, message) in [
            ("1883", "\"1883\" has no port"),
            (":1883", "has no host"),
            ("::1:1883", "is ambiguous"),
            ("[x]:1883", "is ambiguous"),
            ("localhost:", "\"\" in \"localhost:\" is no port"),
            ("localhost:70000", "expected 0 to 65535"),
        ] {
            let error = text.parse::<HostPort>().unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }
}
