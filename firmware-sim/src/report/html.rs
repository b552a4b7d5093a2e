//! One page without scripts and without anything from elsewhere.

use std::fmt::Write as _;

use super::{Subject, escaped, lines};
use crate::ledger::Wrong;
use crate::world::Outcome;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem}\
table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #ccc;padding:.3rem .6rem;text-align:left;vertical-align:top}\
.ok{color:#0a6b2d}.bad{color:#b00020}pre{background:#f4f4f4;padding:1rem;overflow-x:auto}";

/// The run as an HTML page.
pub fn html(subject: &Subject<'_>, outcome: &Outcome) -> String {
    let verdict = if outcome.has_passed() { ("ok", "passed") } else { ("bad", "failed") };
    let (name, about) = (escaped(subject.name), escaped(subject.about));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{name}</title>\
         <style>{STYLE}</style></head>\n<body>\n<h1>{name}: <span class=\"{}\">{}</span></h1>\n<p>{about}</p>\n<pre>",
        verdict.0, verdict.1
    );
    page.push_str(&escaped(&lines(subject, outcome).join("\n")));
    page.push_str("</pre>\n<table><tr><th>rule</th><th>broken</th><th>first findings</th></tr>\n");
    for wrong in Wrong::ALL {
        let count = outcome.broken.get(&wrong).copied().unwrap_or(0);
        let class = if count == 0 { "ok" } else { "bad" };
        let told = outcome.findings.iter().filter(|finding| finding.wrong == wrong);
        let told: Vec<String> = told.map(|finding| escaped(&finding.to_string())).collect();
        // Writing into a string cannot fail.
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td class=\"{class}\">{count}</td><td>{}</td></tr>",
            escaped(wrong.rule()),
            told.join("<br>")
        );
    }
    let _ = writeln!(
        page,
        "</table>\n<p>To repeat: <code>{}</code></p>\n</body></html>",
        escaped(subject.repeat)
    );
    page
}
