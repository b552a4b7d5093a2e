//! Approvals: who has signed this very command.
//!
//! An approver holds an Ed25519 key, the device only its public half, so that a stolen device approves nothing. The signature is over
//! [`approval_text`]: device, command id, name, arguments, nonce and expiry, so an approval fits one command on one device until
//! its expiry. It travels in the command as `args.approval`: `{"approver","nonce","signature"}`, the signature in hexadecimal.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::signature::{ED25519, ED25519_PUBLIC_KEY_LEN, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::commands::{Command, UsedNonce};
use crate::hex;

/// First line of what is signed.
const PURPOSE: &str = "postrider-approval-1";
/// Most approvers.
const APPROVERS_MAX: usize = 1_000;

/// The approvers of a device and their public keys.
///
/// ```
/// use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
/// use device_sdk::commands::Command;
/// use device_sdk::guard::{ApprovalError, Approvers, approval_text};
/// use serde_json::json;
///
/// // In the office.
/// let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32])?;
/// let mut command: Command = serde_json::from_str(r#"{"id":"c1","name":"unlock","args":{},"expires_at":1800000000000}"#)?;
/// let signature = key.sign(approval_text("truck-7", &command, "ann", "n-1").as_bytes());
/// let digits: String = signature.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
/// command.args["approval"] = json!({ "approver": "ann", "nonce": "n-1", "signature": digits });
///
/// // On the truck.
/// let mut approvers = Approvers::default();
/// approvers.add("ann", key.public_key().as_ref())?;
/// assert_eq!(approvers.check("truck-7", &command)?.nonce, "n-1");
/// // For another truck it is none.
/// assert!(matches!(approvers.check("truck-8", &command), Err(ApprovalError::Signature { .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
pub struct Approvers {
    keys: BTreeMap<String, Vec<u8>>,
}

impl fmt::Debug for Approvers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.keys.keys()).finish()
    }
}

/// What a command carries in `args.approval`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Who approves: a name of the device's list.
    pub approver: String,
    /// Something never used before, 1 to 64 characters.
    pub nonce: String,
    /// Ed25519 over [`approval_text`], 128 hexadecimal digits.
    pub signature: String,
}

/// Why a command is not approved, or an approver cannot be listed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApprovalError {
    /// It carries no approval.
    #[error("nobody has approved it")]
    Missing,
    /// It carries something else.
    #[error("its approval cannot be read: {what}")]
    Malformed {
        /// What is wrong.
        what: String,
    },
    /// The approver is not on the list.
    #[error("{approver:?} is not one who may approve")]
    NotListed {
        /// Who, cut to 64 characters.
        approver: String,
    },
    /// The signature is not the approver's, or over something else.
    #[error("the approval of {approver:?} is not for this command")]
    Signature {
        /// Who.
        approver: String,
    },
    /// An approval without an end would have to be remembered for ever.
    #[error("a command that needs an approval needs an expiry (expires_at)")]
    NoExpiry,
    /// The key is none.
    #[error("the public key of {approver:?} has {bytes} bytes, an Ed25519 key has {ED25519_PUBLIC_KEY_LEN}")]
    Key {
        /// Whose.
        approver: String,
        /// Its length.
        bytes: usize,
    },
    /// The list is full.
    #[error("there are {APPROVERS_MAX} approvers already")]
    TooMany,
}

impl Approvers {
    /// Adds an approver with the 32 bytes of an Ed25519 public key.
    ///
    /// # Errors
    /// The key is none, or the list is full.
    pub fn add(&mut self, approver: impl Into<String>, public_key: &[u8]) -> Result<(), ApprovalError> {
        let approver = approver.into();
        if public_key.len() != ED25519_PUBLIC_KEY_LEN {
            return Err(ApprovalError::Key { approver, bytes: public_key.len() });
        }
        if self.keys.len() >= APPROVERS_MAX {
            return Err(ApprovalError::TooMany);
        }
        self.keys.insert(approver, public_key.to_vec());
        Ok(())
    }

    /// Checks a command's approval; the nonce is for the journal, which knows those used before.
    ///
    /// # Errors
    /// Why it is none.
    pub fn check(&self, device: &str, command: &Command) -> Result<UsedNonce, ApprovalError> {
        let value = command.args.get("approval").ok_or(ApprovalError::Missing)?;
        let approval: Approval = Deserialize::deserialize(value)
            .map_err(|error: serde_json::Error| ApprovalError::Malformed { what: error.to_string() })?;
        let expires_at = command.expires_at.ok_or(ApprovalError::NoExpiry)?;
        let Some(key) = self.keys.get(&approval.approver) else {
            return Err(ApprovalError::NotListed { approver: approval.approver.chars().take(64).collect() });
        };
        let signature = hex::decode(&approval.signature).ok_or_else(|| ApprovalError::Malformed {
            what: "its signature is not hexadecimal".to_owned(),
        })?;
        let text = approval_text(device, command, &approval.approver, &approval.nonce);
        UnparsedPublicKey::new(&ED25519, key)
            .verify(text.as_bytes(), &signature)
            .map_err(|_| ApprovalError::Signature { approver: approval.approver.clone() })?;
        Ok(UsedNonce { approver: approval.approver, nonce: approval.nonce, expires_at })
    }
}

