//! Wills of sessions that end with their connection: they are in the log, so that one that ended with the process is
//! published by the next one (section 3.1.2.5: a server that fails may defer its wills until it is there again).

use bytestring::ByteString;
use protocol::Will;

use super::Shard;
use super::accept::Publisher;
use super::checkpoint::RECORD_BYTES;
use crate::Now;
use crate::record::{Entry, SessionNo};
use crate::route::SessionKey;

/// A will of a session that ended with the process.
#[derive(Debug)]
pub(super) struct LeftWill {
    pub(super) client_id: ByteString,
    pub(super) user: ByteString,
    pub(super) will: Box<Will>,
}

impl Shard {
    /// Has the log keep the will of a session that does not last. [MQTT-3.1.2-8] it is stored on the server.
    pub(super) fn log_will(&mut self, key: SessionKey, will: Box<Will>) {
        let session = &mut self.sessions[key];
        session.is_will_logged = true;
        let (client_id, user) = (session.client_id.clone(), session.user.clone());
        let session = session.no;
        self.write(&Entry::WillLeft { session, client_id, user, will });
    }

    /// The will of a session that does not last is published in this turn, or was taken back.
    pub(super) fn forget_logged_will(&mut self, key: SessionKey) {
        let session = &mut self.sessions[key];
        if std::mem::take(&mut session.is_will_logged) {
            let session = session.no;
            self.write(&Entry::WillGone { session });
        }
    }

    /// Takes such a will back from the log.
    pub(super) fn restore_will(&mut self, session: SessionNo, left: LeftWill) {
        self.next_session = self.next_session.max(session.0.saturating_add(1));
        self.left_wills.insert(session, left);
    }

    /// Publishes the wills that the last process left: their sessions ended with it, so no delay is waited for.
    pub(super) fn publish_left_wills(&mut self, now: Now) {
        for (session, LeftWill { client_id: client, user, will }) in std::mem::take(&mut self.left_wills) {
            // It was asked for when the will was left; who left it is not known any more.
            let by = Publisher { session: None, user, client, principal: None };
            self.publish_will(now, by, *will);
            self.write(&Entry::WillGone { session });
            if self.turn.record.len() > RECORD_BYTES {
                self.finish(now);
            }
        }
        self.finish(now);
    }
}
