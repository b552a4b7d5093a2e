//! Unix sockets: a file to bind, and who is at the other end.

use std::{
    fs, io,
    os::fd::AsFd,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::{
    bind::{BACKLOG, BindError},
    config::FileMode,
    peer::PeerAddr,
};

/// A socket's file that is ours; it is removed with the value.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode: a file that another process put there since is not ours to remove.
    identity: Option<(u64, u64)>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // It may be gone, and a file that stays is taken over by the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// A path that is ours, not listened on yet.
#[derive(Debug)]
pub(super) struct BoundUnix {
    socket: Socket,
    file: SocketFile,
}

/// Binds the socket. What a process that is gone left there is replaced; anything else is not.
pub(super) fn bind(path: &Path, mode: FileMode) -> Result<BoundUnix, BindError> {
    let failed = |source| BindError::Unix { path: path.to_owned(), source };
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
    SockAddr::unix(path).and_then(|address| socket.bind(&address)).map_err(failed)?;
    let file = SocketFile { path: path.to_owned(), identity: identity(path) };
    fs::set_permissions(path, fs::Permissions::from_mode(mode.0)).map_err(failed)?;
    Ok(BoundUnix { socket, file })
}

impl BoundUnix {
    /// Lets clients in.
    pub(super) fn listen(self) -> Result<(UnixListener, SocketFile), BindError> {
        let Self { socket, file } = self;
        socket
            .listen(BACKLOG)
            .and_then(|()| socket.set_nonblocking(true))
            .map_err(|source| BindError::Unix { path: file.path.clone(), source })?;
        Ok((socket.into(), file))
    }
}

fn remove_stale(path: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::Unix { path: path.to_owned(), source };
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if !kind.is_socket() {
        return Err(BindError::NoSocket { path: path.to_owned() });
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(BindError::UnixInUse { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Says who is at the other end, as far as the system tells.
#[cfg(target_os = "linux")]
pub(crate) fn peer(stream: &impl AsFd) -> PeerAddr {
    match rustix::net::sockopt::socket_peercred(stream) {
        Ok(credentials) => PeerAddr::Unix {
            pid: Some(credentials.pid.as_raw_nonzero().get()),
            uid: Some(credentials.uid.as_raw()),
        },
        Err(_) => PeerAddr::Unix { pid: None, uid: None },
    }
}

/// Says who is at the other end: other systems tell it in ways of their own.
#[cfg(not(target_os = "linux"))]
pub(crate) fn peer(_stream: &impl AsFd) -> PeerAddr {
    PeerAddr::Unix { pid: None, uid: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_nobody_listens_on_is_replaced_and_a_living_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mqtt.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the system leaves the file");
        let (_listener, file) = bind(&path, FileMode(0o600)).unwrap().listen().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = bind(&path, FileMode(0o600)).unwrap_err().to_string();
        let expected =
            format!("{} is in use by another process; stop it or choose another `listen`", path.display());
        assert_eq!(error, expected);
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_is_no_socket_is_never_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        fs::write(&path, "text").unwrap();
        let error = bind(&path, FileMode(0o600)).unwrap_err().to_string();
        assert!(error.contains("is a file but no socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
    }

    #[test]
    fn the_file_of_a_successor_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mqtt.sock");
        let (_listener, file) = bind(&path, FileMode(0o600)).unwrap().listen().unwrap();
        fs::rename(&path, dir.path().join("old.sock")).unwrap();
        let _successor = UnixListener::bind(&path).unwrap();
        drop(file);
        assert!(path.exists());
    }
}
