//! `postrider config`: checks a configuration, prints the one in force.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use broker::config::{Loaded, Sources, reference};

use crate::terminal::misused;

/// Check or print the configuration
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check a configuration file and the files of users, keys and rules that it names; exit code 2 if
    /// anything is wrong
    Check {
        /// The TOML file
        file: PathBuf,
    },
    /// Print the configuration in force, with where each value that is no default comes from
    Print {
        #[command(flatten)]
        settings: Settings,
        /// Print every setting with its documentation and default instead
        #[arg(long, conflicts_with_all = ["config", "listen", "http", "data_dir"])]
        reference: bool,
    },
}

/// What the command line can set; `serve` and `config print` share it.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Settings {
    /// Configuration file; every setting may also be an environment variable, POSTRIDER_SECTION__KEY
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address of MQTT [default: 127.0.0.1:1883]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Address of HTTP [default: 127.0.0.1:8080]
    #[arg(long, value_name = "HOST:PORT")]
    http: Option<String>,
    /// Directory of the store [default: ./postrider-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
}

impl Settings {
    /// Loads the configuration, or tells what is wrong with it and gives the exit code.
    pub(crate) fn load(self) -> Result<Loaded, ExitCode> {
        let sources = Sources { file: self.config, ..Sources::default() }
            .with_process_env()
            .flag("--listen", "mqtt.listen", self.listen)
            .flag("--http", "http.listen", self.http)
            .flag("--data-dir", "store.data_dir", self.data_dir);
        check(&sources)
    }
}

/// Runs the command.
pub(crate) fn run(args: Args) -> ExitCode {
    match args.command {
        // The file alone: what the environment here says is no part of it.
        Command::Check { file } => match check(&Sources { file: Some(file.clone()), ..Sources::default() }) {
            Ok(loaded) => match broker::check_files(&loaded.config) {
                Ok(()) => print(&format!("{}: valid\n", file.display())),
                Err(what) => misused(&format!("a file that {} names is wrong:\n{what}", file.display())),
            },
            Err(code) => code,
        },
        Command::Print { reference: true, .. } => print(&reference()),
        Command::Print { settings, .. } => match settings.load() {
            Ok(loaded) => print(&loaded.to_toml()),
            Err(code) => code,
        },
    }
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads may have seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("postrider: cannot write to stdout: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

fn check(sources: &Sources) -> Result<Loaded, ExitCode> {
    let loaded = sources.load().map_err(|error| {
        eprintln!("postrider: the configuration is wrong:\n{error}");
        ExitCode::from(2)
    })?;
    if let Err(error) = tracing_subscriber::EnvFilter::try_new(&loaded.config.log.filter) {
        let origin = loaded.origins.get("log.filter").map_or("default".to_owned(), ToString::to_string);
        let filter = &loaded.config.log.filter;
        eprintln!(
            "postrider: the configuration is wrong:\n{origin}: log.filter = {filter:?} is no filter: {error}; \
             for instance \"info\" or \"info,postrider_broker=debug\""
        );
        return Err(ExitCode::from(2));
    }
    Ok(loaded)
}
