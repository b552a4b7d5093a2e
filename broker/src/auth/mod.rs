//! Who may come in: users and their passwords, tokens, certificates, the HTTP hook, anonymous clients.
//!
//! [`Auth`] is asked by the shard, which never waits: hashing a password or asking a service happens on a thread
//! of its own, and the verdict comes through a oneshot that the connection's task awaits. What is waited for is
//! bounded. Nothing here knows of sessions or topics; rules are parsed here and judged in the engine.
//!
//! Invariants: no password or token is kept, logged or shown ([`Secret`]); a user who does not exist costs what a
//! wrong password costs; a file that is wrong at a reload changes nothing.

mod breaker;
mod claim;
mod hook;
mod jwt;
mod memory;
mod password;
pub(crate) mod policy;
mod rules;
mod scram;
mod secret;
mod text_file;
mod users;
mod users_file;

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use engine::{Acl, Principal};
use protocol::{ByteString, ReasonCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

pub(crate) use self::claim::{Claim, Denial, Grant, Verdict};
use self::{
    claim::{Answer, Proof},
    hook::Hook,
    jwt::{Keys, Tokens},
    memory::Memory,
    scram::{Exchange, Progress, ScramError},
    secret::ProcessKey,
    users::{User, Users, check_name},
};
pub use self::{
    secret::Secret,
    users_file::{Changed, UserChange, UserSummary, UsersFile},
};
use crate::{
    Config,
    config::{self, Authenticator},
    reload::Watch,
    runtime::Inbox,
};

/// Asks whether clients may come in. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Auth(Arc<Inner>);

struct Inner {
    settings: config::Auth,
    key: Arc<ProcessKey>,
    users: Option<ArcSwap<Users>>,
    tokens: Option<Tokens>,
    hook: Option<Hook>,
    acl: ArcSwap<Acl>,
    /// Passwords that were right, under fingerprints.
    right: Mutex<Memory<()>>,
    /// One permit a password that is hashed.
    hashing: Arc<Semaphore>,
    /// One permit a client that waits.
    waiting: Arc<Semaphore>,
    /// To the thread that decides; none without anything to ask.
    jobs: Option<mpsc::Sender<Job>>,
    start: Instant,
}

/// A client that waits for a verdict.
struct Job {
    auth: Auth,
    claim: Claim,
    answer: oneshot::Sender<Verdict>,
    waiting: OwnedSemaphorePermit,
}

/// A verdict, or where it will come.
pub(crate) enum Pending {
    /// It needed no waiting.
    Now(Verdict),
    /// Dropping it ends the work for it, too.
    Later(oneshot::Receiver<Verdict>),
}

/// What became of a connection's proof after a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Recheck {
    /// Nothing changed.
    Keep,
    /// The same user has other groups or bounds.
    Become(Box<Principal>),
    /// The connection has to end, because of this.
    End(&'static str),
}

/// The next step of an enhanced authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The client must answer this.
    Challenge(Option<String>),
    /// It is done; the client is told this.
    Done(Box<Grant>, String),
}

/// An enhanced authentication that goes on (MQTT 5.0 section 4.12).
#[derive(Debug)]
pub(crate) struct Enhanced {
    method: ByteString,
    exchange: Exchange,
}

impl Auth {
    /// Reads the files and begins to serve; the watches tell `inbox` when a file changed.
    ///
    /// # Errors
    /// A file cannot be read or is wrong; the message has file and line.
    pub(crate) fn start(config: &Config, inbox: &Arc<Inbox>) -> Result<(Self, Vec<Watch>), String> {
        let (mut inner, mut befores) = (Inner::read(config)?, inner_watches(config));
        if inner.has_authenticators() {
            inner.jobs = Some(start_thread(&inner.settings)?);
        }
        let auth = Self(Arc::new(inner));
        let watches = befores.drain(..).map(|(part, before)| {
            let (auth, config, inbox) = (auth.clone(), config.clone(), Arc::clone(inbox));
            before.then(move || {
                let holds = auth.0.reload(part, &config)?;
                inbox.auth_changed();
                Ok(holds)
            })
        });
        let watches = watches.collect();
        Ok((auth, watches))
    }

