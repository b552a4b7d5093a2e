//! Tokens signed here as their issuers would, judged by the keys of files.

use std::fs;

use aws_lc_rs::{
    encoding::AsDer,
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
        RsaPublicKeyComponents,
    },
};
use protocol::{ProtocolVersion, ReasonCode};
use serde_json::json;

use super::*;
use crate::auth::secret::Secret;

const NOW_S: u64 = 1_800_000_000;
const SECRET: &[u8] = b"a secret of at least 32 bytes, so!";

fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn token(header: Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let signed =
        format!("{}.{}", base64(header.to_string().as_bytes()), base64(claims.to_string().as_bytes()));
    let signature = sign(signed.as_bytes());
    format!("{signed}.{}", base64(&signature))
}

fn hs256(secret: &[u8]) -> impl Fn(&[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    move |message| hmac::sign(&key, message).as_ref().to_vec()
}

fn hs256_token(claims: &Value) -> String {
    token(json!({"alg": "HS256", "typ": "JWT"}), claims, hs256(SECRET))
}

fn claims() -> Value {
    json!({"sub": "alice", "exp": NOW_S + 60})
}

fn pem(der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line)).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}

/// A checker with one key file.
fn tokens(
    settings: AuthJwt,
    set: impl Fn(&mut AuthJwt) -> &mut std::path::PathBuf,
    content: &[u8],
) -> Tokens {
    try_tokens(settings, set, content).unwrap()
}

fn try_tokens(
    mut settings: AuthJwt,
    set: impl Fn(&mut AuthJwt) -> &mut std::path::PathBuf,
    content: &[u8],
) -> Result<Tokens, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    fs::write(&path, content).unwrap();
    *set(&mut settings) = path;
    Tokens::new(&settings, &ProcessKey::from_secret(b"test"))
}

fn with_secret(settings: AuthJwt) -> Tokens {
    tokens(settings, |s| &mut s.secret_file, SECRET)
}

fn claim(username: Option<&str>, password: &str) -> Claim {
    Claim {
        client_id: "truck-1".into(),
        username: username.map(ByteString::from),
        password: Some(Secret::from(password.as_bytes())),
        certificate: None,
        certificate_is_user: true,
        version: ProtocolVersion::V5,
        address: "127.0.0.1:1".to_owned(),
        listener: "mqtt".to_owned(),
        anonymous_allowed: false,
    }
}

fn check(tokens: &Tokens, token: &str) -> Answer {
    tokens.check(&claim(None, token), NOW_S * 1000)
}

#[track_caller]
fn allowed(answer: Answer) -> Grant {
    match answer {
        Answer::Allow(grant) => *grant,
        other => panic!("expected a grant, got {other:?}"),
    }
}

#[track_caller]
fn denied(answer: Answer, reason: ReasonCode, expected: &str) {
    match answer {
        Answer::Deny(denial) => {
            assert_eq!(denial.reason, reason, "{denial:?}");
            assert!(denial.why.contains(expected), "{denial:?}, expected {expected:?}");
        }
        other => panic!("expected a denial, got {other:?}"),
    }
}

#[test]
fn a_token_says_who_comes_in_until_when_and_with_which_groups_and_rules() {
    let tokens = with_secret(AuthJwt { acl_claim: "acl".to_owned(), ..AuthJwt::default() });
    let claims = json!({
        "sub": "alice", "exp": NOW_S + 60, "groups": ["drivers", "night"],
        "acl": [{"allow": true, "access": "publish", "filter": "dev/%c/#"}],
    });
    let grant = allowed(check(&tokens, &hs256_token(&claims)));
    assert_eq!(grant.principal.user.as_deref(), Some("alice"));
    assert_eq!(&grant.principal.groups[..], ["drivers", "night"].map(ByteString::from_static));
    assert_eq!(grant.principal.rules[0].filter, "dev/%c/#");
    // The clocks may be apart: the connection lasts as long as the token would let it in.
    assert_eq!(grant.expires_unix_ms, Some((NOW_S + 60 + 30) * 1000));
    let Proof::Token(key) = grant.proof else { panic!("{grant:?}") };
    assert!(tokens.has_key(&key));
    tokens.replace(Keys(Vec::new()));
    assert!(!tokens.has_key(&key));
}

