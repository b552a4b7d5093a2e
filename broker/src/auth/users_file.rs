//! Changes a users file and leaves everything else in it as it is: comments, order, other users.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::{
    password::{COST, PasswordHash},
    scram::{self, Credentials},
    secret::Secret,
    text_file::{TextFile, place},
    users::{UserText, UsersText, check_name, parse_text},
};

/// What a new users file begins with.
const HEAD: &str = "\
# Users of postrider, one a line; `postrider passwd` changes this file, and so may you.
# A running broker that names it in auth.users_file reads it again when it changes.
# name = { password = \"$argon2id$...\", scram = \"SCRAM-SHA-256$...\", groups = [\"...\"], limits = \"...\", disabled = true }
[users]
";

/// A users file that is being changed. While it exists, others who change the file wait: ask people first.
#[derive(Debug)]
pub struct UsersFile {
    path: PathBuf,
    text: String,
    /// The locked directory, if its file system can lock.
    _lock: Option<File>,
}

/// What is known of one user, without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserSummary {
    /// The name.
    pub name: String,
    /// The groups.
    pub groups: Vec<String>,
    /// The class of limits.
    pub limits: Option<String>,
    /// Whether the user may not come in.
    pub disabled: bool,
    /// Whether there is a password.
    pub has_password: bool,
    /// Whether the password can be proved by SCRAM.
    pub has_scram: bool,
}

/// What to change of a user; `None` leaves it as it is.
#[derive(Debug, Default)]
pub struct UserChange {
    /// The password.
    pub password: Option<Secret>,
    /// Whether a new password can be proved by SCRAM too; its credentials are easier to guess from a stolen
    /// file than argon2id's.
    pub scram: bool,
    /// The groups.
    pub groups: Option<Vec<String>>,
    /// Whether the user may not come in.
    pub disabled: Option<bool>,
}

/// What became of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It is new.
    Made,
    /// It was there.
    Updated,
}