    /// Asks whether a client may come in.
    pub(crate) fn begin(&self, claim: Claim) -> Pending {
        let inner = &*self.0;
        if claim.certificate.is_some() && claim.certificate_is_user {
            return Pending::Now(inner.certificate(&claim));
        }
        if let Some(name) = claim.username.as_ref()
            && inner.has_authenticators()
            && let Err(what) = check_name(name)
        {
            return Pending::Now(Verdict::Deny(Denial::credentials(what)));
        }
        let Some(jobs) = inner.jobs.as_ref().filter(|_| claim.has_credentials() || inner.hook.is_some())
        else {
            return Pending::Now(inner.unanswered(&claim));
        };
        let busy =
            |what: &str| Pending::Now(Verdict::Deny(Denial::unavailable(ReasonCode::ServerBusy, what)));
        let Ok(waiting) = Arc::clone(&inner.waiting).try_acquire_owned() else {
            return busy("too many clients wait to be let in, try again later");
        };
        let (answer, verdict) = oneshot::channel();
        // The channel has a place for each permit, so only a thread that ended makes this fail.
        match jobs.try_send(Job { auth: self.clone(), claim, answer, waiting }) {
            Ok(()) => Pending::Later(verdict),
            Err(_) => busy("the broker cannot check who comes in"),
        }
    }

    /// Begins an enhanced authentication; `None` is a method that is not served.
    pub(crate) fn begin_enhanced(&self, method: &ByteString) -> Option<Enhanced> {
        let is_served = self.0.settings.scram && self.0.users.is_some() && **method == *scram::METHOD;
        is_served.then(|| Enhanced { method: method.clone(), exchange: Exchange::new() })
    }

    /// Takes the client's next data; without any, the client is asked for its first.
    ///
    /// # Errors
    /// The client is refused.
    pub(crate) fn continue_enhanced(
        &self,
        enhanced: &mut Enhanced,
        data: Option<&[u8]>,
    ) -> Result<Step, Denial> {
        let users = self.0.users.as_ref().map(ArcSwap::load_full);
        let users = users.ok_or_else(|| Denial::not_authorized("there are no users"))?;
        let Some(data) = data else {
            // A client may leave the first message out of its CONNECT (RFC 4422 section 3).
            return match enhanced.exchange.is_fresh() {
                true => Ok(Step::Challenge(None)),
                false => Err(Denial::not_authorized("the authentication data are missing")),
            };
        };
        match enhanced.exchange.receive(data, &*users) {
            Ok(Progress::Challenge(text)) => Ok(Step::Challenge(Some(text))),
            Ok(Progress::Success { user, server_final }) => {
                let known = users.get(&user).ok_or_else(|| Denial::credentials("the user was removed"))?;
                Ok(Step::Done(Box::new(granted(user.into(), known)), server_final))
            }
            Err(ScramError::Credentials) => Err(Denial::credentials("the proof of the password is wrong")),
            Err(error @ ScramError::Message(_)) => Err(Denial::not_authorized(error.to_string())),
        }
    }

    /// Looks again at what let a client in, after a file changed.
    pub(crate) fn recheck(&self, grant: &Grant) -> Recheck {
        let users = self.0.users.as_ref().map(ArcSwap::load_full);
        let name = grant.principal.user.as_deref().unwrap_or_default();
        let user = users.as_ref().and_then(|users| users.get(name)).cloned();
        match (grant.proof, user) {
            (Proof::None | Proof::Hook, _) => Recheck::Keep,
            (Proof::Token(key), _) => match &self.0.tokens {
                Some(tokens) if tokens.has_key(&key) => Recheck::Keep,
                _ => Recheck::End("the key that signed the token was removed"),
            },
            (Proof::Password(_), None) => Recheck::End("the user was removed"),
            (Proof::Password(_) | Proof::Certificate, Some(user)) if user.disabled => {
                Recheck::End("the user was disabled")
            }
            (Proof::Password(proof), Some(user)) if proof != user.proof => {
                Recheck::End("the password was changed")
            }
            (Proof::Password(_) | Proof::Certificate, user) => {
                let (groups, limits) =
                    user.map(|user| (Arc::clone(&user.groups), user.limits)).unwrap_or_default();
                let principal = Principal { groups, limits, ..grant.principal.clone() };
                if principal == grant.principal {
                    Recheck::Keep
                } else {
                    Recheck::Become(Box::new(principal))
                }
            }
        }
    }

    /// Returns the rules in force.
    pub(crate) fn acl(&self) -> Arc<Acl> {
        self.0.acl.load_full()
    }

    /// Says whether anything here knows users.
    pub(crate) fn has_authenticators(&self) -> bool {
        self.0.has_authenticators()
    }

    /// Says whether clients that bring nothing may come in by a listener.
    pub(crate) fn anonymous_allowed(&self, listener: &policy::Door) -> bool {
        policy::anonymous_allowed(self.0.settings.anonymous, self.0.has_authenticators(), listener)
    }
}

/// Reads every file that the settings name, for `postrider config check`.
///
/// # Errors
/// One cannot be read or is wrong; the message has file and line.
pub fn check_files(config: &Config) -> Result<(), String> {
    Inner::read(config).map(drop)
}

/// A part that is read again by itself.
#[derive(Clone, Copy, Debug)]
enum Part {
    Users,
    Keys,
    Acl,
}

