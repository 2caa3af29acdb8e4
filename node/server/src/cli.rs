//! The command line. Parsing only; what the words mean together with the settings file is in [`StandaloneArgs::settings`].
//!
//! The environment stands in for the few flags that people change per machine. A flag beats the environment, both beat
//! the file, the file beats the defaults.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use settings::node::LogFormat;
use settings::{NodeSettings, Problem, SettingsError};

/// A distributed tracing store.
#[derive(Debug, Parser)]
#[command(name = "vivace", version = crate::VERSION, about, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node: a whole cluster by itself, or one of several.
    Standalone(StandaloneArgs),
    /// Send generated traces to an OTLP receiver and measure it.
    Load(crate::load::LoadArgs),
    /// Ask a node for traces, spans or metrics, and print the answer.
    Query(crate::client::QueryArgs),
    /// Ask or tell a node's admin API: members, drains, shard health.
    Admin(crate::admin::AdminArgs),
    /// The catalog of blocks as the object store knows it.
    Catalog(crate::catalog::CatalogArgs),
    /// Check that the object store holds what the catalog in it says; writes nothing.
    Fsck(crate::catalog::FsckArgs),
    /// Delete everything under the bucket's prefix, after the last node has ended for good.
    Purge(crate::purge::PurgeArgs),
    /// Print the version.
    Version,
}

#[derive(Debug, Clone, Default, Args)]
pub struct StandaloneArgs {
    /// Folder of everything the node keeps on disk [default: ./data]
    #[arg(long, env = "VIVACE_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Settings file (YAML); every field is optional
    #[arg(long, env = "VIVACE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// IP address of all three ports [default: 127.0.0.1]
    #[arg(long, env = "VIVACE_LISTEN", value_name = "IP")]
    pub listen: Option<IpAddr>,
    /// Address of OTLP/gRPC [default: 127.0.0.1:4317]
    #[arg(long, value_name = "IP:PORT")]
    pub otlp_grpc_listen: Option<SocketAddr>,
    /// Address of OTLP/HTTP [default: 127.0.0.1:4318]
    #[arg(long, value_name = "IP:PORT")]
    pub otlp_http_listen: Option<SocketAddr>,
    /// Address of queries, status and metrics [default: 127.0.0.1:3200]
    #[arg(long, value_name = "IP:PORT")]
    pub http_listen: Option<SocketAddr>,
    /// Address where other nodes reach this one; needs cluster.tls, or cluster.plaintext on loopback
    #[arg(long, env = "VIVACE_PEER_LISTEN", value_name = "IP:PORT")]
    pub peer_listen: Option<SocketAddr>,
    /// Peer addresses of nodes that let this one in when its disk is empty
    #[arg(long, env = "VIVACE_JOIN", value_name = "HOST:PORT,...", value_delimiter = ',')]
    pub join: Option<Vec<String>>,
    /// Where peers reach this node [default: the peer address]
    #[arg(long, env = "VIVACE_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// What people call this node [default: its id]
    #[arg(long, env = "VIVACE_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// Zone of this node; copies are spread over zones
    #[arg(long, env = "VIVACE_ZONE", value_name = "ZONE")]
    pub zone: Option<String>,
    /// Check the settings, print one line per problem, start nothing
    #[arg(long)]
    pub check_config: bool,
    /// Form of the log lines [default: text]
    #[arg(long, env = "VIVACE_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogForm>,
    /// error, warn, info, debug, trace, or directives such as info,shard=debug [default: info]
    #[arg(long, env = "VIVACE_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LogForm {
    Text,
    Json,
}

impl StandaloneArgs {
    /// The file, or the defaults, with what was said on the command line in place; checked as a whole.
    pub fn settings(&self) -> Result<NodeSettings, SettingsError> {
        let mut settings = match &self.config {
            Some(path) => settings::load(path)?,
            None => NodeSettings::default(),
        };
        if let Some(data_dir) = &self.data_dir {
            settings.node.data_dir.clone_from(data_dir);
        }
        if let Some(ip) = self.listen {
            settings.listen.otlp_grpc.set_ip(ip);
            settings.listen.otlp_http.set_ip(ip);
            settings.listen.http.set_ip(ip);
        }
        let addresses = [
            (self.otlp_grpc_listen, &mut settings.listen.otlp_grpc),
            (self.otlp_http_listen, &mut settings.listen.otlp_http),
            (self.http_listen, &mut settings.listen.http),
        ];
        for (said, address) in addresses {
            *address = said.unwrap_or(*address);
        }
        settings.listen.peer = self.peer_listen.or(settings.listen.peer);
        let cluster = &mut settings.cluster;
        if let Some(join) = &self.join {
            cluster.join.clone_from(join);
        }
        if let Some(zone) = &self.zone {
            cluster.zone.clone_from(zone);
        }
        cluster.advertise = self.advertise.clone().or(cluster.advertise.take());
        cluster.name = self.node_name.clone().or(cluster.name.take());
        if let Some(form) = self.log_format {
            settings.log.format = match form {
                LogForm::Text => LogFormat::Text,
                LogForm::Json => LogFormat::Json,
            };
        }
        if let Some(level) = &self.log_level {
            settings.log.level.clone_from(level);
        }
        check(&settings)?;
        Ok(settings)
    }
}

