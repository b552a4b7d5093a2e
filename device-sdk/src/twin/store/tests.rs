//! Versions, staleness, limits, and what the power leaves.

use std::collections::HashMap;

use serde_json::json;
use storage::sim::SimDisk;

use super::*;

const SEGMENT: u64 = 64 * 1024;

fn twin() -> Twin<SimDisk> {
    Twin::open_on(SimDisk::new(1), SEGMENT).unwrap()
}

fn desired(twin: &mut Twin<SimDisk>, document: Value) -> Desired {
    twin.take_desired(document.to_string().as_bytes()).unwrap()
}

fn refusal(twin: &mut Twin<SimDisk>, document: Value) -> String {
    match desired(twin, document) {
        Desired::Refused { why } => why,
        other => panic!("{other:?}"),
    }
}

fn document(twin: &Twin<SimDisk>) -> Value {
    serde_json::from_slice(&twin.document()).unwrap()
}

#[test]
fn records_on_disk_keep_their_form() {
    let golden = [
        r#"{"patch":{"version":2,"patch":{"a":null}}}"#,
        r#"{"whole":{"version":2,"document":{"a":1}}}"#,
        r#"{"desired":{"version":3,"document":{"a":1}}}"#,
        r#"{"desired":null}"#,
        r#"{"told":{"version":2}}"#,
    ];
    for json in golden {
        let bytes = [b"\x01", json.as_bytes()].concat();
        assert_eq!(encode(&decode(&bytes).unwrap()), bytes, "{json}");
    }
    assert!(decode(b"\x02{}").unwrap_err().contains("version 2") && decode(b"").is_err());
}

#[test]
fn what_is_reported_offline_is_merged_and_goes_out_once() {
    let mut twin = twin();
    assert_eq!(twin.pending(), None);
    assert!(twin.report(json!({ "lock": "open", "tank": { "level": 7 } })).unwrap());
    assert!(twin.report(json!({ "lock": "closed" })).unwrap());
    assert!(!twin.report(json!({ "lock": "closed" })).unwrap(), "nothing new");
    let (version, payload) = twin.pending().unwrap();
    let expected = json!({ "lock": "closed", "tank": { "level": 7 }, "$version": 2 });
    assert_eq!((version, serde_json::from_slice::<Value>(&payload).unwrap()), (2, expected));
    twin.report(json!({ "tank": null })).unwrap();
    twin.told(2).unwrap();
    assert_eq!(twin.pending().unwrap().0, 3, "what came meanwhile is still to be told");
    twin.told(3).unwrap();
    assert_eq!(twin.pending(), None);
}

#[test]
fn what_is_wanted_comes_as_the_difference_to_what_is_reported() {
    let mut twin = twin();
    twin.report(json!({ "interval_s": 10, "lock": "closed" })).unwrap();
    let wanted = json!({ "interval_s": 30, "lock": "closed", "$version": 4 });
    let delta = Some(json!({ "interval_s": 30 }));
    assert_eq!(desired(&mut twin, wanted.clone()), Desired::Taken { delta: delta.clone() });
    assert_eq!(desired(&mut twin, wanted.clone()), Desired::Known { delta });
    twin.report(json!({ "interval_s": 30 })).unwrap();
    assert_eq!(desired(&mut twin, wanted), Desired::Known { delta: None });
    assert_eq!(document(&twin)["$desired"], 4);
}

#[test]
fn stale_and_ambiguous_wishes_are_refused() {
    let mut twin = twin();
    // Without versions the last one counts.
    desired(&mut twin, json!({ "a": 1 }));
    desired(&mut twin, json!({ "a": 2 }));
    desired(&mut twin, json!({ "a": 3, "$version": 7 }));
    let cases = [
        (json!({ "a": 4, "$version": 6 }), "version 6 is older than 7"),
        (json!({ "a": 4, "$version": 7 }), "version 7 was taken with another content"),
        (json!({ "a": 4 }), "it has no $version"),
        (json!({ "a": 4, "$version": "8" }), "no number"),
        (json!({ "a": 4, "$version": 8, "$new": 1 }), "\"$new\" is not known"),
        (json!([1]), "no object"),
    ];
    for (wanted, expected) in cases {
        let why = refusal(&mut twin, wanted);
        assert!(why.contains(expected), "{why}");
    }
    assert!(matches!(twin.take_desired(b"{").unwrap(), Desired::Refused { .. }));
    assert_eq!(twin.desired(), Some(&json!({ "a": 3 })));
    // A cleared topic begins anew.
    assert_eq!(twin.take_desired(b"").unwrap(), Desired::Taken { delta: None });
    assert!(matches!(desired(&mut twin, json!({ "a": 1, "$version": 1 })), Desired::Taken { .. }));
}

