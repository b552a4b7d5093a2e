//! Texts in the markups of chat channels: what people see is what the message says, whatever characters are in it.

/// Cuts a text to so many characters; what is cut ends with an ellipsis.
pub(super) fn cut_chars(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        None => text.to_owned(),
        Some(_) => text.chars().take(chars_max.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// Cuts a text to so many bytes; what is cut ends with an ellipsis.
pub(super) fn cut_bytes(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(bytes_max.saturating_sub('…'.len_utf8()));
    format!("{}…", &text[..end])
}

/// Escapes the three characters that Slack's mrkdwn gives a meaning ("Escaping text").
pub(super) fn slack(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Escapes what HTML gives a meaning.
pub(super) fn html(text: &str) -> String {
    slack(text).replace('"', "&quot;").replace('\'', "&#39;")
}

/// Puts a backslash before all that Markdown gives a meaning.
pub(super) fn markdown(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if matches!(
            c,
            '\\' | '`'
                | '*'
                | '_'
                | '{'
                | '}'
                | '['
                | ']'
                | '('
                | ')'
                | '#'
                | '+'
                | '!'
                | '|'
                | '>'
                | '<'
                | '~'
        ) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_meaning_is_escaped() {
        assert_eq!(slack("a < b & <!channel>"), "a &lt; b &amp; &lt;!channel&gt;");
        assert_eq!(html("\"<b>'"), "&quot;&lt;b&gt;&#39;");
        assert_eq!(markdown("*truck_7* [x](y)"), "\\*truck\\_7\\* \\[x\\]\\(y\\)");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut_chars("lörry", 5), "lörry");
        assert_eq!(cut_chars("lörry!", 5), "lörr…");
        assert_eq!(cut_bytes("lörry", 6), "lörry");
        let cut = cut_bytes("lörry!", 6);
        assert_eq!(cut, "lö…");
    }
}
