//! The opening handshake of a WebSocket (RFC 6455, section 4.2): from an HTTP request to frames, or a refusal
//! that says what to do.

use std::net::Ipv6Addr;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine, engine::general_purpose::STANDARD};

/// The longest request that is read.
pub(crate) const REQUEST_BYTES_MAX: usize = 8 * 1024;

/// Header lines of a request.
const HEADERS_MAX: usize = 64;

/// What every server appends to the client's key (RFC 6455, section 1.3).
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Subprotocols that are MQTT, as the server would choose: the second is the old name.
const PROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// What a listener lets in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules<'a> {
    /// The path of the WebSocket.
    pub(crate) path: &'a str,
    /// Pages that may connect; empty is the default of `origins`.
    pub(crate) origins: &'a [String],
    /// Whether only this machine can reach the listener.
    pub(crate) is_loopback_only: bool,
}

/// What of a request matters.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// That of HTTP/1.
    pub(crate) minor_version: u8,
    /// Names in lower case, and values.
    pub(crate) headers: Vec<(String, String)>,
}

/// What a request is answered with when it may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) key: String,
    pub(crate) protocol: &'static str,
}

/// What a request is answered with otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) reason: &'static str,
    /// One more header, where the status asks for it.
    pub(crate) header: Option<(&'static str, &'static str)>,
    pub(crate) what: String,
}

impl Refusal {
    fn new(status: u16, reason: &'static str, what: impl Into<String>) -> Self {
        Self { status, reason, header: None, what: what.into() }
    }

    fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.header = Some((name, value));
        self
    }
}

/// Reads a request off what has come; returns it with its length, or nothing while it is not whole.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Request, usize)>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let headers = request.headers.iter().map(|h| (h.name.to_ascii_lowercase(), text(h.value)));
            let request = Request {
                method: request.method.unwrap_or_default().to_owned(),
                target: request.path.unwrap_or_default().to_owned(),
                minor_version: request.version.unwrap_or_default(),
                headers: headers.collect(),
            };
            Ok(Some((request, len)))
        }
        Ok(httparse::Status::Partial) if bytes.len() >= REQUEST_BYTES_MAX => {
            let what = format!("a request is at most {REQUEST_BYTES_MAX} bytes long");
            Err(Refusal::new(431, "Request Header Fields Too Large", what))
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            let what = format!("a request has at most {HEADERS_MAX} header lines");
            Err(Refusal::new(431, "Request Header Fields Too Large", what))
        }
        Err(error) => Err(Refusal::new(400, "Bad Request", format!("no HTTP request: {error}"))),
    }
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.trim())
    }

    /// The members of all headers of this name, which are lists.
    fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let of_name = self.headers.iter().filter(move |(known, _)| known == name);
        of_name.flat_map(|(_, value)| value.split(',')).map(str::trim).filter(|member| !member.is_empty())
    }

    /// Judges it.
    pub(crate) fn judge(&self, rules: &Rules<'_>) -> Result<Accepted, Refusal> {
        let path = self.target.split('?').next().unwrap_or_default();
        if path != rules.path {
            let what = format!("MQTT over WebSocket is at {}", rules.path);
            return Err(Refusal::new(404, "Not Found", what));
        }
        if self.method != "GET" {
            let what = "a WebSocket begins with GET";
            return Err(Refusal::new(405, "Method Not Allowed", what).with("Allow", "GET"));
        }
        if self.minor_version == 0 {
            let what = "a WebSocket begins with HTTP/1.1";
            return Err(Refusal::new(426, "Upgrade Required", what).with("Upgrade", "websocket"));
        }
        let has = |name, wanted: &str| self.list(name).any(|member| member.eq_ignore_ascii_case(wanted));
        if !has("upgrade", "websocket") || !has("connection", "upgrade") {
            let what = "this is the WebSocket of an MQTT broker: connect with an MQTT client";
            return Err(Refusal::new(426, "Upgrade Required", what).with("Upgrade", "websocket"));
        }
        if self.header("sec-websocket-version") != Some("13") {
            let what = "WebSocket version 13 is served";
            return Err(Refusal::new(426, "Upgrade Required", what).with("Sec-WebSocket-Version", "13"));
        }
        let key = self.header("sec-websocket-key").unwrap_or_default();
        if STANDARD.decode(key).ok().is_none_or(|bytes| bytes.len() != 16) {
            let what = "Sec-WebSocket-Key is not 16 bytes in base64";
            return Err(Refusal::new(400, "Bad Request", what));
        }
        // [MQTT-6.0.0-3] clients offer "mqtt"; [MQTT-6.0.0-4], [MQTT-6.0.0-4] (3.1.1) the server chooses what was offered.
        let offered: Vec<_> = self.list("sec-websocket-protocol").collect();
        let Some(protocol) = PROTOCOLS.into_iter().find(|known| offered.contains(known)) else {
            let what = format!("the client offers the subprotocols {offered:?}, \"mqtt\" is not among them");
            return Err(Refusal::new(400, "Bad Request", what));
        };
        self.check_origin(rules)?;
        Ok(Accepted { key: accept_key(key), protocol })
    }

    /// Only browsers name an origin, and always do: a page must not reach, through the browser of who looks at it,
    /// what only that machine can reach.
    fn check_origin(&self, rules: &Rules<'_>) -> Result<(), Refusal> {
        let Some(origin) = self.header("origin") else { return Ok(()) };
        let is_allowed = if rules.origins.is_empty() {
            !rules.is_loopback_only || is_of_this_machine(origin)
        } else {
            rules.origins.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin))
        };
        if is_allowed {
            return Ok(());
        }
        let what = format!("pages of {origin:?} may not connect; `origins` of the listener can allow them");
        Err(Refusal::new(403, "Forbidden", what))
    }
}

