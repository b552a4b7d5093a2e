//! Topic names and filters (MQTT 5.0 section 4.7) (to be completed).

use bytestring::ByteString;

/// Why a topic name is not allowed in a PUBLISH or will.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Zero length.
    #[error("it is empty")]
    Empty,
    /// Contains `+` or `#`.
    #[error("it contains a wildcard")]
    Wildcard,
    /// Contains U+0000.
    #[error("it contains the null character")]
    Null,
    /// Over 65,535 bytes.
    #[error("it is over 65,535 bytes")]
    TooLong,
}

/// Why a topic filter is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Zero length.
    #[error("it is empty")]
    Empty,
    /// `#` is not the last level, or a wildcard is not alone in its level.
    #[error("a wildcard is not alone in its level, or # is not the last level")]
    Wildcard,
    /// Contains U+0000.
    #[error("it contains the null character")]
    Null,
    /// Over 65,535 bytes.
    #[error("it is over 65,535 bytes")]
    TooLong,
    /// `$share` without a group name or filter, or with a wildcard in the group name.
    #[error(
        "a shared subscription is $share/GROUP/FILTER with a group of one or more characters other than / + #"
    )]
    Share,
}

/// A valid topic filter, shared prefix taken apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopicFilter {
    /// As the client sent it: what identifies the subscription.
    pub full: ByteString,
    /// The group of `$share/{group}/{filter}`.
    pub share: Option<ByteString>,
    /// What topics are matched against: the whole, or what follows the group.
    pub filter: ByteString,
}

impl TopicFilter {
    /// Parses a filter.
    ///
    /// # Errors
    /// It breaks section 4.7.1 or 4.8.2.
    pub fn parse(full: ByteString) -> Result<Self, FilterError> {
        Ok(Self { filter: full.clone(), full, share: None })
    }
}

/// Checks a topic name.
///
/// # Errors
/// It breaks section 4.7.3 or has a wildcard.
pub fn validate_topic_name(name: &str) -> Result<(), TopicError> {
    if name.is_empty() { Err(TopicError::Empty) } else { Ok(()) }
}

/// Says whether `topic` matches `filter` (both valid), `$` rule included (section 4.7.2).
pub fn filter_matches(filter: &str, topic: &str) -> bool {
    filter == topic
}
