//! The broker's configuration: one struct, strict, with every setting documented exactly once.
//!
//! Each setting is declared once below with its documentation, default and range; the struct, the
//! checks, `configs/postrider.toml` and `postrider config print` all come from that declaration.
//! [`Sources::load`] merges, in rising priority: defaults, a TOML file, environment variables
//! (`POSTRIDER_` + section + `__` + key, upper case), command line flags.
//!
//! Invariant: a [`Config`] from [`Sources::load`] has passed every check; nothing later needs to
//! doubt a value.

mod address;
mod bounds;
mod conversation;
mod error;
mod listener;
mod load;
mod render;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use address::{AddressError, HostPort};
pub use bounds::{Bounds, UserLimit};
use conversation::default_conversations;
pub(crate) use conversation::{CONVERSATION_DOC, CONVERSATION_KEYS, CONVERSATIONS_RULES_MAX};
pub use conversation::{ConversationRule, Priority, Receipts};
pub use error::{ConfigError, Problem};
pub use listener::{
    ClientCertificateMode, FileMode, Identity, ListenAddress, ListenerConfig, TlsVersion, Transport,
};
pub use load::{Loaded, Origin, Sources};
pub use render::reference;

pub use crate::limits::{Counted, Networks, NetworksError};

/// One setting: where it is, what it means, what it may be.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The TOML section.
    pub section: &'static str,
    /// The key in it.
    pub name: &'static str,
    /// Its documentation, one entry a line.
    pub doc: &'static [&'static str],
    /// Smallest and largest value, for integers.
    pub range: Option<(u64, u64)>,
}

impl Key {
    /// Returns `section.key`.
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// Returns the environment variable that sets it.
    pub fn env(&self) -> String {
        format!("{}{}__{}", load::ENV_PREFIX, self.section.to_uppercase(), self.name.to_uppercase())
    }
}

