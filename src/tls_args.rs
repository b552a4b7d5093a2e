//! TLS flags of every command that is a client, named as mosquitto's clients name them.

use std::path::PathBuf;

use clap::Args;
use device_sdk::{TlsIdentity, TlsOptions};

/// How to trust the broker, and who the client is.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "TLS")]
pub(crate) struct TlsArgs {
    /// Connect with TLS, trusting the system's certificate authorities.
    #[arg(long = "tls", visible_alias = "tls-use-os-certs")]
    tls: bool,

    /// Connect with TLS, trusting the authorities in this PEM file alone.
    #[arg(long, value_name = "FILE")]
    cafile: Option<PathBuf>,

    /// The client's certificate (PEM), for brokers that ask for one.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,

    /// The certificate's private key (PEM).
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,

    /// The name that the broker's certificate must have; default: the host connected to.
    #[arg(long, value_name = "NAME")]
    tls_name: Option<String>,
}

impl TlsArgs {
    /// Returns what TLS is to be like; `None` when no flag asks for it.
    pub(crate) fn options(&self) -> Option<TlsOptions> {
        let identity = self.cert.clone().zip(self.key.clone());
        let is_wanted = self.tls || self.cafile.is_some() || identity.is_some() || self.tls_name.is_some();
        is_wanted.then(|| TlsOptions {
            ca_file: self.cafile.clone(),
            identity: identity.map(|(cert_file, key_file)| TlsIdentity { cert_file, key_file }),
            server_name: self.tls_name.clone(),
            ..TlsOptions::default()
        })
    }
}
