//! Tables of good and bad configurations, and the shipped reference.

use std::path::{Path, PathBuf};

use super::*;

fn load_file(text: &str) -> Result<Loaded, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("test.toml");
    std::fs::write(&path, text).unwrap();
    Sources { file: Some(path), ..Sources::default() }.load()
}

fn file_error(text: &str) -> String {
    let message = load_file(text).expect_err(text).to_string();
    message
        .lines()
        .map(|line| line.rsplit_once("test.toml").map_or(line, |(_, rest)| rest))
        .collect::<Vec<_>>()
        .join("\n")
}

fn load_env(pairs: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let env = pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    Sources { env, ..Sources::default() }.load()
}

fn configs_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

#[test]
fn without_any_source_everything_is_at_its_default() {
    let loaded = Sources::default().load().unwrap();
    assert_eq!(loaded.config, Config::default());
    assert!(loaded.origins.is_empty());
}

#[test]
fn the_engine_gets_its_own_defaults_from_the_default_configuration() {
    let (ours, theirs) = (Config::default().engine(), engine::Config::default());
    assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
}

#[test]
fn the_shipped_file_is_the_reference_of_every_key_and_equals_the_defaults() {
    let path = configs_dir().join("postrider.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(
        text,
        reference(),
        "write it anew: postrider config print --reference > configs/postrider.toml"
    );
    for key in KEYS {
        assert!(text.contains(&format!("\n{} = ", key.name)), "{} is missing", key.path());
        assert!(text.contains(&key.env()), "{} is missing", key.env());
    }
    let loaded = Sources { file: Some(path), ..Sources::default() }.load().unwrap();
    assert_eq!(loaded.config, Config { http_is_optional: false, ..Config::default() });
}

#[test]
fn every_shipped_broker_file_is_valid() {
    let mut seen = 0;
    for entry in std::fs::read_dir(configs_dir()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("postrider") && name.ends_with(".toml") {
            Sources { file: Some(path), ..Sources::default() }.load().unwrap();
            seen += 1;
        }
    }
    assert!(seen > 0);
}

#[test]
fn what_is_printed_can_be_loaded_again_and_says_where_values_come_from() {
    let env = vec![("POSTRIDER_STORE__DURABILITY".to_owned(), "process".to_owned())];
    let sources =
        Sources { env, ..Sources::default() }.flag("--listen", "mqtt.listen", Some("[::1]:0".into()));
    let loaded = sources.load().unwrap();
    let printed = loaded.to_toml();
    assert!(printed.contains("listen = \"[::1]:0\" # --listen\n"), "{printed}");
    assert!(
        printed.contains("durability = \"process\" # environment variable POSTRIDER_STORE__DURABILITY\n")
    );
    let again = load_file(&printed).unwrap().config;
    assert_eq!(again, Config { http_is_optional: false, ..loaded.config });
}

#[test]
fn a_configuration_without_conversations_survives_printing() {
    let loaded = load_file("conversation = []").unwrap();
    assert_eq!(loaded.config.conversation, []);
    assert_eq!(load_file(&loaded.to_toml()).unwrap().config.conversation, []);
}

#[test]
fn later_layers_win_over_earlier_ones() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("test.toml");
    std::fs::write(&path, "[mqtt]\nlisten = \"127.0.0.1:1\"\nreceive_maximum = 1\ninflight_max = 1\n")
        .unwrap();
    let env = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let env = vec![env("POSTRIDER_MQTT__LISTEN", "127.0.0.1:2"), env("POSTRIDER_MQTT__RECEIVE_MAXIMUM", "2")];
    let sources = Sources { file: Some(path.clone()), env, ..Sources::default() };
    let loaded = sources.flag("--listen", "mqtt.listen", Some("127.0.0.1:3".into())).load().unwrap();
    assert_eq!(loaded.config.mqtt.listen, HostPort::new("127.0.0.1", 3));
    assert_eq!((loaded.config.mqtt.receive_maximum, loaded.config.mqtt.inflight_max), (2, 1));
    assert_eq!(loaded.origins["mqtt.inflight_max"], Origin::File { path, line: 4 });
}

