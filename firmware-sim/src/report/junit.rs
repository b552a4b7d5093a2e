//! JUnit XML, as build servers read it.

use std::fmt::Write as _;

use super::{Subject, escaped};
use crate::ledger::Wrong;
use crate::world::Outcome;

/// The run as a JUnit document: one test a rule.
pub fn junit(subject: &Subject<'_>, outcome: &Outcome) -> String {
    let (name, took_s) = (escaped(subject.name), subject.took_s);
    let (tests, failures) = (Wrong::ALL.len(), outcome.broken.len());
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // Writing into a string cannot fail.
    let _ = writeln!(
        xml,
        "<testsuites tests=\"{tests}\" failures=\"{failures}\" time=\"{took_s:.3}\">\n  \
         <testsuite name=\"{name}\" tests=\"{tests}\" failures=\"{failures}\" errors=\"0\" skipped=\"0\" time=\"{took_s:.3}\">\n    \
         <properties>"
    );
    let properties = [
        ("seed", outcome.seed.to_string()),
        ("ledger_hash", format!("{:016x}", outcome.hash)),
        ("repeat", subject.repeat.to_owned()),
        ("devices", outcome.devices.to_string()),
        ("records_made", outcome.counts.made.to_string()),
        ("records_delivered", outcome.counts.delivered.to_string()),
    ];
    for (key, value) in properties {
        let _ = writeln!(xml, "      <property name=\"{key}\" value=\"{}\"/>", escaped(&value));
    }
    xml.push_str("    </properties>\n");
    for wrong in Wrong::ALL {
        let rule = escaped(wrong.rule());
        let _ = write!(xml, "    <testcase classname=\"{name}\" name=\"{rule}\" time=\"0\"");
        let Some(count) = outcome.broken.get(&wrong) else {
            xml.push_str("/>\n");
            continue;
        };
        let told: Vec<String> = outcome
            .findings
            .iter()
            .filter(|finding| finding.wrong == wrong)
            .map(|finding| escaped(&finding.to_string()))
            .collect();
        let _ = writeln!(
            xml,
            ">\n      <failure message=\"{count} times\">{}\nto repeat: {}</failure>\n    </testcase>",
            told.join("\n"),
            escaped(subject.repeat)
        );
    }
    xml.push_str("  </testsuite>\n</testsuites>\n");
    xml
}
