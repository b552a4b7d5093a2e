//! Ids that follow from what they name, so that a repeat of the same thing has the same id.

use std::fmt::Write;

use aws_lc_rs::digest::{Context, SHA256};

/// Bytes of the digest that are kept: 96 bits, written as 24 digits.
const DIGEST_BYTES: usize = 12;

/// Makes an id of at most 64 characters from a short prefix and the parts that make the thing unique.
pub(crate) fn derive(prefix: &str, parts: &[&str]) -> String {
    let mut context = Context::new(&SHA256);
    for part in parts {
        // The length keeps ("ab", "c") and ("a", "bc") apart.
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    let mut id = format!("{prefix}-");
    for byte in &context.finish().as_ref()[..DIGEST_BYTES] {
        write!(id, "{byte:02x}").expect("writing to a string does not fail");
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_parts_give_the_same_id_and_others_another() {
        let id = derive("cmd", &["im/dispatch", "alice", "m-1"]);
        assert_eq!(id, derive("cmd", &["im/dispatch", "alice", "m-1"]));
        assert_eq!(id.len(), "cmd-".len() + 24);
        let others: [&[&str]; 3] =
            [&["im/dispatch", "alice", "m-2"], &["im/dispatch", "alicem-1", ""], &["im/dispatch", "alice"]];
        for other in others {
            assert_ne!(id, derive("cmd", other), "{other:?}");
        }
    }

    #[test]
    fn ids_on_disk_and_at_peers_stay_valid_across_versions() {
        // First 12 bytes of SHA-256 over (0,0,0,0,0,0,0,1,'a'), computed with sha256sum.
        assert_eq!(derive("ev", &["a"]), format!("ev-{}", GOLDEN));
    }

    const GOLDEN: &str = "3b196fd4907bedf51c3090e9";
}