impl UsersFile {
    /// Opens a file, or begins a new one.
    ///
    /// # Errors
    /// It cannot be read, or is wrong.
    pub fn open(path: &Path) -> Result<Self, String> {
        let lock = File::open(folder(path)).ok().filter(|folder| folder.lock().is_ok());
        let text = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => HEAD.to_owned(),
            _ => TextFile::read(path)?.text,
        };
        let file = Self { path: path.to_owned(), text, _lock: lock };
        file.parsed()?;
        Ok(file)
    }

    fn parsed(&self) -> Result<UsersText, String> {
        parse_text(&self.text).map_err(|(at, what)| format!("{}: {what}", place(&self.path, &self.text, at)))
    }

    /// Says why a name can be no user's, if it cannot.
    pub fn refuse_name(name: &str) -> Option<String> {
        check_name(name).err()
    }

    /// Returns all users by name.
    pub fn list(&self) -> Vec<UserSummary> {
        let users = self.parsed().map(|parsed| parsed.users).unwrap_or_default();
        users
            .into_iter()
            .map(|(name, user)| {
                let UserText { password, scram, groups, limits, disabled } = user.into_inner();
                let (has_password, has_scram) = (password.is_some(), scram.is_some());
                UserSummary { name, groups, limits, disabled, has_password, has_scram }
            })
            .collect()
    }

    /// Makes a user or changes it.
    ///
    /// # Errors
    /// The name is none, a new user has no password, or the line of the user cannot be replaced.
    pub fn set(&mut self, name: &str, change: UserChange) -> Result<Changed, String> {
        check_name(name)?;
        let known = self.parsed()?.users.remove(name).map(toml::Spanned::into_inner);
        let changed = if known.is_some() { Changed::Updated } else { Changed::Made };
        let mut user = known.unwrap_or_default();
        match change.password {
            Some(password) => {
                user.password = Some(PasswordHash::new(password.expose(), COST)?.to_string());
                let credentials = |bytes| Credentials::new(bytes, scram::ITERATIONS);
                let credentials = change.scram.then(|| credentials(password.expose())).transpose()?;
                user.scram = credentials.map(|credentials| credentials.to_string());
            }
            None if changed == Changed::Made => return Err(format!("there is no user {name:?}")),
            None => {}
        }
        for group in change.groups.iter().flatten() {
            check_name(group).map_err(|what| format!("group {group:?}: {what}"))?;
        }
        user.groups = change.groups.unwrap_or(user.groups);
        user.disabled = change.disabled.unwrap_or(user.disabled);
        self.replace(name, Some(&user))?;
        Ok(changed)
    }

    /// Removes a user.
    ///
    /// # Errors
    /// It is not there, or its line cannot be removed.
    pub fn delete(&mut self, name: &str) -> Result<(), String> {
        if !self.parsed()?.users.contains_key(name) {
            return Err(format!("there is no user {name:?}"));
        }
        self.replace(name, None)
    }

    /// Writes a user's line anew, or takes it out, and checks that nothing else changed by that.
    fn replace(&mut self, name: &str, user: Option<&UserText>) -> Result<(), String> {
        let before = self.parsed()?;
        let line = user.map(|user| line(name, user));
        let text = match (before.users.get(name), &line) {
            (Some(old), line) => {
                let span = old.span();
                let start = self.text[..span.start].rfind('\n').map_or(0, |at| at + 1);
                let end = self.text[span.end..].find('\n').map_or(self.text.len(), |at| span.end + at + 1);
                // What follows on the line is a comment and stays.
                let rest = self.text[span.end..end].trim_end();
                let line = line.as_ref().map(|line| format!("{line}{rest}\n")).unwrap_or_default();
                format!("{}{line}{}", &self.text[..start], &self.text[end..])
            }
            (None, Some(line)) => self.with_new(line, &before),
            (None, None) => self.text.clone(),
        };
        let mut expected =
            before.users.into_iter().map(|(name, user)| (name, user.into_inner())).collect::<Vec<_>>();
        expected.retain(|(other, _)| other != name);
        let after = parse_text(&text).ok().map(|after| {
            let mut users = after.users;
            let own = users.remove(name).map(toml::Spanned::into_inner);
            let others: Vec<_> = users.into_iter().map(|(name, user)| (name, user.into_inner())).collect();
            (own, others)
        });
        if after != Some((user.cloned(), expected)) {
            return Err(format!(
                "{}: the user {name:?} is not written as one line below [users]; change it by hand, or write it so",
                self.path.display()
            ));
        }
        self.text = text;
        Ok(())
    }

    /// Puts a line behind the last user's, or below `[users]`, or both at the end.
    fn with_new(&self, line: &str, before: &UsersText) -> String {
        let last = before.users.values().map(|user| user.span().end).max();
        let header = self.text.match_indices("[users]").find(|(at, _)| {
            self.text[..*at].rsplit('\n').next().is_some_and(|before| before.trim().is_empty())
        });
        let Some(behind) = last.or(header.map(|(at, found)| at + found.len())) else {
            let gap = if self.text.is_empty() || self.text.ends_with('\n') { "" } else { "\n" };
            return format!("{}{gap}\n[users]\n{line}\n", self.text);
        };
        match self.text[behind..].find('\n') {
            Some(end) => {
                let (head, tail) = self.text.split_at(behind + end + 1);
                format!("{head}{line}\n{tail}")
            }
            None => format!("{}\n{line}\n", self.text),
        }
    }

    /// Writes the file: all of it or nothing, readable by its owner alone if it is new.
    ///
    /// # Errors
    /// It cannot be written; then the old one is as it was.
    pub fn save(&self) -> Result<(), String> {
        let cannot = |error: io::Error| format!("{}: cannot write it: {error}", self.path.display());
        // What a link leads to is replaced, not the link.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let new = path.with_file_name(format!(".{name}.{}.new", std::process::id()));
        let written = self.write(&path, &new).and_then(|()| fs::rename(&new, &path));
        if let Err(error) = written {
            // It may not be there.
            let _ = fs::remove_file(&new);
            return Err(cannot(error));
        }
        // The rename itself must survive a power cut too.
        File::open(folder(&path)).and_then(|folder| folder.sync_all()).map_err(cannot)
    }

    fn write(&self, path: &Path, new: &Path) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(new)?;
        if let Ok(metadata) = fs::metadata(path) {
            file.set_permissions(Permissions::clone(&metadata.permissions()))?;
        }
        file.write_all(self.text.as_bytes())?;
        file.sync_all()
    }
}

