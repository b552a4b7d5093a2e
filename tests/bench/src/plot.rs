//! A picture of the results: a group of bars a row, on a logarithmic scale, as SVG.

use std::fmt::Write;

use crate::report::number;

/// One row: what each server needs.
#[derive(Debug)]
pub(crate) struct Bar {
    pub(crate) row: String,
    pub(crate) unit: &'static str,
    /// Server and value.
    pub(crate) values: Vec<(String, f64)>,
}

const LEFT: f64 = 330.0;
const WIDTH: f64 = 560.0;
const BAR: f64 = 13.0;
const GAP: f64 = 14.0;
const COLOURS: [(&str, &str); 7] = [
    ("relay", "#b0b0b0"),
    ("mosquitto", "#3c5280"),
    ("nats", "#27aae1"),
    ("rumqttd", "#c7813b"),
    ("rmqtt", "#8d6fb4"),
    ("aedes", "#6b9e58"),
    ("postrider", "#d62728"),
];

/// Draws them; each row has a scale of its own, from a third of its least value to its largest.
pub(crate) fn svg(bars: &[Bar]) -> String {
    let bars_height: f64 = bars.iter().map(|bar| bar.values.len() as f64 * BAR + GAP).sum();
    let (width, height) = (LEFT + WIDTH + 90.0, bars_height + 40.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"16\">Shorter is better; each row is logarithmic with a scale of its own.</text>\n"
    );
    let mut y = 30.0;
    for bar in bars {
        let least = bar.values.iter().map(|(_, value)| *value).fold(f64::INFINITY, f64::min).max(1e-9) / 3.0;
        let most = bar.values.iter().map(|(_, value)| *value).fold(least * 3.0, f64::max);
        let middle = y + bar.values.len() as f64 * BAR / 2.0;
        let _ = writeln!(
            out,
            "<text x=\"8\" y=\"{:.1}\">{}, {}</text>",
            middle + 4.0,
            escaped(&bar.row),
            escaped(bar.unit)
        );
        for (server, value) in &bar.values {
            let colour =
                COLOURS.iter().find(|(name, _)| name == server).map_or("black", |(_, colour)| colour);
            let length = ((value.max(least) / least).ln() / (most / least).ln() * WIDTH).max(1.0);
            let (below, text) = (y + BAR - 3.0, number(Some(*value)));
            let _ = writeln!(
                out,
                "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{below:.1}\">{text} {server}</text>",
                BAR - 2.0,
                LEFT + length + 4.0,
            );
            y += BAR;
        }
        y += GAP;
    }
    out.push_str("</svg>\n");
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_bar_is_a_larger_value_and_text_is_escaped() {
        let values = vec![("relay".to_owned(), 1.0), ("postrider".to_owned(), 2.0)];
        let svg = svg(&[Bar { row: "a < b".to_owned(), unit: "µs", values }]);
        assert!(svg.contains("a &lt; b, µs") && svg.ends_with("</svg>\n"));
        let lengths: Vec<f64> =
            svg.split("width=\"").skip(2).filter_map(|rest| rest.split('"').next()?.parse().ok()).collect();
        assert!(lengths.len() == 2 && lengths[0] < lengths[1], "{lengths:?}");
    }
}