/// Declares the sections: structs, defaults, documentation and ranges from one text.
macro_rules! sections {
    ($(
        $(#[doc = $section_doc:literal])+
        $section:ident: $ty:ident {
            $(
                $(#[doc = $doc:literal])+
                $key:ident: $key_ty:ty = $default:expr $(, $min:literal..=$max:literal)?;
            )+
        }
    )+) => {
        $(
            $(#[doc = $section_doc])+
            #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
            #[serde(deny_unknown_fields, default)]
            pub struct $ty { $( $(#[doc = $doc])+ pub $key: $key_ty, )+ }

            impl Default for $ty {
                fn default() -> Self { Self { $( $key: $default, )+ } }
            }
        )+

        /// Everything `postrider serve` can be told.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Config {
            $( $(#[doc = $section_doc])+ pub $section: $ty, )+
            /// Ways in beside the one of `[mqtt]`.
            pub listener: Vec<ListenerConfig>,
            /// Other bounds for some users.
            pub user_limit: Vec<UserLimit>,
            /// Which topics are conversations.
            pub conversation: Vec<ConversationRule>,
            /// Whether the HTTP address is a default that may be given up when it is taken.
            #[serde(skip)]
            pub http_is_optional: bool,
        }

        impl Default for Config {
            fn default() -> Self {
                Self {
                    $( $section: $ty::default(), )+
                    listener: Vec::new(),
                    user_limit: Vec::new(),
                    conversation: default_conversations(),
                    http_is_optional: true,
                }
            }
        }

        /// The sections in the order they are documented, with their documentation.
        pub(crate) const SECTIONS: &[(&str, &[&str])] = &[ $( (stringify!($section), &[$($section_doc),+]), )+ ];

        /// Every setting outside `[[listener]]` and `[[conversation]]`.
        pub const KEYS: &[Key] = &[ $( $( Key {
            section: stringify!($section),
            name: stringify!($key),
            doc: &[$($doc),+],
            range: sections!(@range $($min, $max)?),
        }, )+ )+ ];
    };
    (@range) => { None };
    (@range $min:literal, $max:literal) => { Some(($min, $max)) };
}

sections! {
    /// MQTT over TCP. More ways in (TLS, WebSocket, Unix sockets) are said by [[listener]]; all but
    /// the first two of these settings are for all of them.
    mqtt: Mqtt {
        /// Whether to listen on `listen` at all; false for a broker that is reached by [[listener]] only.
        enabled: bool = true;
        /// Address and port to listen on; port 0 takes a free one.
        listen: HostPort = HostPort::new("127.0.0.1", 1883);
        /// Open connections; one more is answered with "server busy".
        connections_max: u32 = 100_000, 1..=16_000_000;
        /// Time a new connection has for its PROXY header, TLS and WebSocket handshakes together.
        handshake_timeout_s: u32 = 10, 1..=600;
        /// Such handshakes at a time, over all listeners; one more ends the one that takes longest. Each
        /// may take up to about 80 KB.
        handshakes_max: u32 = 1_000, 1..=1_000_000;
        /// Time a new connection has for its CONNECT.
        connect_timeout_s: u32 = 10, 1..=600;
        /// Time a closing connection has to take what was sent to it.
        close_timeout_s: u32 = 5, 1..=600;
        /// Largest packet taken from a client, fixed header included.
        packet_bytes_max: u32 = 1_048_576, 256..=268_435_455;
        /// QoS 1 and 2 publishes a client may have unacknowledged (MQTT 5: Receive Maximum).
        receive_maximum: u16 = 1024, 1..=65_535;
        /// QoS 1 and 2 messages sent to one client and not yet acknowledged by it.
        inflight_max: u16 = 1024, 1..=65_535;
        /// Bytes of a client id.
        client_id_bytes_max: u16 = 1024, 23..=65_535;
        /// Topic aliases a client may use.
        topic_alias_max: u16 = 64, 0..=65_535;
        /// Topic aliases the broker uses towards a client that takes them.
        topic_alias_out_max: u16 = 32, 0..=256;
        /// Response Information for MQTT 5 clients that ask for it, for instance "reply/%c": %c stands for the
        /// client id, %u for the user. Empty = none.
        response_information: String = String::new();
        /// Another server, "host:port", that clients are sent to: connects are refused with 0x9C and this
        /// Server Reference, connected clients are told at shutdown. Empty = none.
        server_reference: String = String::new();
        /// How often the topics below $SYS/broker are published while somebody subscribes to them. 0 = never.
        sys_interval_s: u32 = 10, 0..=86_400;
        /// Levels of a topic or filter.
        topic_levels_max: u32 = 200, 1..=32_768;
        /// Longest Keep Alive; clients that ask for more, or for none, are given this. 0 = no bound.
        keep_alive_max_s: u16 = 0, 0..=65_535;
        /// Unsent bytes of one connection at which its QoS 0 messages are dropped and its queue waits.
        unsent_bytes_high: u32 = 1_048_576, 4_096..=1_073_741_824;
        /// Unsent bytes of one connection at which its queue goes on.
        unsent_bytes_low: u32 = 262_144, 0..=1_073_741_824;
        /// Unsent bytes of one connection at which it is closed.
        unsent_bytes_max: u64 = 1_073_741_824, 65_536..=68_719_476_736;
    }
    /// HTTP: /healthz, /readyz, /metrics, and MQTT over WebSocket at /mqtt.
    http: Http {
        /// Whether to serve HTTP at all.
        enabled: bool = true;
        /// Address and port to listen on. Left at its default it is given up, with a warning, when
        /// something else uses it.
        listen: HostPort = HostPort::new("127.0.0.1", 8080);
        /// Whether to serve MQTT over WebSocket at /mqtt.
        mqtt: bool = true;
        /// Web pages that may connect to /mqtt; as `origins` of [[listener]].
        origins: Vec<String> = Vec::new();
        /// Groups whose users may do over HTTP what concerns others: change the members of conversations, see the
        /// inbox of a user. Without users anyone on the broker's own machine may.
        admin_groups: Vec<String> = vec!["admin".to_owned()];
        /// Whether requests of the broker's own machine that name nobody are an operator's: all while nothing knows
        /// users, those about bans always. Switch it off where a proxy on this machine hides that it is one.
        local_operator: bool = true;
    }
    /// What is kept on disk.
    store: Store {
        /// Directory of the store; made when it is missing, used by one process at a time.
        data_dir: PathBuf = PathBuf::from("./postrider-data");
        /// When something counts as stored: "power" after fsync (survives a power cut), "process"
        /// after write (survives the end of the process, not of the machine).
        durability: Durability = Durability::Power;
        /// Size of one log file.
        segment_bytes: u64 = 16_777_216, 262_144..=1_073_741_824;
        /// Bytes the log may use, and one segment more for acknowledgements; the view comes on top. Publishes that
        /// need the store are refused when it is full. 0 = the disk.
        bytes_max: u64 = 0, 0..=1_152_921_504_606_846_976;
        /// Bytes that the recipients of one message may take in its record, about 40 each; a message with
        /// more durable recipients is refused.
        recipients_bytes_max: u64 = 12_582_912, 4_096..=536_870_912;
        /// Bytes that wait for the disk at which no more is read from clients.
        pending_bytes_max: u64 = 33_554_432, 65_536..=17_179_869_184;
        /// Bytes of stored messages that stay in memory; the oldest leave it above that and are read from the log when
        /// they are sent. 0 = all stay.
        bodies_bytes_max: u64 = 67_108_864, 0..=1_099_511_627_776;
    }
    /// Sessions: what the broker keeps for a client id.
    session: Session {
        /// Longest time a session outlives its connection; also that of MQTT 3.1.1 sessions without
        /// Clean Session.
        expiry_max_s: u32 = 604_800, 0..=4_294_967_295;
        /// Sessions, connected or not.
        sessions_max: u64 = 1_000_000, 1..=1_000_000_000;
        /// Subscriptions of one session.
        subscriptions_max: u64 = 1_000, 1..=1_000_000;
    }
    /// The queue of messages that wait for one session.
    queue: Queue {
        /// Messages in one queue.
        messages_max: u64 = 100_000, 1..=1_000_000_000;
        /// Bytes in one queue.
        bytes_max: u64 = 268_435_456, 1_024..=1_099_511_627_776;
        /// What a full queue does: "drop-oldest" drops the oldest messages, QoS 0 first; "drop-newest" drops
        /// the new one; both accept it and tell with a receipt. "reject" refuses the publish for everybody
        /// (0x97).
        on_full: OnFull = OnFull::DropOldest;
        /// A message is set aside when so many connections of its recipient in a row ended within 1 s of
        /// sending it while it was alone in flight (from the second on suspects are sent one at a time):
        /// its receipt is `refused` with reason `poison`. `postrider set-aside` lists and replays. 0 = never,
        /// as the standard has it (MQTT-4.4.0-1); 1 counts as 2.
        poison_after: u32 = 0, 0..=1_000;
        /// Messages set aside at one session; the oldest go.
        set_aside_max: u32 = 100, 1..=10_000;
    }
    /// Retained messages.
    retained: Retained {
        /// Retained messages of the broker.
        messages_max: u64 = 1_000_000, 0..=1_000_000_000;
        /// Bytes of all retained messages.
        bytes_max: u64 = 1_073_741_824, 0..=1_099_511_627_776;
        /// Retained messages that one SUBSCRIBE may bring; a filter that would bring more is refused.
        per_subscribe_max: u64 = 100_000, 1..=1_000_000_000;
        /// Retained topics that the wildcard filters of one SUBSCRIBE may be compared with, together.
        compared_max: u64 = 4_000_000, 1..=1_000_000_000;
    }
    /// Instant messaging; which topics are conversations is said by [[conversation]].
    im: Im {
        /// Conversations of the broker.
        conversations_max: u64 = 1_000_000, 0..=1_000_000_000;
        /// Conversations whose stored messages one session may be coming to at once; a SUBSCRIBE that asks for
        /// more is refused.
        replays_per_session_max: u64 = 10_000, 0..=1_000_000;
        /// Recipients of one message above which its receipts are counted, not listed.
        receipts_listed_max: u64 = 50, 0..=1_000_000;
        /// Whether it is published on `$im/presence/{client}` who is connected.
        presence: bool = true;
        /// How long that is kept after the client's session ended.
        presence_keep_s: u32 = 86_400, 0..=31_536_000;
        /// Clients of which it is kept; the one whose session ended first makes room, and a client that finds
        /// none stays unknown.
        presence_max: u64 = 1_000_000, 0..=1_000_000_000;
        /// Shortest heartbeat that a client may declare on `$im/keepalive`.
        keepalive_min_s: u16 = 1, 1..=65_535;
        /// Longest one.
        keepalive_max_s: u16 = 7_200, 1..=65_535;
        /// Networks (`im-net`) whose survived silences are remembered; who was heard of longest ago is
        /// forgotten first. 0 = none.
        networks_max: u32 = 1_000, 0..=100_000;
        /// How long a repeat is known by the `im-id` that its sender gave, seconds: it is acknowledged like the
        /// first one and not stored or sent again. 0 = repeats are not known.
        dedup_age_s: u32 = 86_400, 0..=31_536_000;
        /// Such ids of one user, the last ones: about 48 bytes of memory each.
        dedup_ids_max: u64 = 100_000, 1..=100_000_000;
        /// Such ids of all users; above it the oldest are forgotten before their time.
        dedup_ids_total_max: u64 = 4_000_000, 1..=1_000_000_000;
        /// Members of one conversation.
        members_max: u64 = 100_000, 1..=100_000_000;
        /// Conversations that one user is a member of.
        conversations_per_user_max: u64 = 20_000, 1..=100_000_000;
        /// Memberships of the broker, all conversations and users together.
        memberships_max: u64 = 5_000_000, 1..=1_000_000_000;
    }
    /// What is let in, over all listeners, and the memory of connections. In this and the next three
    /// sections 0 means "no bound", and a burst of 0 is what the rate allows in its period.
    limits: Limits {
        /// Open connections from one address; one more is refused. An IPv6 address stands for its /64.
        /// Bounds by address never hold for `abuse.shared_addresses`, for loopback as `abuse.loopback` says.
        connections_per_address_max: u32 = 10_000, 0..=16_000_000;
        /// Connections from one address that have sent no CONNECT; one more is closed.
        unconnected_per_address_max: u32 = 1_000, 0..=16_000_000;
        /// Connections from everywhere that have sent no CONNECT; one more closes the oldest of them.
        unconnected_max: u32 = 10_000, 0..=16_000_000;
        /// CONNECTs from one address in a second; one more is refused ...
        connects_per_address_per_s: u32 = 200, 0..=1_000_000;
        /// ... after a burst of this many.
        connects_per_address_burst: u32 = 2_000, 0..=1_000_000;
        /// CONNECTs of one client id in a minute; one more is refused. `abuse.flapping_per_minute` slows
        /// and bans instead.
        connects_per_client_per_minute: u32 = 0, 0..=1_000_000;
        /// Bytes in the buffers of all connections together: what is not sent yet, and packets that have
        /// not come whole. Over this the connections with the most are closed.
        buffers_bytes_max: u64 = 1_073_741_824, 1_048_576..=1_099_511_627_776;
        /// Bytes that the broker may hold in memory: sessions, queues, retained messages and the like, as it
        /// counts them itself; buffers come on top. At 85 % of it QoS 0 messages are no longer queued, at the
        /// bound publishes that must be kept, new sessions and subscriptions are refused (0x97); what was
        /// acknowledged stays. Here 0 means "half of what the machine or its control group has".
        memory_bytes_max: u64 = 0, 0..=1_152_921_504_606_846_976;
    }
    /// How fast each client may publish; [[listener]] can set other rates for those who come in by it. Over its
    /// rate a client is not read from until the rate allows it; an MQTT 5 client's QoS 1 and 2 messages are
    /// refused instead (0x97).
    client_limits: ClientLimits {
        /// PUBLISH packets in a second ...
        messages_per_s: u32 = 0, 0..=1_000_000_000;
        /// ... after a burst of this many.
        messages_burst: u32 = 0, 0..=1_000_000_000;
        /// Bytes of PUBLISH packets in a second ...
        bytes_per_s: u32 = 0, 0..=1_000_000_000;
        /// ... after a burst of this many; at least one largest packet.
        bytes_burst: u32 = 0, 0..=4_000_000_000;
        /// An MQTT 5 client with more refused messages in a second than `messages_per_s` is disconnected (0x96)
        /// after this many.
        refusals_burst: u32 = 1_000, 1..=1_000_000_000;
    }
    /// What all clients of one user may do together; [[user_limit]] says other numbers for some users. A client
    /// without authentication is a user of its own.
    user_limits: UserLimits {
        /// Clients connected; one more is refused.
        connections_max: u32 = 0, 0..=16_000_000;
        /// PUBLISH packets in a second ...
        messages_per_s: u32 = 0, 0..=1_000_000_000;
        /// ... after a burst of this many.
        messages_burst: u32 = 0, 0..=1_000_000_000;
        /// Bytes of PUBLISH packets in a second ...
        bytes_per_s: u32 = 0, 0..=1_000_000_000;
        /// ... after a burst of this many; at least one largest packet.
        bytes_burst: u32 = 0, 0..=4_000_000_000;
    }
    /// Those who try: first their CONNECTs are answered later and later, then they are banned for a time. A ban
    /// is told in the log, listed and lifted by `postrider bans`, and ends with the process.
    abuse: Abuse {
        /// What is counted of clients on this machine: "nothing"; "users" = wrong passwords by user name;
        /// "clients" = also connects by client id, right behind a proxy on this machine; "address" = all,
        /// also by address.
        loopback: Counted = Counted::Users;
        /// Addresses and networks that many clients share (a proxy, a provider's gateway), separated by commas:
        /// what comes from there is never counted by address. "none" = none.
        shared_addresses: Networks = Networks::default();
        /// CONNECTs of one client id in a minute that are nothing unusual.
        flapping_per_minute: u32 = 60, 0..=1_000_000;
        /// Wrong passwords in a minute that are nothing unusual, from one address or for one user.
        guesses_per_minute: u32 = 10, 0..=1_000_000;
        /// Connections in a minute from one address that send no MQTT and are nothing unusual.
        malformed_per_minute: u32 = 60, 0..=1_000_000;
        /// How long the answer to the first unusual one waits; the next waits twice as long ...
        slow_first_ms: u32 = 100, 0..=60_000;
        /// ... up to this.
        slow_max_ms: u32 = 5_000, 0..=60_000;
        /// Unusual ones, without a quiet minute between, after which the next is a ban.
        strikes_max: u32 = 10, 0..=1_000_000;
        /// How long a ban lasts; 0 = nobody is banned, only slowed.
        ban_s: u32 = 300, 0..=31_536_000;
        /// Addresses, client ids, users and bans remembered, each; who was quiet longest is forgotten first.
        tracked_max: u32 = 10_000, 100..=10_000_000;
    }
    /// Who may come in: docs/security.md.
    auth: Auth {
        /// Clients that bring no user name, password, token or certificate: "allow", "deny", or "auto": allowed
        /// where nothing is set here to check them by and only this machine can connect.
        anonymous: Anonymous = Anonymous::Auto;
        /// Who is asked, in this order, until one says yes or no: "jwt" (a token as password), "users"
        /// (the users file), "http" (the hook). One that is not set up is skipped. A client certificate that
        /// its listener takes for a user name comes before all.
        order: Vec<Authenticator> = vec![Authenticator::Jwt, Authenticator::Users, Authenticator::Http];
        /// File of users, made by `postrider passwd FILE USER`; read again when it changes. "" = none.
        users_file: PathBuf = PathBuf::new();
        /// File of rules that say who may publish and subscribe where; read again when it changes. "" = none:
        /// everyone who is in may do everything.
        acl_file: PathBuf = PathBuf::new();
        /// Whether clients of MQTT 5 may prove their password without sending it (SCRAM-SHA-256).
        scram: bool = true;
        /// Threads that check passwords; each takes about 20 MB and 30 ms of a core for one.
        workers: u32 = 2, 1..=64;
        /// Clients whose passwords, tokens or hook answers are waited for; one more is answered with
        /// "server busy".
        waiting_max: u32 = 4_096, 1..=1_000_000;
        /// Time for which a password that was right is not hashed again, so that a thousand clients that come
        /// back at once do not wait for each other. 0 = hash always.
        cache_s: u32 = 300, 0..=86_400;
        /// Passwords remembered so, as keyed hashes.
        cache_entries_max: u32 = 100_000, 1..=10_000_000;
    }
    /// JSON Web Tokens as passwords; on when a key is named here.
    auth_jwt: AuthJwt {
        /// File with the secret of HS256, at least 32 bytes; a line break at its end is no part of it. "" = none.
        secret_file: PathBuf = PathBuf::new();
        /// PEM file with the public key of RS256 (RSA) or ES256 (P-256). "" = none.
        public_key_file: PathBuf = PathBuf::new();
        /// JSON Web Key Set, a file with several keys of these kinds. "" = none.
        jwks_file: PathBuf = PathBuf::new();
        /// `iss` that tokens must have. "" = any.
        issuer: String = String::new();
        /// `aud` that tokens must have, alone or among others. "" = any.
        audience: String = String::new();
        /// Claim that names the user.
        user_claim: String = "sub".to_owned();
        /// Whether the user name of CONNECT, if there is one, must be the token's user.
        username_must_match: bool = false;
        /// Claim that lists groups, if it is there.
        groups_claim: String = "groups".to_owned();
        /// Claim with rules of the client's own, [{"allow": true, "access": "publish", "filter": "a/#"}]. "" = none.
        acl_claim: String = String::new();
        /// Claims that must be there, "NAME=VALUE"; in VALUE, %c stands for the client id and %u for the user
        /// name of CONNECT.
        required_claims: Vec<String> = Vec::new();
        /// Whether tokens without `exp` are refused.
        expiry_required: bool = true;
        /// How far clocks may be apart when `exp` and `nbf` are looked at.
        leeway_s: u32 = 30, 0..=3_600;
        /// Whether a connection ends when its token does.
        end_at_expiry: bool = true;
    }
    /// An HTTP service that is asked who may come in; on when its URL is set.
    auth_http: AuthHttp {
        /// Where to POST the question, http://... or https://.... "" = nowhere.
        url: String = String::new();
        /// File with a token that is sent as `Authorization: Bearer`. "" = none.
        bearer_token_file: PathBuf = PathBuf::new();
        /// PEM file of the authority that signed the service's certificate. "" = the system's.
        ca_file: PathBuf = PathBuf::new();
        /// Time the service has to answer.
        timeout_ms: u32 = 3_000, 10..=60_000;
        /// Questions asked at once; more wait, as long as they would for an answer.
        concurrency_max: u32 = 64, 1..=10_000;
        /// Time for which "allow" is remembered for the same question.
        allow_cache_s: u32 = 10, 0..=86_400;
        /// Time for which "deny" and "ignore" are.
        deny_cache_s: u32 = 2, 0..=86_400;
        /// Answers remembered.
        cache_entries_max: u32 = 10_000, 1..=10_000_000;
        /// After this many failures without an answer between them it is not asked ...
        failures_max: u32 = 5, 1..=1_000;
        /// ... for this long; then one question tries it.
        rest_s: u32 = 10, 1..=3_600;
        /// Without an answer: "deny" refuses the client ("server unavailable"), "next" asks the next
        /// authenticator.
        on_failure: OnFailure = OnFailure::Deny;
    }
    /// The log that people read, on stderr.
    log: LogText {
        /// Level, or levels by target: "error", "warn", "info", "debug", "trace",
        /// or for instance "info,postrider_broker=debug".
        filter: String = "info".to_owned();
    }
}

/// What becomes of clients that do not say who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Anonymous {
    /// They come in where nothing else can be checked and only this machine can connect.
    Auto,
    /// They come in.
    Allow,
    /// They do not.
    Deny,
}

/// Somebody who knows users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Authenticator {
    /// The users file.
    Users,
    /// Tokens.
    Jwt,
    /// The HTTP hook.
    Http,
}

/// What happens when the hook gives no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// The client is refused.
    Deny,
    /// The next authenticator is asked.
    Next,
}

/// When something counts as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// After fsync: it survives a power cut.
    Power,
    /// After write: it survives the end of the process, not of the machine.
    Process,
}

/// What a full queue does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFull {
    /// The oldest waiting messages make room, QoS 0 first.
    DropOldest,
    /// The new message is dropped for this recipient.
    DropNewest,
    /// The publish is refused as a whole.
    Reject,
}

impl OnFull {
    /// Returns the engine's word for it.
    pub fn engine(self) -> engine::OnFull {
        match self {
            Self::DropOldest => engine::OnFull::DropOldest,
            Self::DropNewest => engine::OnFull::DropNewest,
            Self::Reject => engine::OnFull::Reject,
        }
    }
}

/// Documentation of `[[listener]]`.
pub(crate) const LISTENER_DOC: &[&str] = &[
    " More ways in; there is none by default. Entries in a file or in POSTRIDER_LISTENER replace each other.",
    " The names of files are relative to the directory that the broker is started in.",
];

impl Config {
    /// Returns the rules and limits of the engine.
    pub fn engine(&self) -> engine::Config {
        engine::Config {
            packet_bytes_max: self.mqtt.packet_bytes_max,
            receive_maximum: self.mqtt.receive_maximum,
            inflight_max: self.mqtt.inflight_max,
            topic_alias_max: self.mqtt.topic_alias_max,
            topic_alias_out_max: self.mqtt.topic_alias_out_max,
            response_information: self.mqtt.response_information.clone(),
            server_reference: self.mqtt.server_reference.clone(),
            session_expiry_max_s: self.session.expiry_max_s,
            keep_alive_max_s: self.mqtt.keep_alive_max_s,
            sessions_max: self.session.sessions_max as usize,
            subscriptions_max: self.session.subscriptions_max as usize,
            queue_messages_max: self.queue.messages_max as usize,
            queue_bytes_max: self.queue.bytes_max as usize,
            on_full: self.queue.on_full.engine(),
            poison_after: self.queue.poison_after,
            set_aside_max: self.queue.set_aside_max as usize,
            retained_messages_max: self.retained.messages_max as usize,
            retained_bytes_max: self.retained.bytes_max as usize,
            retained_per_subscribe_max: self.retained.per_subscribe_max as usize,
            retained_compared_max: self.retained.compared_max as usize,
            client_id_bytes_max: usize::from(self.mqtt.client_id_bytes_max),
            bodies_bytes_max: self.store.bodies_bytes_max as usize,
            record_recipients_bytes_max: self.store.recipients_bytes_max as usize,
            topic_levels_max: self.mqtt.topic_levels_max as usize,
            conversations_max: self.im.conversations_max as usize,
            replays_per_session_max: self.im.replays_per_session_max as usize,
            // Rules were parsed when the configuration was loaded; one that cannot be parsed can only
            // come from a `Config` made by hand, and matches nothing.
            conversations: self.conversation.iter().filter_map(ConversationRule::engine).collect(),
            receipts_listed_max: self.im.receipts_listed_max as usize,
            presence: self.im.presence,
            presence_keep_s: self.im.presence_keep_s,
            presence_max: self.im.presence_max as usize,
            keepalive_min_s: self.im.keepalive_min_s,
            keepalive_max_s: self.im.keepalive_max_s,
            networks_max: self.im.networks_max as usize,
            dedup: engine::DedupLimits {
                age_s: self.im.dedup_age_s,
                ids_per_user_max: self.im.dedup_ids_max as usize,
                ids_max: self.im.dedup_ids_total_max as usize,
            },
            members_max: self.im.members_max as usize,
            conversations_per_user_max: self.im.conversations_per_user_max as usize,
            memberships_max: self.im.memberships_max as usize,
            memory_bytes_max: usize::try_from(self.limits.memory_bytes_max).unwrap_or(usize::MAX),
            ..engine::Config::default()
        }
    }
}
