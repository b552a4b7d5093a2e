//! Password hashes: argon2id in the PHC string format, with bounds on what one check may cost.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD as BASE64};

use super::secret::random;

/// What one check costs: OWASP's first choice for argon2id.
pub(crate) const COST: Cost = Cost { memory_kib: 19_456, passes: 2, lanes: 1 };

/// A check may take this much memory at most: 256 MiB.
const MEMORY_KIB_MAX: u32 = 262_144;
const PASSES_MAX: u32 = 64;
const LANES_MAX: u32 = 16;
const SALT_BYTES: usize = 16;
const OUTPUT_BYTES: usize = 32;
/// Lengths that are taken, of salt and hash.
const BYTES_MIN: usize = 8;
const BYTES_MAX: usize = 64;

/// The parameters of argon2id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Cost {
    pub(crate) memory_kib: u32,
    pub(crate) passes: u32,
    pub(crate) lanes: u32,
}

/// A stored password: `$argon2id$v=19$m=19456,t=2,p=1$salt$hash`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PasswordHash {
    cost: Cost,
    salt: Vec<u8>,
    output: Vec<u8>,
}

impl Cost {
    fn params(self, output_bytes: usize) -> Result<Params, String> {
        let Self { memory_kib, passes, lanes } = self;
        if memory_kib > MEMORY_KIB_MAX || passes > PASSES_MAX || lanes > LANES_MAX {
            return Err(format!(
                "m={memory_kib},t={passes},p={lanes} is too costly, \
                 at most m={MEMORY_KIB_MAX},t={PASSES_MAX},p={LANES_MAX} are checked"
            ));
        }
        Params::new(memory_kib, passes, lanes, Some(output_bytes))
            .map_err(|error| format!("m={memory_kib},t={passes},p={lanes} is no cost of argon2: {error}"))
    }
}

impl PasswordHash {
    /// Hashes a password with a new salt.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub(crate) fn new(password: &[u8], cost: Cost) -> Result<Self, String> {
        let salt = random::<SALT_BYTES>()?.to_vec();
        let output = hash(password, &salt, cost, OUTPUT_BYTES)?;
        Ok(Self { cost, salt, output })
    }

    /// Makes a hash that no password has; checking against it costs what checking against a real one costs.
    pub(crate) fn of_nobody(cost: Cost) -> Self {
        Self { cost, salt: vec![0; SALT_BYTES], output: vec![0; OUTPUT_BYTES] }
    }

    /// Reads a PHC string.
    ///
    /// # Errors
    /// It is none of argon2id, or too costly.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "is no argon2id hash such as $argon2id$v=19$m=19456,t=2,p=1$SALT$HASH".to_owned();
        let mut parts = text.split('$');
        let head = [parts.next(), parts.next(), parts.next()];
        if head != [Some(""), Some("argon2id"), Some("v=19")] {
            return Err(wrong());
        }
        let (Some(cost), Some(salt), Some(output), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        let mut numbers = cost.split(',');
        let mut number = |name: &str| -> Result<u32, String> {
            let value = numbers.next().and_then(|pair| pair.strip_prefix(name)).ok_or_else(wrong)?;
            value.parse().map_err(|_| wrong())
        };
        let cost = Cost { memory_kib: number("m=")?, passes: number("t=")?, lanes: number("p=")? };
        if numbers.next().is_some() {
            return Err(wrong());
        }
        let bytes = |text: &str| -> Result<Vec<u8>, String> {
            let bytes = BASE64.decode(text).map_err(|_| wrong())?;
            let is_right = (BYTES_MIN..=BYTES_MAX).contains(&bytes.len());
            if is_right { Ok(bytes) } else { Err(wrong()) }
        };
        let (salt, output) = (bytes(salt)?, bytes(output)?);
        cost.params(output.len())?;
        Ok(Self { cost, salt, output })
    }

    /// Says whether this is the password. Takes its time: never call it where others wait.
    pub(crate) fn verify(&self, password: &[u8]) -> bool {
        let hashed = hash(password, &self.salt, self.cost, self.output.len());
        hashed.is_ok_and(|hashed| verify_slices_are_equal(&hashed, &self.output).is_ok())
    }

    pub(crate) fn cost(&self) -> Cost {
        self.cost
    }
}

fn hash(password: &[u8], salt: &[u8], cost: Cost, bytes: usize) -> Result<Vec<u8>, String> {
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, cost.params(bytes)?);
    let mut output = vec![0; bytes];
    argon2.hash_password_into(password, salt, &mut output).map_err(|error| format!("argon2: {error}"))?;
    Ok(output)
}

impl fmt::Display for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cost { memory_kib, passes, lanes } = self.cost;
        let (salt, output) = (BASE64.encode(&self.salt), BASE64.encode(&self.output));
        write!(f, "$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${salt}${output}")
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordHash").field("cost", &self.cost).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Little, for tests that hash often.
    const CHEAP: Cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };

    #[test]
    fn a_hash_knows_its_password_and_no_other() {
        let hash = PasswordHash::new(b"secret", CHEAP).unwrap();
        assert!(hash.verify(b"secret"));
        for other in [&b""[..], b"Secret", b"secret ", b"\0"] {
            assert!(!hash.verify(other));
        }
        assert_ne!(hash, PasswordHash::new(b"secret", CHEAP).unwrap(), "each has its own salt");
        assert_eq!(PasswordHash::parse(&hash.to_string()), Ok(hash));
        assert!(!PasswordHash::of_nobody(CHEAP).verify(b""));
    }

    #[test]
    fn a_hash_that_another_program_made_is_understood() {
        // Made by the reference implementation: argon2 somesalt -id -t 2 -m 16 -p 1, password "password".
        let text = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        let hash = PasswordHash::parse(text).unwrap();
        assert!(hash.verify(b"password"));
        assert!(!hash.verify(b"differentpassword"));
        assert_eq!(hash.to_string(), text);
    }

    #[test]
    fn what_is_no_hash_or_costs_too_much_is_refused() {
        for (text, expected) in [
            ("", "is no argon2id hash"),
            ("secret", "is no argon2id hash"),
            (
                "$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8",
                "is no argon2id hash",
            ),
            (
                "$argon2id$v=16$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8",
                "is no argon2id hash",
            ),
            (
                "$argon2id$v=19$m=65536,t=2$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8",
                "is no argon2id hash",
            ),
            ("$argon2id$v=19$m=65536,t=2,p=1$c29t$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8", "is no argon2id hash"),
            (
                "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8$x",
                "is no argon2id hash",
            ),
            (
                "$argon2id$v=19$m=4294967295,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8",
                "is too costly",
            ),
            (
                "$argon2id$v=19$m=1,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8",
                "is no cost of argon2",
            ),
        ] {
            let error = PasswordHash::parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_hash_is_not_shown() {
        let hash = PasswordHash::new(b"secret", CHEAP).unwrap();
        assert!(!format!("{hash:?}").contains(&BASE64.encode(&hash.output)));
    }
}