/// All rules of the settings, and of the one field whose language the subscriber owns.
fn check(settings: &NodeSettings) -> Result<(), SettingsError> {
    let mut problems = match settings.validate() {
        Ok(()) => Vec::new(),
        Err(SettingsError::Invalid(problems)) => problems,
        Err(error) => return Err(error),
    };
    let field = "log.level";
    if let Err(message) = crate::telemetry::levels(&settings.log)
        && problems.iter().all(|problem| problem.field != field)
    {
        problems.push(Problem {
            field: field.to_owned(),
            message,
        });
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(SettingsError::Invalid(problems))
    }
}

#[cfg(test)]
mod tests {
    //! Words in, settings out.

    use super::*;

    fn settings_of(words: &str) -> NodeSettings {
        let words = std::iter::once("vivace").chain(words.split_whitespace());
        match Cli::try_parse_from(words).unwrap().command {
            Command::Standalone(args) => args.settings().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn without_words_it_is_the_defaults() {
        assert_eq!(settings_of("standalone"), NodeSettings::default());
    }

    #[test]
    fn what_differs_between_nodes_of_one_file_may_be_said() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("node.yaml");
        std::fs::write(&file, "cluster: {plaintext: true, zone: a}").unwrap();
        let config = file.display();
        let settings = settings_of(&format!(
            "standalone --config {config} --peer-listen 127.0.0.1:7946 --join n-0:1,n-1:2 --zone b --node-name n-2 --advertise n-2:3"
        ));
        assert_eq!(settings.cluster.join, ["n-0:1", "n-1:2"]);
        assert_eq!(settings.cluster.zone, "b");
        assert_eq!(settings.cluster.name.as_deref(), Some("n-2"));
        assert_eq!(settings.cluster.advertise.as_deref(), Some("n-2:3"));
    }

    #[test]
    fn an_address_beats_the_common_ip_and_both_beat_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("node.yaml");
        std::fs::write(
            &file,
            "listen: {http: 127.0.0.9:1, otlp_grpc: 127.0.0.9:2}\nlog: {level: warn}",
        )
        .unwrap();
        let config = file.display();
        let settings = settings_of(&format!(
            "standalone --config {config} --listen 0.0.0.0 --http-listen 127.0.0.3:0 --data-dir /d --log-format json"
        ));
        assert_eq!(settings.listen.http.to_string(), "127.0.0.3:0");
        assert_eq!(settings.listen.otlp_grpc.to_string(), "0.0.0.0:2");
        assert_eq!(settings.listen.otlp_http.to_string(), "0.0.0.0:4318");
        assert_eq!(settings.node.data_dir, PathBuf::from("/d"));
        assert_eq!(settings.log.level, "warn");
        assert_eq!(settings.log.format, LogFormat::Json);
    }

    #[test]
    fn what_the_words_make_is_checked_too() {
        let words = "vivace standalone --http-listen 127.0.0.1:4317".split_whitespace();
        let Command::Standalone(args) = Cli::try_parse_from(words).unwrap().command else {
            panic!()
        };
        let error = args.settings().unwrap_err().to_string();
        assert_eq!(
            error,
            "listen.http: 127.0.0.1:4317 is also listen.otlp_grpc: each needs its own port"
        );
    }

    #[test]
    fn a_level_that_a_start_refuses_is_no_valid_setting() {
        for (level, expected) in [
            ("info", ""),
            ("info,shard=debug", ""),
            ("foo", "log.level: \"foo\" is not a level: "),
            (
                "shard=foo",
                "log.level: \"shard=foo\" is neither a level nor directives: ",
            ),
        ] {
            let words = ["vivace", "standalone", "--log-level", level];
            let Command::Standalone(args) = Cli::try_parse_from(words).unwrap().command else {
                panic!()
            };
            let said = args
                .settings()
                .map_or_else(|error| error.to_string(), |_| String::new());
            assert!(said.starts_with(expected), "{level}: {said}");
            assert_eq!(
                said.lines().count(),
                usize::from(!expected.is_empty()),
                "{level}: {said}"
            );
        }
    }
}
