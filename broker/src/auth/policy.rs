//! Anonymous clients, and listeners that must not be open to the world by accident.

use crate::{
    Config,
    auth::jwt::Tokens,
    config::{Anonymous, Authenticator, ClientCertificateMode},
    listener::Listener,
};

/// What of a listener decides whether anonymous clients may come in by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Door {
    /// What its own key says.
    pub(crate) anonymous: Option<bool>,
    /// Whether only this machine can reach it.
    pub(crate) is_loopback_only: bool,
    /// Whether a client certificate names the user.
    pub(crate) has_certificates: bool,
}

impl Door {
    /// Returns what matters of a listener.
    pub(crate) fn of(listener: &Listener) -> Self {
        let config = &listener.config;
        let is_asked = config.client_certificate != ClientCertificateMode::None || config.proxy_identity;
        Self {
            anonymous: config.anonymous,
            is_loopback_only: listener.is_loopback_only,
            has_certificates: is_asked && config.certificate_is_user,
        }
    }
}

/// Says whether clients that bring nothing may come in.
pub(super) fn anonymous_allowed(policy: Anonymous, has_authenticators: bool, door: &Door) -> bool {
    door.anonymous.unwrap_or(match policy {
        Anonymous::Allow => true,
        Anonymous::Deny => false,
        Anonymous::Auto => door.is_loopback_only && !has_authenticators && !door.has_certificates,
    })
}

/// Says whether something is set up that knows users.
fn has_authenticators(config: &Config) -> bool {
    config.auth.order.iter().any(|authenticator| match authenticator {
        Authenticator::Users => !config.auth.users_file.as_os_str().is_empty(),
        Authenticator::Jwt => Tokens::are_set(&config.auth_jwt),
        Authenticator::Http => !config.auth_http.url.is_empty(),
    })
}

/// Refuses to open a door that nobody watches: others can reach it, and nothing says who may come in.
///
/// # Errors
/// One is so; the message says how to set up users, and how to want it so.
pub(crate) fn check_doors(
    config: &Config,
    doors: impl IntoIterator<Item = (String, String, Door)>,
) -> Result<(), String> {
    let is_open = |door: &Door| {
        config.auth.anonymous == Anonymous::Auto
            && !has_authenticators(config)
            && !door.is_loopback_only
            && !door.has_certificates
            && door.anonymous.is_none()
    };
    let Some((key, address, _)) = doors.into_iter().find(|(_, _, door)| is_open(door)) else { return Ok(()) };
    Err(format!(
        "{key} = {address} lets other machines in, and nothing says who may come. Make a user and name the file:\n\
         \n    postrider passwd users.toml NAME\n\
         \n    [auth]\n    users_file = \"users.toml\"      # or POSTRIDER_AUTH__USERS_FILE=users.toml\n\
         \nOther ways (tokens, client certificates, an HTTP hook) are in docs/security.md. To let everyone in without \
         a name, say auth.anonymous = \"allow\" (or POSTRIDER_AUTH__ANONYMOUS=allow); to serve this machine only, \
         listen on 127.0.0.1."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTSIDE: Door = Door { anonymous: None, is_loopback_only: false, has_certificates: false };
    const INSIDE: Door = Door { is_loopback_only: true, ..OUTSIDE };

    #[test]
    fn anonymous_clients_come_in_by_default_only_where_nothing_else_can_be_checked_and_nobody_else_is() {
        let with = |anonymous, door: Door| Door { anonymous, ..door };
        let certified = Door { has_certificates: true, ..INSIDE };
        for (policy, authenticators, door, expected) in [
            (Anonymous::Auto, false, INSIDE, true),
            (Anonymous::Auto, true, INSIDE, false),
            (Anonymous::Auto, false, OUTSIDE, false),
            (Anonymous::Auto, false, certified, false),
            (Anonymous::Allow, true, OUTSIDE, true),
            (Anonymous::Deny, false, INSIDE, false),
            (Anonymous::Deny, true, with(Some(true), OUTSIDE), true),
            (Anonymous::Allow, false, with(Some(false), INSIDE), false),
        ] {
            assert_eq!(anonymous_allowed(policy, authenticators, &door), expected, "{policy:?} {door:?}");
        }
    }

    #[test]
    fn a_door_that_nobody_watches_is_not_opened() {
        let check = |config: &Config, door| {
            check_doors(config, [("mqtt.listen".to_owned(), "0.0.0.0:1883".to_owned(), door)])
        };
        let mut config = Config::default();
        let error = check(&config, OUTSIDE).unwrap_err();
        for needed in
            ["mqtt.listen = 0.0.0.0:1883", "postrider passwd", "users_file", "auth.anonymous = \"allow\""]
        {
            assert!(error.contains(needed), "{needed}: {error}");
        }
        assert_eq!(check(&config, INSIDE), Ok(()));
        assert_eq!(check(&config, Door { has_certificates: true, ..OUTSIDE }), Ok(()));
        assert_eq!(check(&config, Door { anonymous: Some(true), ..OUTSIDE }), Ok(()));
        for anonymous in [Anonymous::Allow, Anonymous::Deny] {
            config.auth.anonymous = anonymous;
            assert_eq!(check(&config, OUTSIDE), Ok(()));
        }
        config.auth.anonymous = Anonymous::Auto;
        config.auth.users_file = "users.toml".into();
        assert_eq!(check(&config, OUTSIDE), Ok(()));
        config.auth.order = vec![Authenticator::Jwt];
        assert!(check(&config, OUTSIDE).is_err(), "users that nobody is asked for watch nothing");
    }
}
