//! Who may publish and subscribe where: ordered rules, the first that matches decides.
//!
//! Pure: rules come parsed from the caller. Once any rule exists, what no rule allows is denied; what
//! docs/protocol.md section 11 grants to everyone needs no rule.

use bytestring::ByteString;

/// What a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Publishing, a will included.
    Publish,
    /// Subscribing.
    Subscribe,
    /// Both.
    Both,
}

/// Whom a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Everyone.
    All,
    /// Clients without an authenticated user.
    Anonymous,
    /// Clients with one.
    Authenticated,
    /// One user.
    User(ByteString),
    /// A member of the group.
    Group(ByteString),
    /// One client id.
    Client(ByteString),
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AclRule {
    /// Whether it allows or denies.
    pub allow: bool,
    /// Whom it is about.
    pub who: Who,
    /// What it is about.
    pub access: Access,
    /// Topics, as a filter in which a level `%c` stands for the client id and `%u` for the user; they match
    /// literally: a name with `/`, `+` or `#` in it matches nothing.
    pub filter: ByteString,
}

/// The node's rules; none = everything is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acl {
    /// In order of precedence.
    pub rules: Vec<AclRule>,
}
