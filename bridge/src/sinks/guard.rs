//! Which addresses a sink may lead to: an address that a name stands for today may be another machine's tomorrow, and inside a network there
//! are servers that trust whoever reaches them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

/// Whether a sink may be at an address. A name may lead to addresses of this host and of private networks only if the sink says so; to
/// link-local ones, behind which clouds keep their keys, and to those that are no single host's nothing may.
pub(super) fn is_allowed(ip: IpAddr, private: bool) -> bool {
    match ip {
        IpAddr::V4(ip) => is_allowed_v4(ip, private),
        IpAddr::V6(ip) => {
            let head = ip.segments()[0];
            // NAT64 (RFC 6052) leads to the address in its last bytes.
            let translated = (ip.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0]).then(|| {
                let [.., a, b, c, d] = ip.octets();
                Ipv4Addr::new(a, b, c, d)
            });
            if let Some(inner) = ip.to_ipv4_mapped().or(translated) {
                return is_allowed_v4(inner, private);
            }
            let is_link_local = head & 0xffc0 == 0xfe80;
            let is_inside = ip.is_loopback() || head & 0xfe00 == 0xfc00;
            !ip.is_unspecified() && !ip.is_multicast() && !is_link_local && (private || !is_inside)
        }
    }
}

fn is_allowed_v4(ip: Ipv4Addr, private: bool) -> bool {
    let [a, b, ..] = ip.octets();
    let is_shared = a == 100 && b & 0xc0 == 64;
    let is_inside = ip.is_loopback() || ip.is_private() || is_shared;
    a != 0 && a < 224 && !ip.is_link_local() && (private || !is_inside)
}

/// Checks an address that is written as a number: it is never resolved. Whoever wrote one of this host or of a private network meant it.
///
/// # Errors
/// It is one that no sink may lead to.
pub(super) fn check(url: &Url) -> Result<(), String> {
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(ip) if !is_allowed(ip, true) => Err(refused(host, ip, true)),
        _ => Ok(()),
    }
}

fn refused(host: &str, ip: IpAddr, private: bool) -> String {
    if private {
        format!("{host} leads to {ip}, which is link-local or no single host's: no sink may be there")
    } else {
        format!(
            "{host} leads to {ip}, which is on this host, in a private network or link-local: if that is meant, say private = true"
        )
    }
}

/// Resolves names for a sink, and leaves out what it may not lead to: what is checked is what is connected to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guarded {
    pub(super) private: bool,
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        // It is this host's name for itself, and as clear as its number.
        let private = self.private || name.as_str() == "localhost";
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let first = found.first().copied();
            let allowed: Vec<_> = found.into_iter().filter(|addr| is_allowed(addr.ip(), private)).collect();
            match first {
                Some(first) if allowed.is_empty() => Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    refused(name.as_str(), first.ip(), private),
                )
                .into()),
                _ => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_inside_are_for_sinks_that_say_so_and_link_local_ones_for_none() {
        for (ip, by_default, private) in [
            ("93.184.216.34", true, true),
            ("2606:2800:220:1::1", true, true),
            ("127.0.0.1", false, true),
            ("10.1.2.3", false, true),
            ("172.16.0.1", false, true),
            ("192.168.1.1", false, true),
            ("100.64.0.1", false, true),
            ("::1", false, true),
            ("fd00::1", false, true),
            ("::ffff:10.0.0.1", false, true),
            ("64:ff9b::a00:1", false, true),
            ("169.254.169.254", false, false),
            ("::ffff:169.254.169.254", false, false),
            ("64:ff9b::a9fe:a9fe", false, false),
            ("fe80::1", false, false),
            ("0.0.0.0", false, false),
            ("::", false, false),
            ("224.0.0.1", false, false),
            ("255.255.255.255", false, false),
            ("ff02::1", false, false),
        ] {
            let parsed = ip.parse().unwrap();
            assert_eq!((is_allowed(parsed, false), is_allowed(parsed, true)), (by_default, private), "{ip}");
        }
    }

    #[test]
    fn an_address_in_a_url_is_checked_however_it_is_written() {
        for url in [
            "http://169.254.169.254/",
            "http://2852039166/",
            "http://0xa9.0xfea9fe/",
            "http://[::ffff:a9fe:a9fe]/",
            "http://0/",
        ] {
            let why = check(&Url::parse(url).unwrap()).expect_err(url);
            assert!(why.contains("no sink may be there"), "{why}");
        }
        for url in ["https://hooks.example/", "http://127.0.0.1:9000/", "http://[::1]/", "http://10.0.0.1/"] {
            assert_eq!(check(&Url::parse(url).unwrap()), Ok(()), "{url}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_inside_is_not_resolved() {
        let resolve = |name: &str, private| Guarded { private }.resolve(name.parse().unwrap());
        // Every resolver knows it however it is written; only the name itself is clear.
        let Err(why) = resolve("LOCALHOST", false).await else { panic!("it is inside") };
        assert!(why.to_string().contains("private = true"), "{why}");
        assert!(resolve("LOCALHOST", true).await.unwrap().count() > 0);
        assert!(resolve("localhost", false).await.unwrap().count() > 0);
    }
}
