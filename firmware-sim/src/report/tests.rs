//! Reports of a run that passed and of one that did not.

use std::collections::BTreeMap;

use super::*;
use crate::ledger::{Counts, Finding, Latency};
use crate::world::Stats;

fn outcome(wrong: bool) -> Outcome {
    let mut latency = Latency::default();
    latency.add(1_500);
    let finding = Finding { wrong: Wrong::Lost, device: 6, number: 41, what: "gone <&\"\u{1}>".to_owned() };
    Outcome {
        seed: 7,
        hash: 0xabc,
        seconds: 60,
        devices: 10,
        counts: Counts { made: 9, accepted: 9, delivered: 8, ..Counts::default() },
        latency,
        stats: Stats { unlocks: 2, ..Stats::default() },
        commands: BTreeMap::from([("done", 2)]),
        bytes_per_device: 5_000,
        broker_bytes: 1_000,
        generator: None,
        broken: if wrong { BTreeMap::from([(Wrong::Lost, 3)]) } else { BTreeMap::new() },
        findings: if wrong { vec![finding] } else { Vec::new() },
    }
}

fn subject() -> Subject<'static> {
    Subject {
        name: "a & b",
        about: "what <it> is",
        repeat: "postrider sim run a.toml --seed 7",
        took_s: 1.25,
    }
}

#[test]
fn a_failed_run_says_how_to_repeat_it_in_every_form() {
    let (subject, failed, passed) = (subject(), outcome(true), outcome(false));
    let text = lines(&subject, &failed).join("\n");
    assert!(text.ends_with("failed; to repeat: postrider sim run a.toml --seed 7"), "{text}");
    assert!(text.contains("no accepted record is lost (3 times)") && text.contains("device 7, number 41"));
    assert!(lines(&subject, &passed).join("\n").ends_with("passed"));
    for form in [junit(&subject, &failed), html(&subject, &failed), json(&subject, &failed).to_string()] {
        assert!(form.contains("postrider sim run a.toml --seed 7"), "{form}");
        assert!(form.contains("0000000000000abc"), "{form}");
    }
}

#[test]
fn junit_has_one_test_a_rule_and_text_that_xml_can_hold() {
    let xml = junit(&subject(), &outcome(true));
    assert_eq!(xml.matches("<testcase ").count(), Wrong::ALL.len());
    assert_eq!(xml.matches("<failure ").count(), 1);
    assert!(xml.contains("name=\"a &amp; b\"") && xml.contains("gone &lt;&amp;&quot;?&gt;"), "{xml}");
    assert_eq!(junit(&subject(), &outcome(false)).matches("<failure").count(), 0);
}

#[test]
fn json_counts_each_rule() {
    let value = json(&subject(), &outcome(true));
    assert_eq!((value["passed"].as_bool(), value["records"]["delivered"].as_u64()), (Some(false), Some(8)));
    let lost = value["rules"].as_array().unwrap().iter().find(|rule| rule["broken"] == 3).unwrap();
    assert_eq!(lost["rule"], "no accepted record is lost");
}

#[test]
fn the_page_says_nothing_unescaped() {
    let page = html(&subject(), &outcome(true));
    assert!(page.contains("what &lt;it&gt; is") && !page.contains("gone <&"), "{page}");
}
