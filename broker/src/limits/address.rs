//! Addresses as the limits see them: what stands for one peer, and lists of networks.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The list without networks, in text.
const NONE: &str = "none";

/// Networks a list may have.
const NETWORKS_MAX: usize = 1_000;

/// Bits of an IPv6 address that one customer of a provider has at least: they stand for one peer.
const PEER_BITS_V6: u8 = 64;

/// What stands for one peer: an IPv4 address, or an IPv6 network of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct AddressKey(IpAddr);

impl AddressKey {
    /// Returns the peer of an address.
    pub(crate) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(mask(v6.to_bits(), PEER_BITS_V6, 128))),
            v4 => v4,
        })
    }
}

impl fmt::Display for AddressKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(v4) => v4.fmt(f),
            IpAddr::V6(v6) => write!(f, "{v6}/{PEER_BITS_V6}"),
        }
    }
}

impl FromStr for AddressKey {
    type Err = std::net::AddrParseError;

    /// Takes an address, or a network as [`AddressKey`] writes it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_suffix("/64").unwrap_or(text).parse().map(Self::of)
    }
}

/// Addresses and networks, in text separated by commas: `10.0.0.0/8, 2001:db8::/32, 192.0.2.7`, or `none`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<Network>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u8,
}

/// Why a list of networks is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworksError {
    /// An entry is no network.
    #[error("{0:?} is no address or network, expected for instance 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32")]
    Entry(String),
    /// The list is too long.
    #[error("{0} networks, allowed are {NETWORKS_MAX}")]
    Count(usize),
}

impl Networks {
    /// Says whether the address is in one of the networks.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(address))
    }
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let width = width(address);
        let bits = bits.unwrap_or(width);
        (bits <= width).then_some(Self { address, bits })
    }

    fn contains(self, address: IpAddr) -> bool {
        let head = |address| match address {
            IpAddr::V4(v4) => mask(u128::from(v4.to_bits()), self.bits, 32),
            IpAddr::V6(v6) => mask(v6.to_bits(), self.bits, 128),
        };
        width(address) == width(self.address) && head(address) == head(self.address)
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Keeps the first `bits` of `width`.
fn mask(value: u128, bits: u8, width: u8) -> u128 {
    let cut = u32::from(width.saturating_sub(bits));
    value.checked_shr(cut).and_then(|kept| kept.checked_shl(cut)).unwrap_or(0)
}

impl FromStr for Networks {
    type Err = NetworksError;

    fn from_str(text: &str) -> Result<Self, NetworksError> {
        if text.trim() == NONE {
            return Ok(Self::default());
        }
        let entries: Vec<_> = text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).collect();
        if entries.len() > NETWORKS_MAX {
            return Err(NetworksError::Count(entries.len()));
        }
        let network =
            |entry: &str| Network::parse(entry).ok_or_else(|| NetworksError::Entry(entry.to_owned()));
        entries.into_iter().map(network).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(NONE);
        }
        for (i, network) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            write!(f, "{separator}{}", network.address)?;
            if network.bits != width(network.address) {
                write!(f, "/{}", network.bits)?;
            }
        }
        Ok(())
    }
}

impl Serialize for Networks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Networks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_an_ipv4_address_or_an_ipv6_network() {
        for (address, peer) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("::1", "::/64"),
        ] {
            let key = AddressKey::of(address.parse().unwrap());
            assert_eq!(key.to_string(), peer);
            assert_eq!(peer.parse(), Ok(key));
            assert_eq!(address.parse(), Ok(key));
        }
        assert!("x".parse::<AddressKey>().is_err());
    }

    #[test]
    fn networks_contain_what_their_bits_say() {
        let networks: Networks = "10.0.0.0/8, 192.0.2.7,2001:db8::/33 , ".parse().unwrap();
        assert_eq!(networks.to_string(), "10.0.0.0/8, 192.0.2.7, 2001:db8::/33");
        for (address, inside) in [
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("::ffff:10.1.1.1", true),
            ("2001:db8:7fff::", true),
            ("2001:db8:8000::", false),
        ] {
            assert_eq!(networks.contains(address.parse().unwrap()), inside, "{address}");
        }
        let all: Networks = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("203.0.113.9".parse().unwrap()));
        assert!(!all.contains("2001:db8::".parse().unwrap()));
        let none = Networks::default();
        assert!(!none.contains("10.0.0.1".parse().unwrap()));
        assert_eq!((none.to_string().as_str(), "none".parse()), ("none", Ok(none)));
    }

    #[test]
    fn what_is_no_network_is_told() {
        for text in ["10.0.0.0/33", "10.0.0/8", "x", "::/129", "1.2.3.4/", "1.2.3.4/-1"] {
            let error = text.parse::<Networks>().unwrap_err();
            assert_eq!(error, NetworksError::Entry(text.to_owned()));
        }
        let long = "10.0.0.1,".repeat(NETWORKS_MAX + 1);
        assert_eq!(long.parse::<Networks>(), Err(NetworksError::Count(NETWORKS_MAX + 1)));
    }
}