/// Returns what an approver signs: a JSON array, one line, of the purpose, the device, the command's id, name, arguments without
/// `approval`, the approver, the nonce and `expires_at`. Objects have their keys sorted and nothing has spaces.
///
/// ```
/// use device_sdk::commands::Command;
/// use device_sdk::guard::approval_text;
/// let args = serde_json::json!({ "door": 2, "approval": { "approver": "ann" } });
/// let command = Command { id: "c1".into(), name: "unlock".into(), args, expires_at: Some(1800000000000) };
/// assert_eq!(
///     approval_text("truck-7", &command, "ann", "n-1"),
///     r#"["postrider-approval-1","truck-7","c1","unlock",{"door":2},"ann","n-1",1800000000000]"#
/// );
/// ```
pub fn approval_text(device: &str, command: &Command, approver: &str, nonce: &str) -> String {
    let mut args = command.args.clone();
    if let Value::Object(fields) = &mut args {
        fields.remove("approval");
    }
    let fields: [Value; 8] = [
        PURPOSE.into(),
        device.into(),
        command.id.as_str().into(),
        command.name.as_str().into(),
        sorted(args),
        approver.into(),
        nonce.into(),
        command.expires_at.into(),
    ];
    Value::from(fields.to_vec()).to_string()
}

/// Puts the keys of all objects in order, whatever map this build's JSON has.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let ordered: BTreeMap<String, Value> = fields.into_iter().map(|(k, v)| (k, sorted(v))).collect();
            Value::Object(ordered.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    use serde_json::json;

    use super::*;

    fn signed(key: &Ed25519KeyPair, device: &str, nonce: &str) -> Command {
        let mut command = Command {
            id: "c1".to_owned(),
            name: "unlock".to_owned(),
            args: json!({ "zone": "b", "door": { "y": 1, "a": 2 } }),
            expires_at: Some(9),
        };
        let text = approval_text(device, &command, "ann", nonce);
        let signature = hex::encode(key.sign(text.as_bytes()).as_ref());
        command.args["approval"] = json!({ "approver": "ann", "nonce": nonce, "signature": signature });
        command
    }

    #[test]
    fn an_approval_is_for_one_command_on_one_device() {
        let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let mut approvers = Approvers::default();
        approvers.add("ann", key.public_key().as_ref()).unwrap();
        approvers.add("bob", &[9; 32]).unwrap();
        let command = signed(&key, "truck-7", "n-1");
        let used = UsedNonce { approver: "ann".to_owned(), nonce: "n-1".to_owned(), expires_at: 9 };
        assert_eq!(approvers.check("truck-7", &command), Ok(used));
        let changes: [fn(&mut Command); 7] = [
            |command| command.id = "c2".to_owned(),
            |command| command.name = "open".to_owned(),
            |command| command.args["door"]["y"] = json!(2),
            |command| command.expires_at = Some(10),
            |command| command.args["approval"]["nonce"] = json!("n-2"),
            |command| command.args["approval"]["approver"] = json!("bob"),
            |command| command.args["approval"]["signature"] = json!("00"),
        ];
        for change in changes {
            let mut other = command.clone();
            change(&mut other);
            let error = approvers.check("truck-7", &other).unwrap_err().to_string();
            assert!(error.ends_with("is not for this command"), "{error}");
        }
        assert!(matches!(approvers.check("truck-8", &command), Err(ApprovalError::Signature { .. })));
    }

    #[test]
    fn what_is_no_approval_says_why() {
        let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let mut approvers = Approvers::default();
        assert!(matches!(approvers.add("ann", &[1]), Err(ApprovalError::Key { bytes: 1, .. })));
        let command = signed(&key, "truck-7", "n-1");
        let error = approvers.check("truck-7", &command).unwrap_err().to_string();
        assert_eq!(error, "\"ann\" is not one who may approve");
        approvers.add("ann", key.public_key().as_ref()).unwrap();
        let endless = Command { expires_at: None, ..command.clone() };
        assert_eq!(approvers.check("truck-7", &endless), Err(ApprovalError::NoExpiry));
        let bare = Command { args: Value::Null, ..command.clone() };
        assert_eq!(approvers.check("truck-7", &bare), Err(ApprovalError::Missing));
        for wrong in [
            json!(1),
            json!({ "approver": "ann" }),
            json!({ "approver": "ann", "nonce": "n", "signature": "xy" }),
        ] {
            let other = Command { args: json!({ "approval": wrong }), ..command.clone() };
            assert!(matches!(approvers.check("truck-7", &other), Err(ApprovalError::Malformed { .. })));
        }
        assert!(!format!("{approvers:?}").contains(&hex::encode(key.public_key().as_ref())));
    }
}
