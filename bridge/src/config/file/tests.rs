//! The configuration file: what is read, and how what is wrong is told.

use std::time::Duration;

use super::*;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, "b.toml", Path::new("/nowhere")).map_err(|error| error.to_string())
}

#[test]
fn an_empty_file_is_a_bridge_with_defaults() {
    let config = parse("").unwrap();
    assert_eq!(config.broker.address, "127.0.0.1:1883");
    assert_eq!(config.dispatch_topic, "im/dispatch");
    assert_eq!(config.data_dir, Path::new("/nowhere/postrider-bridge"));
    assert!(config.vehicles.is_empty() && config.sinks.is_empty() && config.commands.is_empty());
}

#[test]
fn every_key_is_read() {
    let config = parse(
        r#"
        broker = { address = "b.example:1884", client_id = "b", username = "u", password = "p", session_expiry_s = 3600 }
        store = { data_dir = "/var/b" }
        dispatch = { topic = "im/yard" }
        gate = { speed_max_mps = 40.0, hdop_max = 5.0, future_max_s = 1.5 }
        outbox = { entries_max = 20, age_max_s = 60, retry_min_ms = 10, retry_max_ms = 20, bytes_max = 20000000 }
        [[vehicle]]
        filter = "truck-*"
        route = [{ lat = 60.0, lon = 24.0 }, { lat = 60.1, lon = 24.0 }]
        corridor_half_width_m = 30.0
        fence = { name = "Depot", lat = 60.1, lon = 24.0, radius_m = 80.0 }
        [[webhook]]
        name = "ops"
        url = "https://hooks.example/T0K3N"
        headers = { Authorization = "Bearer x" }
        timeout_s = 3
        [[command]]
        name = "unlock"
        ttl_s = 30
        "#,
    )
    .unwrap();
    assert_eq!(config.data_dir, Path::new("/var/b"));
    assert_eq!((config.broker.address.as_str(), config.broker.session_expiry_s), ("b.example:1884", 3600));
    assert_eq!(config.gate.future_max_ms, 1_500);
    assert_eq!((config.outbox.entries_max, config.outbox.retry_max_ms), (20, 20));
    let rule = &config.vehicles[0];
    assert!(rule.devices.matches("truck-7") && rule.corridor.as_ref().unwrap().half_width_m() == 30.0);
    assert_eq!(rule.fence.as_ref().unwrap().area.radius_m(), 80.0);
    let hook = &config.sinks[0];
    assert_eq!((hook.name.as_str(), hook.timeout), ("ops", Duration::from_secs(3)));
    assert!(!format!("{config:?}").contains("T0K3N") && !format!("{config:?}").contains("Bearer"));
    assert_eq!(config.commands, [CommandRule { name: "unlock".into(), ttl_s: 30 }]);
}