#[test]
fn documents_are_bounded() {
    let mut twin = twin();
    let half = "x".repeat(DOCUMENT_BYTES_MAX / 2);
    twin.report(json!({ "a": half })).unwrap();
    let error = twin.report(json!({ "b": half })).unwrap_err().to_string();
    assert!(error.contains("at most 65536 are kept"), "{error}");
    assert_eq!(twin.version(), 1);
    let deep = (0..DOCUMENT_DEPTH_MAX).fold(json!({}), |inner, _| json!({ "a": inner }));
    assert!(twin.report(deep.clone()).unwrap_err().to_string().contains("32 levels"));
    assert!(refusal(&mut twin, deep).contains("32 levels"));
    assert!(refusal(&mut twin, json!({ "a": half, "b": half })).contains("at most 65536"));
    assert!(twin.report(json!(1)).unwrap_err().to_string().contains("must be an object"));
    assert!(twin.report(json!({ "$version": 9 })).unwrap_err().to_string().contains("the twin's own"));
}

#[test]
fn many_changes_leave_a_small_log_and_the_same_twin() {
    let disk = SimDisk::new(2);
    let mut twin = Twin::open_on(disk.clone(), SEGMENT).unwrap();
    desired(&mut twin, json!({ "n": 9, "$version": 3 }));
    for n in 0..RECORDS_MAX * 2 {
        twin.report(json!({ "n": n, "pad": "x".repeat(500) })).unwrap();
    }
    twin.told(twin.version() - 1).unwrap();
    twin.rewrite().unwrap();
    assert!(twin.log.bytes() < 10_000, "{} bytes", twin.log.bytes());
    let (version, payload) = twin.pending().unwrap();
    drop(twin);
    let twin = Twin::open_on(disk, SEGMENT).unwrap();
    assert_eq!(twin.pending(), Some((version, payload)));
    assert_eq!(twin.desired(), Some(&json!({ "n": 9 })));
}

#[test]
fn wherever_the_power_ends_a_version_names_one_document_and_nothing_reported_is_lost() {
    let mut cuts = 0;
    for seed in 0..300 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut disk = SimDisk::new(seed);
        // What was shown to anyone, and what the program was promised.
        let mut shown: HashMap<u64, Bytes> = HashMap::new();
        let mut promised = json!({});
        let mut taken = 0;
        for _ in 0..12 {
            disk.cut_power(rng.u64(3..40));
            let Ok(mut twin) = Twin::open_on(disk.clone(), 8 * 1024) else {
                disk = disk.crash(&mut rng);
                cuts += 1;
                continue;
            };
            let mut may_be = vec![promised.clone()];
            loop {
                assert!(may_be.contains(twin.reported()), "seed {seed}: {} of {may_be:?}", twin.reported());
                promised = twin.reported().clone();
                if let Some((version, payload)) = twin.pending() {
                    let before = shown.entry(version).or_insert_with(|| payload.clone());
                    assert_eq!(*before, payload, "seed {seed}: version {version} was another document");
                }
                let patch = json!({ ["a", "b", "c"][rng.usize(0..3)]: rng.u32(0..50) });
                let mut next = promised.clone();
                merge(&mut next, &patch);
                may_be = vec![promised.clone(), next];
                let wanted = json!({ "w": taken, "$version": taken + 1 });
                let done = match rng.u32(0..3) {
                    0 => twin.take_desired(wanted.to_string().as_bytes()).map(|_| taken += 1),
                    1 => twin.told(twin.version()),
                    _ => twin.report(patch).map(|_| ()),
                };
                if done.is_err() {
                    break;
                }
                may_be.retain(|state| state == twin.reported());
            }
            drop(twin);
            cuts += 1;
            disk = disk.crash(&mut rng);
            let twin = Twin::open_on(disk.clone(), 8 * 1024).unwrap();
            assert!(may_be.contains(twin.reported()), "seed {seed}: {} of {may_be:?}", twin.reported());
            promised = twin.reported().clone();
            let version = twin.desired.as_ref().and_then(|wanted| wanted.version).unwrap_or(0);
            assert!(version == taken || version == taken + 1, "seed {seed}: {version} of {taken}");
            taken = version;
        }
    }
    assert!(cuts > 3_000, "{cuts}");
}