/// Says whether an origin is a page that this machine serves itself.
fn is_of_this_machine(origin: &str) -> bool {
    let Some((_, authority)) = origin.split_once("://") else { return false };
    if let Some(rest) = authority.strip_prefix('[') {
        let ip = rest.split(']').next().unwrap_or_default();
        return ip.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback());
    }
    let host = authority.split(':').next().unwrap_or_default();
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
}

/// Computes Sec-WebSocket-Accept.
fn accept_key(key: &str) -> String {
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), MAGIC].concat()))
}

impl Accepted {
    /// The headers of the answer, in which the switch is said.
    pub(crate) fn headers(&self) -> [(&'static str, &str); 4] {
        [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", &self.key),
            ("Sec-WebSocket-Protocol", self.protocol),
        ]
    }

    /// Writes the answer.
    pub(crate) fn response(&self) -> String {
        let headers = self.headers().map(|(name, value)| format!("{name}: {value}\r\n")).concat();
        format!("HTTP/1.1 101 Switching Protocols\r\n{headers}\r\n")
    }
}

impl Refusal {
    /// Writes the answer, after which the connection ends.
    pub(crate) fn response(&self) -> String {
        let Self { status, reason, header, what } = self;
        let header = header.map_or(String::new(), |(name, value)| format!("{name}: {value}\r\n"));
        let length = what.len() + 1;
        format!(
            "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: {length}\r\nConnection: close\r\n{header}\r\n{what}\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules<'_> = Rules { path: "/mqtt", origins: &[], is_loopback_only: true };

    /// A good request, each line of which may be replaced.
    fn request(replace: &[(&str, &str)]) -> String {
        let mut lines = [
            ("GET", "GET /mqtt HTTP/1.1"),
            ("Host", "Host: localhost"),
            ("Upgrade", "Upgrade: WebSocket"),
            ("Connection", "Connection: keep-alive, Upgrade"),
            ("Key", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
            ("Version", "Sec-WebSocket-Version: 13"),
            ("Protocol", "Sec-WebSocket-Protocol: other, mqtt"),
            ("Origin", ""),
        ];
        for (name, line) in replace {
            lines.iter_mut().find(|(known, _)| known == name).unwrap().1 = line;
        }
        let lines: Vec<_> = lines.iter().map(|(_, line)| *line).filter(|line| !line.is_empty()).collect();
        format!("{}\r\n\r\n", lines.join("\r\n"))
    }

    fn judge(text: &str, rules: &Rules<'_>) -> Result<Accepted, Refusal> {
        let (request, len) = parse(text.as_bytes())?.expect("a whole request");
        assert_eq!(len, text.len());
        request.judge(rules)
    }

    /// RFC 6455, section 1.3, has this key and its answer. [MQTT-6.0.0-3] [MQTT-6.0.0-4]
    #[test]
    fn a_good_request_is_answered_with_its_key_and_the_subprotocol() {
        let accepted = judge(&request(&[]), &RULES).unwrap();
        assert_eq!(
            accepted.response(),
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
        );
        let old = judge(&request(&[("Protocol", "Sec-WebSocket-Protocol: mqttv3.1")]), &RULES).unwrap();
        assert_eq!(old.protocol, "mqttv3.1");
        let query = judge(&request(&[("GET", "GET /mqtt?a=b HTTP/1.1")]), &RULES);
        assert!(query.is_ok());
    }

    #[test]
    fn a_request_may_come_in_pieces() {
        let text = request(&[]);
        for len in 0..text.len() {
            assert_eq!(parse(&text.as_bytes()[..len]).unwrap().map(|(_, len)| len), None);
        }
    }

    #[test]
    fn a_bad_request_is_refused_with_the_status_that_says_why() {
        for (name, line, status) in [
            ("GET", "GET /other HTTP/1.1", 404),
            ("GET", "GET /mqtt/ HTTP/1.1", 404),
            ("GET", "POST /mqtt HTTP/1.1", 405),
            ("GET", "GET /mqtt HTTP/1.0", 426),
            ("Upgrade", "", 426),
            ("Upgrade", "Upgrade: h2c", 426),
            ("Connection", "Connection: keep-alive", 426),
            ("Version", "Sec-WebSocket-Version: 8", 426),
            ("Version", "", 426),
            ("Key", "", 400),
            ("Key", "Sec-WebSocket-Key: c2hvcnQ=", 400),
            ("Key", "Sec-WebSocket-Key: !!!", 400),
            ("Protocol", "", 400),
            ("Protocol", "Sec-WebSocket-Protocol: chat, mqttx", 400),
            ("Origin", "Origin: https://evil.example", 403),
            ("Origin", "Origin: null", 403),
            ("Origin", "Origin: http://localhost.evil.example", 403),
            ("Origin", "Origin: http://127.0.0.1.evil.example", 403),
        ] {
            let refusal = judge(&request(&[(name, line)]), &RULES).unwrap_err();
            assert_eq!(refusal.status, status, "{line}: {refusal:?}");
            assert!(refusal.response().starts_with(&format!("HTTP/1.1 {status} ")));
        }
        for bytes in [&b"\x16\x03\x01\x02\x00"[..], b"\x10\x0c\x00\x04MQTT", b"GET /mqtt\r\n"] {
            assert_eq!(parse(bytes).unwrap_err().status, 400, "{bytes:?}");
        }
        let long = format!("GET /{} HTTP/1.1", "x".repeat(REQUEST_BYTES_MAX));
        assert_eq!(parse(long.as_bytes()).unwrap_err().status, 431);
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(HEADERS_MAX + 1));
        assert_eq!(parse(many.as_bytes()).unwrap_err().status, 431);
    }

    #[test]
    fn pages_connect_where_they_may() {
        let page = |origin: &str| request(&[("Origin", &format!("Origin: {origin}"))]);
        for origin in
            ["http://localhost:3000", "http://127.0.0.1:8080", "https://[::1]:9", "http://LOCALHOST"]
        {
            assert!(judge(&page(origin), &RULES).is_ok(), "{origin}");
        }
        let open = Rules { is_loopback_only: false, ..RULES };
        assert!(judge(&page("https://anywhere.example"), &open).is_ok());
        let listed = ["https://app.example".to_owned(), "null".to_owned()];
        let listed = Rules { origins: &listed, ..open };
        for (origin, is_allowed) in [
            ("https://app.example", true),
            ("null", true),
            ("http://app.example", false),
            ("https://app.example:444", false),
            ("http://localhost", false),
        ] {
            assert_eq!(judge(&page(origin), &listed).is_ok(), is_allowed, "{origin}");
        }
        assert!(judge(&request(&[]), &listed).is_ok(), "no browser, no origin");
        let any = ["*".to_owned()];
        assert!(judge(&page("null"), &Rules { origins: &any, ..RULES }).is_ok());
    }
}