/// The files as they are before they are read.
fn inner_watches(config: &Config) -> Vec<(Part, crate::reload::Before)> {
    let (auth, jwt) = (&config.auth, &config.auth_jwt);
    let parts = [
        (Part::Users, "users file", vec![&auth.users_file]),
        (Part::Keys, "token keys", vec![&jwt.secret_file, &jwt.public_key_file, &jwt.jwks_file]),
        (Part::Acl, "acl file", vec![&auth.acl_file]),
    ];
    let parts = parts.into_iter().map(|(part, what, mut files)| {
        files.retain(|path| !path.as_os_str().is_empty());
        (part, what, files.into_iter().cloned().collect::<Vec<_>>())
    });
    let watched = parts.filter(|(_, _, files)| !files.is_empty());
    watched.map(|(part, what, files)| (part, Watch::before_reading(what, files))).collect()
}

impl Inner {
    fn read(config: &Config) -> Result<Self, String> {
        let settings = config.auth.clone();
        let key = Arc::new(ProcessKey::new()?);
        let is_set = |path: &std::path::Path| !path.as_os_str().is_empty();
        let users =
            is_set(&settings.users_file).then(|| Users::read(&settings.users_file, &key)).transpose()?;
        let tokens =
            Tokens::are_set(&config.auth_jwt).then(|| Tokens::new(&config.auth_jwt, &key)).transpose()?;
        let hook = !config.auth_http.url.is_empty();
        let hook = hook.then(|| Hook::new(&config.auth_http, &key)).transpose()?;
        let acl = is_set(&settings.acl_file).then(|| rules::read_acl(&settings.acl_file)).transpose()?;
        Ok(Self {
            key,
            users: users.map(ArcSwap::from_pointee),
            tokens,
            hook,
            acl: ArcSwap::from_pointee(acl.unwrap_or_default()),
            right: Mutex::new(Memory::new(settings.cache_entries_max as usize)),
            hashing: Arc::new(Semaphore::new(settings.workers as usize)),
            waiting: Arc::new(Semaphore::new(settings.waiting_max as usize)),
            jobs: None,
            start: Instant::now(),
            settings,
        })
    }

    /// Reads one part again and puts it in force; says what it holds.
    fn reload(&self, part: Part, config: &Config) -> Result<String, String> {
        match part {
            Part::Users => {
                let users = Users::read(&self.settings.users_file, &self.key)?;
                let holds = format!("{} users", users.len());
                if let Some(now) = &self.users {
                    now.store(Arc::new(users));
                }
                self.right.lock().unwrap_or_else(PoisonError::into_inner).clear();
                Ok(holds)
            }
            Part::Keys => {
                let keys = Keys::read(&config.auth_jwt, &self.key)?;
                let holds = format!("{} keys", keys.len());
                if let Some(tokens) = &self.tokens {
                    tokens.replace(keys);
                }
                Ok(holds)
            }
            Part::Acl => {
                let acl = rules::read_acl(&self.settings.acl_file)?;
                let holds = format!("{} rules", acl.rules.len());
                self.acl.store(Arc::new(acl));
                Ok(holds)
            }
        }
    }

    fn has_authenticators(&self) -> bool {
        let is_there = |authenticator: &Authenticator| match authenticator {
            Authenticator::Users => self.users.is_some(),
            Authenticator::Jwt => self.tokens.is_some(),
            Authenticator::Http => self.hook.is_some(),
        };
        self.settings.order.iter().any(is_there)
    }

    /// Asks one after the other.
    async fn decide(&self, claim: &Claim) -> Verdict {
        for authenticator in &self.settings.order {
            let answer = match authenticator {
                Authenticator::Users => self.check_password(claim).await,
                Authenticator::Jwt => {
                    self.tokens.as_ref().map_or(Answer::Ignore, |tokens| tokens.check(claim, unix_ms()))
                }
                Authenticator::Http => match &self.hook {
                    Some(hook) => hook.check(claim).await,
                    None => Answer::Ignore,
                },
            };
            match answer {
                Answer::Allow(grant) => return Verdict::Allow(grant),
                Answer::Deny(denial) => return Verdict::Deny(denial),
                Answer::Ignore => {}
            }
        }
        self.unanswered(claim)
    }

    /// Judges a claim that nobody has an answer for.
    fn unanswered(&self, claim: &Claim) -> Verdict {
        if self.has_authenticators() && claim.has_credentials() {
            return Verdict::Deny(Denial::credentials("nobody knows the user"));
        }
        if claim.anonymous_allowed {
            return Verdict::Allow(Box::new(Grant::anonymous()));
        }
        let what =
            "clients must say who they are: a user name and password, a token or a certificate is missing";
        Verdict::Deny(Denial::not_authorized(what))
    }