#[test]
fn what_has_not_the_shape_of_a_token_is_for_others() {
    let tokens = with_secret(AuthJwt::default());
    for password in ["", "secret", "a.b", "a.b.c", "..", "!.!.!", "e30.e30.e30"] {
        assert!(matches!(check(&tokens, password), Answer::Ignore), "{password}");
    }
    let long = format!("{}{}", hs256_token(&claims()), "a".repeat(TOKEN_BYTES_MAX));
    assert!(matches!(check(&tokens, &long), Answer::Ignore));
    let without = Claim { password: None, ..claim(Some("alice"), "") };
    assert!(matches!(tokens.check(&without, 0), Answer::Ignore));
}

#[test]
fn a_token_that_no_key_vouches_for_is_refused() {
    let tokens = with_secret(AuthJwt::default());
    let good = hs256_token(&claims());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let header = base64(json!({"alg": "HS256"}).to_string().as_bytes());
    let others = base64(json!({"sub": "root", "exp": NOW_S + 60}).to_string().as_bytes());
    let wrong = [
        format!("{signed}."),
        format!("{signed}.{}", base64(&[0; 32])),
        format!("{signed}.{}", &signature[1..]),
        format!("{header}.{others}.{signature}"),
        token(json!({"alg": "none"}), &claims(), |_| Vec::new()),
        token(json!({"alg": "None"}), &claims(), hs256(SECRET)),
        token(json!({"alg": "HS384"}), &claims(), hs256(SECRET)),
        token(json!({"alg": "HS256"}), &claims(), hs256(b"another secret of 32 bytes or more")),
    ];
    for token in wrong {
        denied(check(&tokens, &token), ReasonCode::BadUserNameOrPassword, "no key vouches");
    }
    let critical = token(json!({"alg": "HS256", "crit": ["b64"], "b64": false}), &claims(), hs256(SECRET));
    denied(check(&tokens, &critical), ReasonCode::BadUserNameOrPassword, "critical");
}

#[test]
fn times_are_judged_with_leeway() {
    let tokens = with_secret(AuthJwt::default());
    for (claims, expected) in [
        (json!({"sub": "a", "exp": NOW_S - 29}), ""),
        (json!({"sub": "a", "exp": NOW_S as f64 - 28.5}), ""),
        (json!({"sub": "a", "exp": NOW_S - 30}), "has expired"),
        (json!({"sub": "a"}), "has no exp"),
        (json!({"sub": "a", "exp": "tomorrow"}), "exp is no time"),
        (json!({"sub": "a", "exp": -1}), "exp is no time"),
        (json!({"sub": "a", "exp": NOW_S + 60, "nbf": NOW_S + 30}), ""),
        (json!({"sub": "a", "exp": NOW_S + 60, "nbf": NOW_S + 31}), "not valid yet"),
    ] {
        let answer = check(&tokens, &hs256_token(&claims));
        if expected.is_empty() {
            allowed(answer);
        } else {
            denied(answer, ReasonCode::NotAuthorized, expected);
        }
    }
    let lasting = with_secret(AuthJwt { expiry_required: false, ..AuthJwt::default() });
    assert_eq!(allowed(check(&lasting, &hs256_token(&json!({"sub": "a"})))).expires_unix_ms, None);
    let staying = with_secret(AuthJwt { end_at_expiry: false, ..AuthJwt::default() });
    assert_eq!(allowed(check(&staying, &hs256_token(&claims()))).expires_unix_ms, None);
}

