//! Signatures against others' code: apprise's for DingTalk, and for Feishu, which apprise does not sign, the example of its documentation.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use super::{dingtalk, feishu};
use crate::config::Secret;

/// Reads `[[time, secret], …]` and writes the signatures.
const DINGTALK: &str = r#"
import json, sys, time, urllib.parse
from apprise.plugins.dingtalk import NotifyDingTalk
signed = []
for at_ms, secret in json.load(sys.stdin):
    time.time = lambda: at_ms / 1000
    robot = NotifyDingTalk(token="t", secret="x")
    robot.secret = secret
    stamp, signature = robot.get_signature()
    assert stamp == str(at_ms), (stamp, at_ms)
    signed.append(urllib.parse.unquote(signature))
json.dump(signed, sys.stdout)
"#;

const FEISHU: &str = r#"
import base64, hashlib, hmac, json, sys
def gen_sign(timestamp, secret):
    string_to_sign = '{}\n{}'.format(timestamp, secret)
    return base64.b64encode(hmac.new(string_to_sign.encode("utf-8"), digestmod=hashlib.sha256).digest()).decode("utf-8")
json.dump([gen_sign(at_ms // 1000, secret) for at_ms, secret in json.load(sys.stdin)], sys.stdout)
"#;

/// Runs a program in the tests' Python; `None` if that is not installed, which scripts/test does.
fn python(program: &str, input: &[u8]) -> Option<Vec<String>> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/clients/.venv/bin/python");
    if !python.exists() {
        println!("skipped: {} is not there; scripts/test installs it", python.display());
        return None;
    }
    let mut child = Command::new(python)
        .args(["-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "python ended with {}", output.status);
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// Times and secrets of all lengths, with characters from everywhere.
fn pairs() -> Vec<(u64, String)> {
    let mut rng = fastrand::Rng::with_seed(7);
    (0..1_000)
        .map(|_| {
            let length = rng.usize(1..80);
            let secret =
                std::iter::repeat_with(|| if rng.u8(..) < 230 { rng.alphanumeric() } else { rng.char(..) });
            let secret = secret.take(length).filter(|c| !c.is_control()).collect();
            (rng.u64(1_600_000_000_000..1_900_000_000_000), secret)
        })
        .collect()
}

#[test]
fn signatures_are_those_of_apprise_and_of_the_documentation() {
    let pairs = pairs();
    let input = serde_json::to_vec(&pairs).unwrap();
    if let Some(theirs) = python(DINGTALK, &input) {
        let ours: Vec<_> =
            pairs.iter().map(|(at_ms, secret)| dingtalk::sign(*at_ms, &Secret(secret.clone()))).collect();
        assert_eq!(ours, theirs);
    }
    if let Some(theirs) = python(FEISHU, &input) {
        let ours: Vec<_> = pairs
            .iter()
            .map(|(at_ms, secret)| feishu::sign(at_ms / 1_000, &Secret(secret.clone())))
            .collect();
        assert_eq!(ours, theirs);
    }
}