#[test]
fn every_setting_can_be_an_environment_variable() {
    let table = toml::Table::try_from(Config::default()).unwrap();
    for key in KEYS {
        let value = match &table[key.section][key.name] {
            toml::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let loaded = load_env(&[(&key.env(), &value)]).unwrap();
        assert_eq!(loaded.origins.keys().collect::<Vec<_>>(), [&key.path()]);
    }
    let rules =
        load_env(&[("POSTRIDER_CONVERSATION", "[{filter = \"chat/#\"}]")]).unwrap().config.conversation;
    assert_eq!(rules, [ConversationRule::new("chat/#")]);
}

#[test]
fn an_address_that_was_configured_is_not_optional() {
    assert!(Sources::default().load().unwrap().config.http_is_optional);
    assert!(!load_file("[http]\nlisten = \"127.0.0.1:8080\"").unwrap().config.http_is_optional);
}

#[test]
fn a_bad_file_is_told_with_line_key_value_and_what_is_allowed() {
    for (text, expected) in [
        ("[mqtt]\n\nlisen = 1", ":3: unknown key `lisen` in [mqtt], did you mean `listen`?"),
        ("[queue]\nzebra = 1", ":2: unknown key `zebra` in [queue], known are `messages_max`, `bytes_max`"),
        ("[mqt]\nlisten = 1", ":1: unknown section [mqt], did you mean [mqtt]?"),
        ("data_dir = \"x\"", ":1: `data_dir` stands outside a section, it belongs below [store]"),
        ("mqtt = 5", ":1: `mqtt` is a section: write [mqtt] on a line of its own, not mqtt = 5"),
        (
            "[mqtt]\npacket_bytes_max = 5",
            ":2: mqtt.packet_bytes_max = 5 is out of range, allowed are 256 to 268435455",
        ),
        (
            "[mqtt]\nconnections_max = -1",
            ":2: mqtt.connections_max = -1 is out of range, allowed are 1 to 16000000",
        ),
        (
            "[mqtt]\npacket_bytes_max = \"1M\"",
            ":2: mqtt.packet_bytes_max = \"1M\" is not a whole number (the default is 1048576)",
        ),
        ("[http]\nenabled = 1", ":2: http.enabled = 1 is not true or false (the default is true)"),
        (
            "[mqtt]\nlisten = \"1883\"",
            ":2: mqtt.listen = \"1883\": \"1883\" has no port, expected HOST:PORT such as 127.0.0.1:1883",
        ),
        (
            "[store]\ndurability = \"disk\"",
            ":2: store.durability = \"disk\": unknown variant `disk`, expected `power` or `process`",
        ),
        ("[store]\ndata_dir = \"\"", ":2: store.data_dir is empty (the default is \"./postrider-data\")"),
        ("[mqtt\nlisten = 1", ":1: not valid TOML: "),
        ("[mqtt]\nreceive_maximum = 1\nreceive_maximum = 2", ":3: not valid TOML: duplicate key"),
        (
            "[[conversation]]\nfiler = \"im/#\"",
            ":1: [[conversation]] number 1: unknown key `filer`, did you mean `filter`?",
        ),
        (
            "[[conversation]]",
            ":1: [[conversation]] number 1: `filter` is missing, for instance filter = \"im/#\"",
        ),
        ("[[conversation]]\nfilter = 3", ":1: [[conversation]] number 1: filter = 3 is not a text in quotes"),
        (
            "[[conversation]]\nfilter = \"a\"\nreceipts = \"some\"",
            ":1: [[conversation]] number 1: unknown variant `some`, expected one of `delivered`, `read`, `all`",
        ),
        (
            "[conversation]\nfilter = \"im/#\"",
            ":1: `conversation` is a list of rules: write [[conversation]]",
        ),
        (
            "[[conversation]]\nfilter = \"$im/a\"",
            ":1: [[conversation]] number 1: filter = \"$im/a\" is invalid: topics that start with $ are no conversations",
        ),
        ("[mqtt]\nlisten = \"127.0.0.1:8080\"", ":2: mqtt.listen and http.listen are both 127.0.0.1:8080"),
        (
            "[mqtt]\nunsent_bytes_low = 5000\nunsent_bytes_high = 4999",
            ":2: mqtt.unsent_bytes_low = 5000 must not be above mqtt.unsent_bytes_high = 4999",
        ),
    ] {
        let message = file_error(text);
        assert!(message.starts_with(expected), "{text}\n got {message}\nwant {expected}");
    }
}

#[test]
fn all_problems_of_a_file_are_told_at_once() {
    let message = file_error("[mqtt]\nlisen = 1\nreceive_maximum = 0\n[nope]\n");
    assert_eq!(message.lines().count(), 3, "{message}");
}

#[test]
fn a_file_that_is_missing_is_named() {
    let file = Some(PathBuf::from("/nonexistent/postrider.toml"));
    let message = Sources { file, ..Sources::default() }.load().unwrap_err().to_string();
    assert!(message.starts_with("/nonexistent/postrider.toml: cannot read it: No such file"), "{message}");
}

#[test]
fn a_file_too_long_to_be_a_configuration_is_refused_unread() {
    let message = file_error(&"#".repeat(1024 * 1024 + 1));
    assert_eq!(message, ": 1048577 bytes are no configuration file, allowed are 1048576");
}

#[test]
fn too_many_conversation_rules_are_refused() {
    let message = file_error(&"[[conversation]]\nfilter = \"a\"\n".repeat(CONVERSATIONS_RULES_MAX + 1));
    assert_eq!(message, ":1: 1001 [[conversation]] rules, allowed are 1000");
}

#[test]
fn a_bad_environment_variable_is_told_by_name() {
    for (name, value, expected) in [
        (
            "POSTRIDER_MQTT__LISEN",
            "x",
            "environment variable POSTRIDER_MQTT__LISEN: no such setting, did you mean POSTRIDER_MQTT__LISTEN?",
        ),
        (
            "POSTRIDER_WHATEVER__ELSE_THERE_IS",
            "x",
            "environment variable POSTRIDER_WHATEVER__ELSE_THERE_IS: no such setting; ",
        ),
        (
            "POSTRIDER_MQTT__RECEIVE_MAXIMUM",
            "many",
            "environment variable POSTRIDER_MQTT__RECEIVE_MAXIMUM: mqtt.receive_maximum = \"many\" is not a whole number",
        ),
        (
            "POSTRIDER_CONVERSATION",
            "im/#",
            "environment variable POSTRIDER_CONVERSATION: \"im/#\" is not a TOML array",
        ),
    ] {
        let message = load_env(&[(name, value)]).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
fn variables_of_others_are_left_alone() {
    let loaded = load_env(&[("POSTRIDER_PORT", "tcp://10.0.0.1:1883"), ("HOME", "/root")]).unwrap();
    assert_eq!(loaded.config, Config::default());
}

#[test]
fn listeners_are_read_whole() {
    let text = r#"
[[listener]]
name = "devices"
transport = "tls"
listen = "0.0.0.0:8883"
certificate = "server.crt"
key = "server.key"
client_ca = "ca.crt"
client_certificate = "required"
client_crl = ["a.crl"]
identity = "san"
tls_min = "1.3"
[[listener]]
name = "web"
transport = "ws"
listen = "127.0.0.1:9001"
path = "/"
origins = ["https://example.com"]
[[listener]]
name = "local"
transport = "unix"
listen = "./mqtt.sock"
mode = "0600"
[[listener]]
name = "balanced"
listen = "127.0.0.1:1884"
proxy_protocol = true
"#;
    let loaded = load_file(text).unwrap();
    let [devices, web, local, balanced] = &loaded.config.listener[..] else { panic!("{:?}", loaded.config) };
    assert_eq!((devices.transport, devices.tls_min), (Transport::Tls, TlsVersion::V13));
    assert_eq!(devices.client_certificate, ClientCertificateMode::Required);
    assert_eq!(devices.identity, Identity::San);
    assert_eq!((web.transport, web.path.as_str()), (Transport::Ws, "/"));
    assert_eq!(local.listen, ListenAddress::Unix("./mqtt.sock".into()));
    assert_eq!(local.mode, FileMode(0o600));
    assert!(balanced.proxy_protocol && balanced.transport == Transport::Tcp);
    let printed = loaded.to_toml();
    assert_eq!(load_file(&printed).unwrap().config.listener, loaded.config.listener, "{printed}");
}

#[test]
fn the_example_of_a_listener_in_the_reference_names_every_key_with_a_value_it_takes() {
    let reference = reference();
    for key in listener::LISTENER_KEYS {
        assert!(reference.contains(&format!("\n#{} = {}\n", key.name, key.example)), "{}", key.name);
        let transport = key.of.first().copied().unwrap_or(Transport::Tls);
        let listen = if transport == Transport::Unix { "./a/b" } else { "127.0.0.1:0" };
        let mut lines = vec![format!("{} = {}", key.name, key.example)];
        for (name, value) in [
            ("name", "x"),
            ("transport", &transport.to_string()),
            ("listen", listen),
            ("certificate", "a"),
            ("key", "a"),
            ("client_ca", "a"),
            ("client_certificate", "required"),
        ] {
            let is_tls_only = matches!(name, "certificate" | "key" | "client_ca" | "client_certificate");
            if name != key.name && (transport.is_tls() || !is_tls_only) {
                lines.push(format!("{name} = {value:?}"));
            }
        }
        if key.name == "proxy_identity" {
            lines.push("proxy_protocol = true".to_owned());
        }
        load_file(&format!("[[listener]]\n{}\n", lines.join("\n"))).unwrap();
    }
}

#[test]
fn a_wrong_listener_is_told_with_what_to_do() {
    for (entry, expected) in [
        ("listen = \"127.0.0.1:1\"", "`name` is missing, for instance name = \"tls\""),
        ("name = \"a\"", "`listen` is missing, for instance listen = \"0.0.0.0:8883\""),
        ("name = \"a b\"\nlisten = \"127.0.0.1:1\"", "name = \"a b\" is no name, "),
        (
            "name = \"mqtt\"\nlisten = \"127.0.0.1:1\"",
            "name = \"mqtt\" is the name of the listener of [mqtt]",
        ),
        (
            "name = \"a\"\nlisten = \"127.0.0.1:1\"\ntransport = \"quic\"",
            "unknown variant `quic`, expected one of",
        ),
        (
            "name = \"a\"\nlisten = \"127.0.0.1:1\"\ntransport = \"unix\"",
            "listen = \"127.0.0.1:1\" is no path",
        ),
        ("name = \"a\"\nlisten = \"a.sock\"\ntransport = \"unix\"", "listen = \"a.sock\" is no path"),
        ("name = \"a\"\nlisten = \"/a\"", "listen = \"/a\" is a path, transport \"tcp\" needs HOST:PORT"),
        (
            "name = \"a\"\nlisten = \"127.0.0.1:1\"\ntransport = \"tls\"",
            "`certificate` is missing, transport \"tls\"",
        ),
        (
            "name = \"a\"\nlisten = \"127.0.0.1:1\"\ncertificate = \"a\"",
            "`certificate` is a setting of transport \"tls\", \"wss\" only, and transport = \"tcp\"",
        ),
        (
            "name = \"a\"\nlisten = \"127.0.0.1:1\"\ntransport = \"tls\"\ncertificate = \"a\"\nkey = \"a\"\nclient_ca = \"a\"",
            "`client_certificate` and `client_ca` belong together",
        ),
        (
            "name = \"a\"\nlisten = \"/a\"\ntransport = \"unix\"\nmode = \"rw\"",
            "\"rw\" is no file mode, expected octal permissions",
        ),
        ("name = \"a\"\nlisten = \"127.0.0.1:1\"\nproxy_identity = true", "`proxy_identity` says nothing"),
        ("name = \"a\"\nlisen = \"127.0.0.1:1\"", "unknown key `lisen`, did you mean `listen`?"),
    ] {
        let message = file_error(&format!("[[listener]]\n{entry}\n"));
        assert!(message.starts_with(&format!(":1: [[listener]] number 1: {expected}")), "{entry}\n{message}");
    }
    for (text, expected) in [
        ("[listener]\nname = \"a\"", ":1: `listener` is a list of listeners: write [[listener]] with "),
        (
            "[[listener]]\nname = \"a\"\nlisten = \"127.0.0.1:0\"\n[[listener]]\nname = \"a\"\nlisten = \"127.0.0.1:0\"",
            ":1: two [[listener]] are named \"a\"",
        ),
        (
            "[[listener]]\nname = \"a\"\nlisten = \"127.0.0.1:1883\"",
            ":1: mqtt.listen and `listen` of [[listener]] \"a\" are both 127.0.0.1:1883",
        ),
        ("[mqtt]\nenabled = false", ":2: mqtt.enabled = false and no [[listener]]: no client could connect"),
        ("[http]\norigins = \"a\"", ":2: http.origins = \"a\" is not a list of texts"),
    ] {
        let message = file_error(text);
        assert!(message.starts_with(expected), "{text}\n{message}");
    }
}

#[test]
fn lists_can_be_environment_variables() {
    let loaded = load_env(&[
        ("POSTRIDER_LISTENER", "[{name = \"local\", transport = \"unix\", listen = \"./mqtt.sock\"}]"),
        ("POSTRIDER_HTTP__ORIGINS", "[\"https://example.com\"]"),
    ])
    .unwrap();
    assert_eq!(loaded.config.listener[0].transport, Transport::Unix);
    assert_eq!(loaded.config.http.origins, ["https://example.com"]);
}