#[test]
fn what_is_wrong_is_told_with_file_key_and_value() {
    let vehicle = |rest: &str| format!("[[vehicle]]\ndevice = \"a\"\n{rest}");
    let fence = "fence = { name = \"x\", lat = 1.0, lon = 2.0, radius_m = 5.0 }";
    let table = [
        ("[brokr]\n".to_owned(), "unknown field `brokr`"),
        ("[broker]\nadress = \"x\"".to_owned(), "unknown field `adress`"),
        ("[broker]\ncert_file = \"c.pem\"".to_owned(), "go together"),
        ("[broker]\ntls = false\nca_file = \"c.pem\"".to_owned(), "leave one of them out"),
        ("[broker]\naddress = \"x\"".to_owned(), "broker.address = \"x\": it must be host:port"),
        ("[broker]\naddress = 5".to_owned(), "line 2"),
        ("[dispatch]\ntopic = \"im/#\"".to_owned(), "dispatch.topic = \"im/#\""),
        ("[gate]\nspeed_max_mps = nan".to_owned(), "gate.speed_max_mps = NaN: it must be 1 to 1000"),
        ("[outbox]\nretry_min_ms = 500000".to_owned(), "is above outbox.retry_max_ms"),
        (vehicle(""), "[[vehicle]] number 1: it watches nothing"),
        (vehicle("corridor_half_width_m = 5.0"), "needs a route"),
        (vehicle("route_name = \"x\""), "route_name needs a route_file"),
        (vehicle("route_file = \"gone.geojson\""), "route_file /nowhere/gone.geojson: cannot be read"),
        (vehicle("route = [{lat = 1.0, lon = 2.0}]"), "at least 2 different points"),
        (vehicle("fence = { name = \"x\", lat = 91.0, lon = 2.0, radius_m = 5.0 }"), "latitude 91"),
        (vehicle("fence = { name = \"x\", lat = 1.0, lon = 2.0, radius_m = -5.0 }"), "not -5"),
        (format!("[[vehicle]]\n{fence}"), "it needs either device"),
        (format!("[[vehicle]]\nfilter = \"truck\"\n{fence}"), "filter = \"truck\""),
        (format!("[[vehicle]]\ndevice = \"a/b\"\n{fence}"), "device = \"a/b\""),
        (format!("{}\n{}", vehicle(fence), vehicle(fence)), "the same device or filter, \"a\""),
        ("[[webhook]]\nurl = \"ftp://x/T0K3N\"".to_owned(), "the scheme is \"ftp\""),
        ("[[webhook]]\nurl = \"x\"".to_owned(), "number 1: url: relative URL without a base"),
        ("[[webhook]]\nurl = \"http://x\"\ntimeout_s = 0".to_owned(), "timeout_s = 0: it must be 1 to 300"),
        (
            "[[webhook]]\nurl = \"http://x\"\nheaders = { \"a b\" = \"c\" }".to_owned(),
            "\"a b\" is no header name",
        ),
        (
            "[[webhook]]\nurl = \"http://x/1\"\n[[webhook]]\nurl = \"http://x/2\"".to_owned(),
            "the same name, \"http://x\"",
        ),
        (
            "[[sink]]\nname = \"a\"".to_owned(),
            "[[sink]] number 1: it has no type; there are webhook, ntfy, slack",
        ),
        (
            "[[sink]]\ntype = \"ntfy\"\nurl = \"http://x/\"\nquota = \"fast\"".to_owned(),
            "quota = \"fast\": it must be like",
        ),
        ("[[sink]]\ntype = \"ntfy\"\nurl = \"http://x/\"\nquota = \"0/s\"".to_owned(), "quota = \"0/s\""),
        ("[[webhook]]\nurl = \"http://x/\"\ndigest = true".to_owned(), "digest = true needs a quota"),
        (
            "[[sink]]\ntype = \"pager\"".to_owned(),
            "type = \"pager\" is unknown; there are webhook, ntfy, slack",
        ),
        ("[[sink]]\ntype = \"ntfy\"".to_owned(), "number 1: missing field `url`"),
        ("[[sink]]\ntype = \"ntfy\"\nurl = \"http://x/T0K3N\"\nrl = 1".to_owned(), "unknown field `rl`"),
        (
            "[[sink]]\ntype = \"ntfy\"\ntimeout_s = \"x\"\nurl = \"http://x/\"".to_owned(),
            "timeout_s: invalid type",
        ),
        ("[[command]]\nname = \"7up\"".to_owned(), "name = \"7up\""),
        ("[[command]]\nname = \"a\"\nttl_s = 0".to_owned(), "ttl_s = 0: it must be 1 to 86400"),
    ];
    for (text, want) in table {
        let error = parse(&text).expect_err(&text);
        assert!(error.starts_with("b.toml: ") && error.contains(want), "{text}:\n{error}");
        assert!(!error.contains("T0K3N"), "{error}");
    }
}

#[test]
fn a_route_is_chosen_from_a_file_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let feature = |name: &str, lat: f64| {
        format!(
            r#"{{"type":"Feature","properties":{{"id":"{name}"}},"geometry":{{"type":"LineString","coordinates":[[24,{lat}],[25,{lat}]]}}}}"#
        )
    };
    let text = format!(
        r#"{{"type":"FeatureCollection","features":[{},{}]}}"#,
        feature("route-1", 60.0),
        feature("route-2", 61.0)
    );
    std::fs::write(dir.path().join("r.geojson"), text).unwrap();
    let load = |more: &str| {
        std::fs::write(
            dir.path().join("b.toml"),
            format!("[[vehicle]]\ndevice = \"a\"\nroute_file = \"r.geojson\"\n{more}"),
        )
        .unwrap();
        Config::load(&dir.path().join("b.toml")).map_err(|error| error.to_string())
    };
    let config = load("route_name = \"route-2\"").unwrap();
    let line = config.vehicles[0].corridor.as_ref().unwrap().line().points().next().unwrap();
    assert_eq!(line, LatLon::new(61.0, 24.0));
    let error = load("").unwrap_err();
    assert!(error.contains("it holds 2 lines, choose one with route_name: route-1, route-2"), "{error}");
    let error = load("route_name = \"x\"").unwrap_err();
    assert!(error.contains("no line is called route_name = \"x\""), "{error}");
}

#[test]
fn the_commented_example_is_a_configuration() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/bridge.toml");
    let config = Config::load(&path).unwrap();
    assert!(!config.vehicles.is_empty() && !config.commands.is_empty());
    assert_eq!(
        config.outbox,
        crate::config::OutboxSettings::default(),
        "the defaults it shows are the defaults"
    );
}

#[test]
fn certificate_files_ask_for_tls_and_are_found_beside_the_configuration() {
    let text = "[broker]\nca_file = \"ca.pem\"\ncert_file = \"b.pem\"\nkey_file = \"/keys/b.key\"";
    let tls = Config::parse(text, "t", Path::new("/etc/bridge")).unwrap().broker.tls.unwrap();
    let identity = tls.identity.unwrap();
    assert_eq!(tls.ca_file.unwrap(), Path::new("/etc/bridge/ca.pem"));
    assert_eq!(identity.cert_file, Path::new("/etc/bridge/b.pem"));
    assert_eq!(identity.key_file, Path::new("/keys/b.key"));
    let of = |text| Config::parse(text, "t", Path::new("")).unwrap().broker.tls;
    assert_eq!(of("[broker]\ntls = true"), Some(TlsOptions::default()));
    assert_eq!(of(""), None);
}
