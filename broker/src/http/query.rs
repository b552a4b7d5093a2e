//! The query of an URL, strictly: names that are not known are errors.

/// Names and values.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Parses `a=1&b=2`, both sides percent-encoded, `+` for a space.
    ///
    /// # Errors
    /// A name is not one of `known` or comes twice, or what is encoded is not UTF-8.
    pub(super) fn parse(query: &str, known: &[&str]) -> Result<Self, String> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = decode(name).zip(decode(value));
            let (name, value) = decoded.ok_or_else(|| format!("{pair:?} in the query is not UTF-8"))?;
            if !known.contains(&name.as_str()) {
                return Err(format!("the query has {name:?}, known are {}", known.join(", ")));
            }
            if pairs.iter().any(|(before, _)| *before == name) {
                return Err(format!("the query has {name:?} twice"));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    /// Returns the value of a name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                (high * 16 + low) as u8
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_decoded_and_strict() {
        let query =
            Query::parse("cursor=5-6d&user=anon%3Aa+b%C3%A9&&limit", &["cursor", "limit", "user"]).unwrap();
        assert_eq!(query.get("cursor"), Some("5-6d"));
        assert_eq!(query.get("user"), Some("anon:a bé"));
        assert_eq!((query.get("limit"), query.get("other")), (Some(""), None));
        for wrong in ["other=1", "limit=1&limit=2", "limit=%", "limit=%4", "limit=%zz", "limit=%ff"] {
            assert!(Query::parse(wrong, &["limit"]).is_err(), "{wrong}");
        }
    }
}
