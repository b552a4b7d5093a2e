//! E-mail, through an SMTP server (RFC 5321, RFC 5322), with crate `lettre`.

use std::{path::PathBuf, time::SystemTime};

use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, MultiPart},
    transport::smtp::{
        PoolConfig,
        authentication::Credentials,
        client::{Certificate, Tls, TlsParameters},
    },
};
use serde::Deserialize;

use super::{
    channel::{quota, settings, transient},
    markup,
};
use crate::{
    config::{Secret, SinkRule},
    notice::{Notice, Severity},
    outbox::{Attempt, Verdict},
    state::Entry,
};

/// Longest text, bytes: no server that is in use takes less.
pub(crate) const TEXT_BYTES_MAX: usize = 256 * 1_024;
/// Longest subject, characters.
const SUBJECT_CHARS_MAX: usize = 200;
/// Most recipients of one sink.
const RECIPIENTS_MAX: usize = 100;

/// What e-mail is told in the configuration (`type = "email"`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Email {
    /// The SMTP server.
    pub host: String,
    /// Its port; by default that of `tls`.
    #[serde(default)]
    pub port: Option<u16>,
    /// How the connection is encrypted.
    #[serde(default)]
    pub tls: SmtpTls,
    /// The certificate authorities to trust instead of the system's, PEM.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// For servers that ask who is there.
    #[serde(default)]
    pub username: Option<String>,
    /// Its password.
    #[serde(default)]
    pub password: Option<Secret>,
    /// The sender, `Postrider <alerts@example.org>`.
    pub from: String,
    /// The recipients; a server that refuses one refuses the message.
    pub to: Vec<String>,
}

/// How a connection to an SMTP server is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SmtpTls {
    /// It begins in the clear and must be encrypted before anything is said (RFC 3207), port 587.
    #[default]
    Starttls,
    /// From the first byte (RFC 8314), port 465.
    Tls,
    /// Not at all, port 25: for a server on this host.
    None,
}

/// Sender, recipients and the part behind the `@` of ids.
#[derive(Clone, Debug)]
struct Envelope {
    from: Mailbox,
    to: Vec<Mailbox>,
    domain: String,
}

impl Email {
    /// Checks the addresses.
    ///
    /// # Errors
    /// One is none, or there are none or too many.
    fn envelope(&self) -> Result<Envelope, String> {
        let parse = |key: &str, text: &String| {
            text.parse::<Mailbox>().map_err(|error| format!("{key}: {text:?} is no address: {error}"))
        };
        let from = parse("from", &self.from)?;
        let to = self.to.iter().map(|text| parse("to", text)).collect::<Result<Vec<_>, _>>()?;
        if to.is_empty() || to.len() > RECIPIENTS_MAX {
            return Err(format!("to has {} addresses, it must have 1 to {RECIPIENTS_MAX}", to.len()));
        }
        let domain = from.email.domain().to_owned();
        Ok(Envelope { from, to, domain })
    }

    /// Checks what can be checked without a connection.
    ///
    /// # Errors
    /// As the addresses; a name without a password or the other way round; a password that would be sent in the clear.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.envelope()?;
        if self.host.is_empty() {
            return Err("host is empty, it must name an SMTP server".to_owned());
        }
        if self.username.is_some() != self.password.is_some() {
            return Err("username and password go together: one of them is missing".to_owned());
        }
        let is_here = matches!(self.host.as_str(), "localhost" | "127.0.0.1" | "::1");
        if self.tls == SmtpTls::None && self.password.is_some() && !is_here {
            return Err("tls = \"none\" would send the password in the clear: use starttls or tls".to_owned());
        }
        Ok(())
    }
}

/// An SMTP server and the connections to it.
#[derive(Debug)]
pub(crate) struct EmailSink {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    envelope: Envelope,
}

impl EmailSink {
    /// Prepares connections; none is made yet.
    ///
    /// # Errors
    /// An address is none, or the certificate authorities cannot be read.
    pub(crate) fn new(rule: &SinkRule, email: &Email) -> Result<EmailSink, String> {
        let tls = |wrap: fn(TlsParameters) -> Tls| -> Result<Tls, String> {
            // One provider everywhere; that somebody installed it already is as good.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
            let mut parameters = TlsParameters::builder(email.host.clone());
            if let Some(path) = &email.ca_file {
                let fail = |what: String| format!("ca_file {}: {what}", path.display());
                let pem = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
                let certificate = Certificate::from_pem(&pem).map_err(|error| fail(error.to_string()))?;
                parameters = parameters.add_root_certificate(certificate);
            }
            parameters.build_rustls().map(wrap).map_err(|error| error.to_string())
        };
        let (tls, port) = match email.tls {
            SmtpTls::Starttls => (tls(Tls::Required)?, 587),
            SmtpTls::Tls => (tls(Tls::Wrapper)?, 465),
            SmtpTls::None => (Tls::None, 25),
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&email.host)
            .port(email.port.unwrap_or(port))
            .tls(tls)
            .timeout(Some(rule.timeout))
            .pool_config(PoolConfig::new().max_size(1));
        if let (Some(username), Some(password)) = (&email.username, &email.password) {
            builder = builder.credentials(Credentials::new(username.clone(), password.0.clone()));
        }
        Ok(EmailSink { transport: builder.build(), envelope: email.envelope()? })
    }
}