#[test]
fn issuer_audience_and_required_claims_are_checked() {
    let tokens = with_secret(AuthJwt {
        issuer: "https://id.example".to_owned(),
        audience: "mqtt".to_owned(),
        required_claims: vec!["device=%c".to_owned(), "sub=%u".to_owned(), "level=3".to_owned()],
        ..AuthJwt::default()
    });
    let good = json!({
        "sub": "alice", "exp": NOW_S + 60, "iss": "https://id.example", "aud": ["web", "mqtt"],
        "device": "truck-1", "level": 3,
    });
    let check_with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        tokens.check(&claim(Some("alice"), &hs256_token(&claims)), NOW_S * 1000)
    };
    allowed(check_with("aud", json!("mqtt")));
    denied(check_with("iss", json!("https://evil.example")), ReasonCode::NotAuthorized, "another issuer");
    denied(check_with("iss", Value::Null), ReasonCode::NotAuthorized, "another issuer");
    denied(check_with("aud", json!(["web"])), ReasonCode::NotAuthorized, "another audience");
    denied(check_with("device", json!("truck-2")), ReasonCode::NotAuthorized, "device is not");
    denied(check_with("level", json!(4)), ReasonCode::NotAuthorized, "level is not");
    denied(check_with("sub", json!("bob")), ReasonCode::NotAuthorized, "sub is not");
    let wrong = AuthJwt { required_claims: vec!["x".to_owned()], ..AuthJwt::default() };
    assert!(try_tokens(wrong, |s| &mut s.secret_file, SECRET).err().unwrap().contains("NAME=VALUE"));
}

#[test]
fn the_user_is_a_name_that_may_come_in() {
    let tokens = with_secret(AuthJwt { username_must_match: true, ..AuthJwt::default() });
    for sub in [json!("anon:x"), json!(""), json!("a\u{0}"), json!(7), Value::Null] {
        let answer = check(&tokens, &hs256_token(&json!({"sub": sub, "exp": NOW_S + 60})));
        denied(answer, ReasonCode::NotAuthorized, "the token");
    }
    let at = NOW_S * 1000;
    allowed(tokens.check(&claim(Some("alice"), &hs256_token(&claims())), at));
    allowed(tokens.check(&claim(None, &hs256_token(&claims())), at));
    let other = tokens.check(&claim(Some("bob"), &hs256_token(&claims())), at);
    denied(other, ReasonCode::NotAuthorized, "another user");
    for (name, value) in [("groups", json!([1])), ("groups", json!(vec!["g"; 257])), ("groups", json!({}))] {
        let mut claims = claims();
        claims[name] = value;
        denied(check(&tokens, &hs256_token(&claims)), ReasonCode::NotAuthorized, "groups");
    }
}

fn rsa_key() -> RsaKeyPair {
    RsaKeyPair::generate(KeySize::Rsa2048).unwrap()
}

fn rs256(key: &RsaKeyPair) -> impl Fn(&[u8]) -> Vec<u8> {
    |message| {
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
        signature
    }
}

fn es256(key: &EcdsaKeyPair) -> impl Fn(&[u8]) -> Vec<u8> {
    |message| key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
}

fn ec_key() -> EcdsaKeyPair {
    EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()
}

#[test]
fn a_public_key_checks_its_own_algorithm_and_is_no_secret() {
    let rsa = rsa_key();
    let ec = ec_key();
    let rsa_pem =
        pem(AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(rsa.public_key()).unwrap().as_ref());
    let ec_pem =
        pem(AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(ec.public_key()).unwrap().as_ref());
    let by_rsa = token(json!({"alg": "RS256"}), &claims(), rs256(&rsa));
    let by_ec = token(json!({"alg": "ES256"}), &claims(), es256(&ec));
    for (pem, good, other, alg) in [(&rsa_pem, &by_rsa, &by_ec, "RS256"), (&ec_pem, &by_ec, &by_rsa, "ES256")]
    {
        let tokens = tokens(AuthJwt::default(), |s| &mut s.public_key_file, pem.as_bytes());
        allowed(check(&tokens, good));
        denied(check(&tokens, other), ReasonCode::BadUserNameOrPassword, "no key vouches");
        // The public key taken for a secret of HS256, under either name.
        for alg in ["HS256", alg] {
            let forged = token(json!({"alg": alg}), &claims(), hs256(pem.as_bytes()));
            denied(check(&tokens, &forged), ReasonCode::BadUserNameOrPassword, "no key vouches");
        }
    }
    for text in ["", "not a key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
        assert!(try_tokens(AuthJwt::default(), |s| &mut s.public_key_file, text.as_bytes()).is_err());
    }
}

