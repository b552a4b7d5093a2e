//! How each other broker is started, and with which settings: defaults, and queues and windows as large as ours.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::servers::ServerKind;

/// Where the other brokers are.
#[derive(Debug)]
pub(crate) struct Peers {
    /// What `peers/install` made.
    pub(crate) folder: PathBuf,
    pub(crate) mosquitto: PathBuf,
    pub(crate) nats: PathBuf,
}

impl Peers {
    /// Says what a broker is, in its own words.
    ///
    /// # Errors
    /// It is not there.
    pub(crate) fn version(&self, kind: ServerKind) -> Result<String> {
        let program = match kind {
            ServerKind::Mosquitto => &self.mosquitto,
            ServerKind::Nats => &self.nats,
            ServerKind::Rumqttd => &self.folder.join("bin/rumqttd"),
            ServerKind::Rmqtt => &self.folder.join("bin/bench-rmqtt"),
            ServerKind::Aedes => &self.folder.join("aedes/broker.js"),
            ServerKind::Relay | ServerKind::Postrider => bail!("{kind} is no peer"),
        };
        ensure!(
            program.is_file(),
            "{} does not exist: `tests/bench/peers/install` brings the other brokers; --peers says where they are, and \
             --servers leaves some out",
            program.display()
        );
        match kind {
            ServerKind::Mosquitto => first_line(program, "-h"),
            ServerKind::Nats => first_line(program, "--version"),
            ServerKind::Rumqttd => first_line(program, "--version"),
            ServerKind::Rmqtt => Ok("rmqtt 0.24.0".to_owned()),
            _ => {
                let package = self.folder.join("aedes/node_modules/aedes/package.json");
                let text = fs::read_to_string(&package).with_context(|| package.display().to_string())?;
                let version = text.lines().find_map(|line| line.trim().strip_prefix("\"version\": \""));
                Ok(format!("aedes {}", version.unwrap_or("?").trim_end_matches(['"', ','])))
            }
        }
    }

    /// Makes the command that starts a broker on an address, its files in a folder of its own.
    ///
    /// # Errors
    /// Its configuration cannot be written.
    pub(crate) fn command(
        &self,
        kind: ServerKind,
        addr: SocketAddr,
        folder: &Path,
        keeps_files: bool,
    ) -> Result<Command> {
        let (port, root) = (addr.port(), folder.display());
        let config = folder.join("peer.conf");
        let mut command = match kind {
            ServerKind::Mosquitto => {
                let text = format!(
                    "listener {port} 127.0.0.1\nallow_anonymous true\nlog_dest none\nuser root\n\
                     max_queued_messages 0\nmax_inflight_messages 1024\n\
                     persistence {keeps_files}\npersistence_location {root}/\n"
                );
                fs::write(&config, text)?;
                let mut command = Command::new(&self.mosquitto);
                command.arg("-c").arg(&config);
                command
            }
            ServerKind::Nats => {
                let text = format!(
                    "server_name: bench\nlisten: \"127.0.0.1:0\"\njetstream {{ store_dir: \"{root}/jetstream\" }}\n\
                     max_connections: 100000\nmax_payload: 8MB\n\
                     mqtt {{ listen: \"127.0.0.1:{port}\", max_ack_pending: 65535 }}\n"
                );
                fs::write(&config, text)?;
                let mut command = Command::new(&self.nats);
                command.arg("-c").arg(&config);
                command
            }
            ServerKind::Rumqttd => {
                let text = format!(
                    "id = 0\n[router]\nid = 0\nmax_connections = 100000\nmax_outgoing_packet_count = 200\n\
                     max_segment_size = 104857600\nmax_segment_count = 10\n\
                     [v4.1]\nname = \"bench\"\nlisten = \"{addr}\"\nnext_connection_delay_ms = 0\n\
                     [v4.1.connections]\nconnection_timeout_ms = 60000\nmax_payload_size = 1048576\n\
                     max_inflight_count = 1024\ndynamic_filters = true\n"
                );
                // It knows a format by the file's name.
                let config = folder.join("rumqttd.toml");
                fs::write(&config, text)?;
                let mut command = Command::new(self.folder.join("bin/rumqttd"));
                command.arg("-c").arg(&config).arg("-q");
                command
            }
            ServerKind::Rmqtt => {
                let mut command = Command::new(self.folder.join("bin/bench-rmqtt"));
                command.arg(addr.to_string());
                command
            }
            ServerKind::Aedes => {
                let mut command = Command::new("node");
                command.arg(self.folder.join("aedes/broker.js")).arg(port.to_string());
                command
            }
            ServerKind::Relay | ServerKind::Postrider => bail!("{kind} is no peer"),
        };
        command.current_dir(folder);
        Ok(command)
    }
}

/// First line of what a program says.
pub(crate) fn first_line(program: &Path, flag: &str) -> Result<String> {
    let output = Command::new(program)
        .arg(flag)
        .output()
        .with_context(|| format!("{} does not start", program.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or("(no version)").to_owned())
}
