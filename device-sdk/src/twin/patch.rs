//! Merge patches (RFC 7396) and where they come from. Pure.

use serde_json::{Map, Value};

/// Applies a merge patch.
///
/// ```
/// use device_sdk::twin::merge;
/// use serde_json::json;
/// let mut state = json!({ "lock": "open", "tank": { "level": 7, "alarm": true } });
/// merge(&mut state, &json!({ "lock": "closed", "tank": { "alarm": null } }));
/// assert_eq!(state, json!({ "lock": "closed", "tank": { "level": 7 } }));
/// ```
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (key, change) in changes {
        if change.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key.clone()).or_insert(Value::Null), change);
        }
    }
}

/// Returns the patch that makes one document into another, `None` when they are the same. Documents have no nulls: a patch cannot
/// say them.
///
/// ```
/// use device_sdk::twin::difference;
/// use serde_json::json;
/// let patch = difference(&json!({ "a": 1, "b": 2 }), &json!({ "a": 1, "c": 3 }));
/// assert_eq!(patch, Some(json!({ "b": null, "c": 3 })));
/// ```
pub fn difference(from: &Value, to: &Value) -> Option<Value> {
    if from == to {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (from, to) else { return Some(to.clone()) };
    let mut patch = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new {
        let change = match old.get(key) {
            Some(before) => difference(before, value),
            None => Some(value.clone()),
        };
        patch.extend(change.map(|change| (key.clone(), change)));
    }
    Some(Value::Object(patch))
}

/// Returns what is wanted and not reported, as a patch for what is reported; `None` when there is nothing. What is not mentioned in
/// `desired` is left alone, and a null in it wants the field gone.
///
/// ```
/// use device_sdk::twin::missing;
/// use serde_json::json;
/// let reported = json!({ "interval_s": 10, "lock": "closed", "debug": true });
/// let desired = json!({ "interval_s": 30, "lock": "closed", "debug": null });
/// assert_eq!(missing(&reported, &desired), Some(json!({ "interval_s": 30, "debug": null })));
/// ```
pub fn missing(reported: &Value, desired: &Value) -> Option<Value> {
    let Value::Object(wanted) = desired else {
        return (reported != desired).then(|| desired.clone());
    };
    let nothing = Map::new();
    let (have, is_object) = match reported {
        Value::Object(have) => (have, true),
        _ => (&nothing, false),
    };
    let mut patch = Map::new();
    for (key, value) in wanted {
        let change = match have.get(key) {
            None if value.is_null() => None,
            None => missing(&Value::Null, value),
            Some(_) if value.is_null() => Some(Value::Null),
            Some(before) => missing(before, value),
        };
        patch.extend(change.map(|change| (key.clone(), change)));
    }
    // An empty object is wanted where there is none.
    (!patch.is_empty() || !is_object).then_some(Value::Object(patch))
}

/// Says whether objects and arrays are within each other more than `levels` deep.
pub(super) fn is_deeper(value: &Value, levels: usize) -> bool {
    let is_deep = |inside: &Value| levels == 0 || is_deeper(inside, levels - 1);
    match value {
        Value::Object(fields) => levels == 0 || fields.values().any(is_deep),
        Value::Array(items) => levels == 0 || items.iter().any(is_deep),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_examples_of_rfc_7396_hold() {
        let table = [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}})),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a":"b"}), json!(["c"]), json!(["c"])),
            (json!({"a":"foo"}), json!(null), json!(null)),
            (json!({"a":"foo"}), json!("bar"), json!("bar")),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!([1, 2]), json!({"a":"b","c":null}), json!({"a":"b"})),
            (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
        ];
        for (mut target, patch, expected) in table {
            merge(&mut target, &patch);
            assert_eq!(target, expected, "by {patch}");
        }
    }

    /// A document without nulls.
    fn document(rng: &mut fastrand::Rng, depth: u32) -> Value {
        match rng.u32(0..if depth == 0 { 3 } else { 5 }) {
            0 => json!(rng.u32(0..3)),
            1 => json!(["x", rng.u32(0..2)]),
            2 => json!(rng.bool()),
            _ => object(rng, depth - 1),
        }
    }

    fn object(rng: &mut fastrand::Rng, depth: u32) -> Value {
        let fields = (0..rng.u32(0..4)).map(|_| {
            let key = ["a", "b", "c", "d"][rng.usize(0..4)];
            (key.to_owned(), document(rng, depth))
        });
        Value::Object(fields.collect())
    }

    #[test]
    fn differences_bring_one_document_to_the_other_and_what_is_missing_brings_what_is_wanted() {
        let mut rng = fastrand::Rng::with_seed(11);
        for _ in 0..2_000 {
            let (from, to) = (object(&mut rng, 3), object(&mut rng, 3));
            let mut patched = from.clone();
            if let Some(patch) = difference(&from, &to) {
                merge(&mut patched, &patch);
            }
            assert_eq!(patched, to, "from {from}");

            let mut reported = from.clone();
            if let Some(patch) = missing(&from, &to) {
                merge(&mut reported, &patch);
            }
            assert_eq!(missing(&reported, &to), None, "{from} wants {to} and has {reported}");
        }
    }

    #[test]
    fn depth_is_counted_in_objects_and_arrays() {
        let value = json!({ "a": [{ "b": 1 }] });
        assert!(is_deeper(&value, 2) && !is_deeper(&value, 3));
        assert!(!is_deeper(&json!(1), 0));
    }
}