impl Attempt for EmailSink {
    async fn attempt(&mut self, entry: &Entry) -> Verdict {
        let message = match letter(&self.envelope, &Notice::of(entry)) {
            Ok(message) => message,
            Err(error) => return Verdict::Never { why: format!("no e-mail can be made of it: {error}") },
        };
        match self.transport.send(message).await {
            Ok(_) => Verdict::Delivered,
            Err(error) => judge(error.status().map(u16::from), &error.to_string(), error.is_tls()),
        }
    }
}

/// Makes the e-mail of a message. Its id follows from the message's, so that a repeat has the same; all of one alert are one thread.
fn letter(envelope: &Envelope, notice: &Notice) -> Result<Message, lettre::error::Error> {
    let at = |name: &str| format!("<{name}@{}>", envelope.domain);
    let urgency = if notice.severity == Severity::Critical { "[critical] " } else { "" };
    let title: String = notice.title.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut builder = Message::builder()
        .from(envelope.from.clone())
        .subject(markup::cut_chars(&format!("{urgency}{title}"), SUBJECT_CHARS_MAX))
        .message_id(Some(at(&notice.id)))
        .date(SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(notice.ts_ms));
    for recipient in &envelope.to {
        builder = builder.to(recipient.clone());
    }
    if let Some(thread) = notice.alert.as_ref().or(notice.device.as_ref()) {
        let word: String =
            thread.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '.' }).collect();
        builder = builder.references(at(&format!("thread-{word}")));
    }
    let text = markup::cut_bytes(&notice.text, TEXT_BYTES_MAX);
    let html = format!("<p>{}</p>", markup::html(&text).replace('\n', "<br>"));
    builder.multipart(MultiPart::alternative_plain_html(text, html))
}

/// Judges an answer (RFC 5321 section 4.2.1, RFC 4954 section 6).
fn judge(code: Option<u16>, words: &str, is_tls: bool) -> Verdict {
    let why = format!("the SMTP server: {}", markup::cut_chars(words, 300));
    let lower = words.to_lowercase();
    match code {
        None if is_tls => settings(why),
        // Authentication, or none where one is needed; the sender is not allowed.
        Some(530..=538) => settings(why),
        Some(400..=499) if ["rate", "quota", "too many"].iter().any(|word| lower.contains(word)) => {
            quota(why, None)
        }
        Some(500..=599) => Verdict::Never { why },
        _ => transient(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::channel::tests::{notice, word};

    pub(crate) fn email(to: &str) -> Email {
        Email {
            host: "127.0.0.1".into(),
            port: None,
            tls: SmtpTls::None,
            ca_file: None,
            username: None,
            password: None,
            from: "Postrider <alerts@fleet.example>".into(),
            to: vec![to.into()],
        }
    }

    #[test]
    fn a_letter_has_its_own_id_and_the_thread_of_its_alert() {
        let letter = letter(&email("ops@fleet.example").envelope().unwrap(), &notice()).unwrap();
        let text = String::from_utf8(letter.formatted()).unwrap();
        for line in [
            "Message-ID: <ev-1@fleet.example>",
            "References: <thread-al-1@fleet.example>",
            "Subject: [critical] truck_7 <left>",
            "To: ops@fleet.example",
            "Date: Thu, 26 Nov 2026 12:00:00 +0000",
            "<p>it is *183 m* off &amp; away</p>",
        ] {
            assert!(text.contains(line), "{line}:\n{text}");
        }
    }

    #[test]
    fn a_title_cannot_add_headers() {
        let mut evil = notice();
        evil.title = "x\r\nBcc: everybody@example.org".to_owned();
        let text =
            String::from_utf8(letter(&email("a@b.example").envelope().unwrap(), &evil).unwrap().formatted())
                .unwrap();
        assert!(!text.lines().any(|line| line.starts_with("Bcc")), "{text}");
    }

    #[test]
    fn answers_are_told_apart() {
        for (code, words, want) in [
            (Some(421), "service not available", "transient"),
            (Some(450), "4.7.1 rate limit exceeded", "quota"),
            (Some(452), "too many recipients", "quota"),
            (Some(535), "authentication credentials invalid", "settings"),
            (Some(530), "Must issue a STARTTLS command first", "settings"),
            (Some(550), "no such user", "never"),
            (Some(554), "transaction failed", "never"),
            (None, "connection refused", "transient"),
        ] {
            assert_eq!(word(&judge(code, words, false)).0, want, "{code:?} {words}");
        }
        assert_eq!(word(&judge(None, "invalid peer certificate", true)).0, "settings");
    }

    #[test]
    fn what_is_wrong_is_told_before_anything_is_sent() {
        assert!(email("nobody").check().unwrap_err().contains("\"nobody\" is no address"));
        let mut clear = Email { host: "mail.example".into(), ..email("a@b.example") };
        (clear.username, clear.password) = (Some("u".into()), Some(Secret("p".into())));
        assert!(clear.check().unwrap_err().contains("in the clear"));
        clear.tls = SmtpTls::Starttls;
        assert_eq!(clear.check(), Ok(()));
        clear.password = None;
        assert!(clear.check().unwrap_err().contains("go together"));
    }
}