    /// Judges a client whose certificate was verified and names the user; nothing else is asked.
    fn certificate(&self, claim: &Claim) -> Verdict {
        let name = claim.certificate.clone().unwrap_or_default();
        if let Err(what) = check_name(&name) {
            return Verdict::Deny(Denial::not_authorized(format!("the certificate's name: {what}")));
        }
        let users = self.users.as_ref().map(ArcSwap::load_full);
        let user = users.as_ref().and_then(|users| users.get(&name)).cloned();
        let (groups, limits) = match user {
            Some(user) if user.disabled => {
                return Verdict::Deny(Denial::not_authorized("the certificate's user is disabled"));
            }
            Some(user) => (Arc::clone(&user.groups), user.limits),
            None => Default::default(),
        };
        let principal = Principal { user: Some(name), groups, limits, ..Principal::default() };
        Verdict::Allow(Box::new(Grant { principal, proof: Proof::Certificate, expires_unix_ms: None }))
    }

    async fn check_password(&self, claim: &Claim) -> Answer {
        let (Some(users), Some(name)) = (self.users.as_ref().map(ArcSwap::load_full), &claim.username) else {
            return Answer::Ignore;
        };
        let user = users.get(name).cloned();
        let Some(password) = claim.password.clone() else {
            return match user {
                Some(_) => Answer::Deny(Denial::credentials("the password is missing")),
                None => Answer::Ignore,
            };
        };
        let known = user.as_ref().filter(|user| !user.disabled && user.password.is_some());
        let fingerprint = known
            .map(|user| self.key.fingerprint(&[b"right", name.as_bytes(), &user.proof, password.expose()]));
        let remembered = |fingerprint| {
            let right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
            right.get(self.now_ms(), fingerprint).is_some()
        };
        if let Some(user) = known.filter(|_| fingerprint.as_ref().is_some_and(remembered)) {
            return Answer::Allow(Box::new(granted(name.clone(), user)));
        }
        // Who does not exist costs the same.
        let hash = known.and_then(|user| user.password.clone()).unwrap_or_else(|| users.nobody().clone());
        let Ok(permit) = Arc::clone(&self.hashing).acquire_owned().await else { return Answer::Ignore };
        let verified = tokio::task::spawn_blocking(move || {
            let is_right = hash.verify(password.expose());
            drop(permit);
            is_right
        });
        let is_right = verified.await.unwrap_or(false);
        match (user, fingerprint) {
            (None, _) => Answer::Ignore,
            (Some(user), Some(fingerprint)) if is_right => {
                let for_ms = u64::from(self.settings.cache_s) * 1000;
                let mut right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
                right.put(self.now_ms(), fingerprint, (), for_ms);
                Answer::Allow(Box::new(granted(name.clone(), &user)))
            }
            (Some(user), _) if user.disabled => Answer::Deny(Denial::credentials("the user is disabled")),
            (Some(_), _) => Answer::Deny(Denial::credentials("the password is wrong")),
        }
    }

    fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }
}

impl Job {
    async fn run(self) {
        let Self { auth, claim, mut answer, waiting } = self;
        let verdict = tokio::select! {
            verdict = auth.0.decide(&claim) => verdict,
            // The client is gone: nobody wants to know.
            () = answer.closed() => return,
        };
        drop(waiting);
        // It may go at this moment.
        let _ = answer.send(verdict);
    }
}

/// Starts the thread that decides; it ends when the last [`Auth`] is gone.
fn start_thread(settings: &config::Auth) -> Result<mpsc::Sender<Job>, String> {
    let (jobs, mut waiting) = mpsc::channel::<Job>(settings.waiting_max as usize);
    let cannot = |error: std::io::Error| format!("cannot start a thread: {error}");
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Beside the hashing, which has permits: looking up the hook's address.
        .max_blocking_threads(settings.workers as usize + 4)
        .thread_name("password")
        .build()
        .map_err(cannot)?;
    let work = move || {
        executor.block_on(async {
            while let Some(job) = waiting.recv().await {
                tokio::spawn(job.run());
            }
        });
        executor.shutdown_background();
    };
    thread::Builder::new().name("auth".to_owned()).spawn(work).map_err(cannot)?;
    Ok(jobs)
}

fn granted(name: ByteString, user: &User) -> Grant {
    let (groups, limits) = (Arc::clone(&user.groups), user.limits);
    let principal = Principal { user: Some(name), groups, limits, ..Principal::default() };
    Grant { principal, proof: Proof::Password(user.proof), expires_unix_ms: None }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

impl Enhanced {
    /// Returns the method.
    pub(crate) fn method(&self) -> &ByteString {
        &self.method
    }

    /// Returns the user that the client says it is, once it has.
    pub(crate) fn user(&self) -> Option<&str> {
        self.exchange.user()
    }
}

#[cfg(test)]
mod tests;
