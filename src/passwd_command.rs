//! `postrider passwd`: makes, changes, lists and removes users of a users file.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, bail};
use broker::{Changed, Secret, UserChange, UserSummary, UsersFile};

use crate::terminal::{misused, say};

/// A password is at most this long.
const PASSWORD_BYTES_MAX: usize = 1_024;

/// Make, change, list or remove users of a users file (auth.users_file)
///
/// A running broker reads the file again when it changes: who was removed or disabled, or has another password,
/// is disconnected.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The users file; made when it is missing
    file: PathBuf,
    /// The user
    #[arg(required_unless_present = "list")]
    user: Option<String>,
    /// Remove the user
    #[arg(long, conflicts_with_all = ["group", "stdin", "password", "disable", "enable", "no_scram"])]
    delete: bool,
    /// A group that the user is in, once for each; they replace the ones before. For a user that exists the
    /// password stays as it is
    #[arg(long, value_name = "GROUP")]
    group: Vec<String>,
    /// Read the password from the first line of stdin, without asking
    #[arg(long, conflicts_with = "password")]
    stdin: bool,
    /// The password; others on this machine can see it while the command runs, and your shell keeps it
    #[arg(long, value_name = "PASSWORD")]
    password: Option<String>,
    /// Keep the user out; the password stays as it is
    #[arg(long, conflicts_with = "enable")]
    disable: bool,
    /// Let a disabled user in again; the password stays as it is
    #[arg(long)]
    enable: bool,
    /// Store no SCRAM credentials: they are easier to guess from a stolen file than the password's own hash
    #[arg(long)]
    no_scram: bool,
    /// List the users
    #[arg(long, conflicts_with_all = ["user", "delete", "group", "stdin", "password", "disable", "enable", "no_scram"])]
    list: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> ExitCode {
    match change(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if crate::terminal::is_reader_gone(&error) => ExitCode::SUCCESS,
        Err(error) => misused(&format!("{error:#}")),
    }
}

fn change(args: Args) -> anyhow::Result<()> {
    let Args { file, user, delete, group, stdin, password, disable, enable, no_scram, list } = args;
    let open = || UsersFile::open(&file).map_err(anyhow::Error::msg);
    if list {
        if !file.exists() {
            bail!("{}: there is no such file", file.display());
        }
        return open()?.list().iter().try_for_each(|user| Ok(say(&line(user))?));
    }
    let user = user.unwrap_or_default();
    if delete {
        let mut users = open()?;
        users.delete(&user).and_then(|()| users.save()).map_err(anyhow::Error::msg)?;
        return Ok(say(&format!("{}: removed {user}", file.display()))?);
    }
    let is_known = open()?.list().iter().any(|known| known.name == user);
    let changes_only = is_known && (!group.is_empty() || disable || enable) && !stdin && password.is_none();
    if let Some(what) = UsersFile::refuse_name(&user) {
        bail!("{user:?} can be no user: {what}");
    }
    // Asked before the file is opened for the change, so that nobody waits for a person.
    let password = if changes_only { None } else { Some(take_password(stdin, password, &user)?) };
    let change = UserChange {
        password,
        scram: !no_scram,
        groups: (!group.is_empty()).then_some(group),
        disabled: (disable || enable).then_some(disable),
    };
    let mut users = open()?;
    let changed = users.set(&user, change).map_err(anyhow::Error::msg)?;
    users.save().map_err(anyhow::Error::msg)?;
    let what = match changed {
        Changed::Made => "made",
        Changed::Updated => "changed",
    };
    Ok(say(&format!("{}: {what} {user}", file.display()))?)
}

fn line(user: &UserSummary) -> String {
    let UserSummary { name, groups, limits, disabled, has_password, has_scram } = user;
    let mut notes = Vec::new();
    if !groups.is_empty() {
        notes.push(format!("groups {}", groups.join(", ")));
    }
    notes.extend(limits.as_ref().map(|limits| format!("limits {limits}")));
    notes.extend((!has_password).then(|| "no password".to_owned()));
    notes.extend((*has_password && !has_scram).then(|| "no SCRAM".to_owned()));
    notes.extend(disabled.then(|| "disabled".to_owned()));
    if notes.is_empty() { name.clone() } else { format!("{name} ({})", notes.join("; ")) }
}

fn take_password(stdin: bool, given: Option<String>, user: &str) -> anyhow::Result<Secret> {
    let password = if let Some(password) = given {
        eprintln!(
            "postrider: a password on the command line is seen by others on this machine; --stdin is safer"
        );
        Secret::new(password.into_bytes())
    } else if stdin {
        first_line(io::stdin().lock())?
    } else if io::stdin().is_terminal() {
        let once = ask(&format!("Password of {user}: "))?;
        if once != ask("Once more: ")? {
            bail!("these were two passwords; nothing is changed");
        }
        once
    } else {
        bail!("stdin is no terminal to ask for the password; say --stdin to read it from there");
    };
    if password.expose().is_empty() {
        bail!("the password is empty");
    }
    if password.expose().len() > PASSWORD_BYTES_MAX {
        bail!("the password has {} bytes, at most {PASSWORD_BYTES_MAX} are taken", password.expose().len());
    }
    Ok(password)
}

/// Reads a line without its end.
fn first_line(from: impl BufRead) -> anyhow::Result<Secret> {
    let mut line = Vec::with_capacity(PASSWORD_BYTES_MAX + 2);
    from.take(PASSWORD_BYTES_MAX as u64 + 2)
        .read_until(b'\n', &mut line)
        .context("cannot read the password")?;
    for end in [b'\n', b'\r'] {
        line.pop_if(|last| *last == end);
    }
    Ok(Secret::new(line))
}

/// Asks on the terminal without showing what is typed.
fn ask(prompt: &str) -> anyhow::Result<Secret> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let stdin = io::stdin();
    eprint!("{prompt}");
    io::stderr().flush()?;
    let before = tcgetattr(&stdin).context("cannot ask without showing the password")?;
    let mut quiet = before.clone();
    // Without signals too: a ^C must not leave the terminal mute.
    quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
    tcsetattr(&stdin, OptionalActions::Flush, &quiet).context("cannot ask without showing the password")?;
    let line = first_line(stdin.lock());
    tcsetattr(&stdin, OptionalActions::Now, &before).context("cannot show what is typed again")?;
    eprintln!();
    let line = line?;
    if line.expose().contains(&3) {
        bail!("stopped; nothing is changed");
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_the_first_line_without_its_end() {
        for (input, expected) in
            [("a b\nc", "a b"), ("x\r\n", "x"), ("no end", "no end"), ("\n", ""), ("", ""), (" \n", " ")]
        {
            assert_eq!(first_line(input.as_bytes()).unwrap().expose(), expected.as_bytes(), "{input:?}");
        }
    }

    #[test]
    fn a_user_is_listed_with_what_matters() {
        let user = UserSummary {
            name: "a".into(),
            groups: vec!["g".into(), "h".into()],
            limits: Some("small".into()),
            disabled: true,
            has_password: true,
            has_scram: false,
        };
        assert_eq!(line(&user), "a (groups g, h; limits small; no SCRAM; disabled)");
    }
}