#[test]
fn a_set_has_several_keys_chosen_by_their_id() {
    let (rsa, ec, other) = (rsa_key(), ec_key(), ec_key());
    let numbers = RsaPublicKeyComponents::<Vec<u8>>::from(rsa.public_key());
    let point = ec.public_key().as_ref();
    let set = json!({"keys": [
        {"kty": "RSA", "kid": "one", "alg": "RS256", "use": "sig", "n": base64(&numbers.n), "e": base64(&numbers.e)},
        {"kty": "EC", "kid": "two", "crv": "P-256", "x": base64(&point[1..33]), "y": base64(&point[33..])},
        {"kty": "oct", "k": base64(SECRET)},
        {"kty": "OKP", "kid": "four", "crv": "Ed25519", "x": "AAAA"},
        {"kty": "RSA", "kid": "five", "use": "enc", "n": "AAAA", "e": "AQAB"},
    ]});
    let tokens = tokens(AuthJwt::default(), |s| &mut s.jwks_file, set.to_string().as_bytes());
    assert_eq!(tokens.keys.load().len(), 3);
    allowed(check(&tokens, &token(json!({"alg": "RS256", "kid": "one"}), &claims(), rs256(&rsa))));
    allowed(check(&tokens, &token(json!({"alg": "RS256"}), &claims(), rs256(&rsa))));
    allowed(check(&tokens, &token(json!({"alg": "ES256", "kid": "two"}), &claims(), es256(&ec))));
    allowed(check(&tokens, &token(json!({"alg": "HS256", "kid": "any"}), &claims(), hs256(SECRET))));
    for (header, key) in [
        (json!({"alg": "ES256", "kid": "one"}), &ec),
        (json!({"alg": "ES256", "kid": "three"}), &ec),
        (json!({"alg": "ES256", "kid": "two"}), &other),
    ] {
        let answer = check(&tokens, &token(header, &claims(), es256(key)));
        denied(answer, ReasonCode::BadUserNameOrPassword, "no key vouches");
    }
}

#[test]
fn a_wrong_key_file_is_told_without_what_is_in_it() {
    let short = json!({"keys": [{"kty": "RSA", "n": base64(&[0xff; 128]), "e": "AQAB"}]}).to_string();
    let unused = json!({"keys": [{"kty": "OKP"}]}).to_string();
    let missing = json!({"keys": [{"kty": "EC", "crv": "P-256"}]}).to_string();
    let point = json!({"keys": [{"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"}]}).to_string();
    let weak = json!({"keys": [{"kty": "oct", "k": "hunter24"}]}).to_string();
    let many = json!({"keys": vec![json!({"kty": "OKP"}); KEYS_MAX + 1]}).to_string();
    for (text, expected) in [
        ("hunter2", "no JSON Web Key Set"),
        ("{\"keys\": [{\"kty\": [\"hunter2\"]}]}", "no JSON Web Key Set"),
        (&short, "shorter than 2048 bits"),
        (&unused, "has no key for RS256, ES256 or HS256"),
        (&missing, "numbers are missing"),
        (&point, "no point of P-256"),
        (&weak, "HS256 needs 32"),
        (&many, "at most 32"),
    ] {
        let error = try_tokens(AuthJwt::default(), |s| &mut s.jwks_file, text.as_bytes()).err().unwrap();
        assert!(error.contains(expected) && !error.contains("hunter2"), "{text}: {error}");
    }
    let error = try_tokens(AuthJwt::default(), |s| &mut s.secret_file, b"short\n").err().unwrap();
    assert!(error.ends_with("the secret has 5 bytes, HS256 needs 32"), "{error}");
}