/// The folder that a file is in.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a user as one line of TOML.
fn line(name: &str, user: &UserText) -> String {
    let is_bare = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let mut keys = Vec::new();
    let texts = [("password", &user.password), ("scram", &user.scram), ("limits", &user.limits)];
    keys.extend(texts.iter().filter_map(|(key, text)| Some(format!("{key} = {}", quoted(text.as_ref()?)))));
    if !user.groups.is_empty() {
        let groups: Vec<_> = user.groups.iter().map(|group| quoted(group)).collect();
        keys.push(format!("groups = [{}]", groups.join(", ")));
    }
    if user.disabled {
        keys.push("disabled = true".to_owned());
    }
    let name = if is_bare { name.to_owned() } else { basic_string(name) };
    format!("{name} = {{ {} }}", keys.join(", "))
}

/// Quotes a key, whatever is in it.
fn basic_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> UserChange {
        UserChange { password: Some(text.as_bytes().into()), scram: true, ..UserChange::default() }
    }

    fn open(text: &str) -> (tempfile::TempDir, UsersFile) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users.toml");
        fs::write(&path, text).unwrap();
        let file = UsersFile::open(&path).unwrap();
        (dir, file)
    }

    #[test]
    fn a_user_is_made_changed_and_removed_without_touching_the_rest() {
        let hash = PasswordHash::of_nobody(COST).to_string();
        let text = format!(
            "# mine\n[limits.small]\nqueue_messages_max = 1\n\n[users] # all\n# the first\n\
             a = {{ password = \"{hash}\", limits = \"small\" }} # boss\n\"b b\" = {{}}\n# end\n"
        );
        let (_dir, mut file) = open(&text);
        let groups = Some(vec!["g\"1".to_owned()]);
        assert_eq!(file.set("c\\\"=", UserChange { groups, ..password("x") }), Ok(Changed::Made));
        assert_eq!(
            file.set("a", UserChange { disabled: Some(true), ..UserChange::default() }),
            Ok(Changed::Updated)
        );
        let list = file.list();
        assert_eq!(list.iter().map(|user| &user.name[..]).collect::<Vec<_>>(), ["a", "b b", "c\\\"="]);
        assert!(list[0].disabled && list[0].limits.as_deref() == Some("small") && !list[0].has_scram);
        assert_eq!(list[2].groups, ["g\"1"]);
        assert!(list[2].has_password && list[2].has_scram);
        for kept in ["# mine\n", "[users] # all\n# the first\n", " } # boss\n", "\"b b\" = {}\n", "# end\n"] {
            assert!(file.text.contains(kept), "{kept:?} is gone from\n{}", file.text);
        }
        file.delete("c\\\"=").unwrap();
        file.set("a", UserChange { disabled: Some(false), ..UserChange::default() }).unwrap();
        assert_eq!(file.text, text);
        file.delete("b b").unwrap();
        assert!(!file.text.contains("b b"));
        assert!(file.delete("b b").unwrap_err().contains("there is no user"));
    }

    #[test]
    fn a_file_is_begun_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users.toml");
        let mut file = UsersFile::open(&path).unwrap();
        file.set("first", password("one")).unwrap();
        file.save().unwrap();
        drop(file);
        let mut file = UsersFile::open(&path).unwrap();
        file.set("second", password("two")).unwrap();
        file.save().unwrap();
        assert_eq!(TextFile::read(&path).unwrap().text, file.text);
        assert_eq!(file.list().len(), 2);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
            file.save().unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640, "the mode stays");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn a_file_without_users_gets_them_in_their_section() {
        for text in ["", "# nothing\n", "[limits.a]\n", "[limits.a]", "[users]", "# [users]\n"] {
            let (_dir, mut file) = open(text);
            file.set("a", password("x")).unwrap();
            assert_eq!(file.list().len(), 1, "{text:?} became\n{}", file.text);
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused_and_changes_nothing() {
        let (_dir, mut file) = open("[users]\na = {}\n[users.b]\ndisabled = true\ngroups = []\n");
        let before = file.text.clone();
        for name in ["", "anon:x", "a\nb", "a\u{7f}"] {
            assert!(file.set(name, password("x")).is_err(), "{name:?}");
        }
        assert!(file.set("nobody", UserChange::default()).unwrap_err().contains("there is no user"));
        let error = file.set("b", password("x")).unwrap_err();
        assert!(error.contains("not written as one line"), "{error}");
        assert_eq!(file.text, before);
    }
}
