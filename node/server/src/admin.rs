//! `vivace admin`: tells a node's admin API something, or asks it, for people.
//!
//! Owns [`AdminArgs`]. What is sent is decided from the words alone ([`Ask::of`]); the only thing that waits is the request.
//! A command that only the leader of the ring can carry out is refused with the leader's id: ask that node.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

/// A command may wait for an election, or for a snapshot to be written.
const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Args)]
pub struct AdminArgs {
    /// Address of the admin API
    #[arg(
        long,
        env = "VIVACE_ADMIN_URL",
        default_value = "http://127.0.0.1:3300",
        value_name = "URL"
    )]
    pub url: String,
    /// PEM: the authority that signs nodes
    #[arg(long, env = "VIVACE_ADMIN_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// PEM: our certificate and its key
    #[arg(long, env = "VIVACE_ADMIN_IDENTITY", value_name = "FILE")]
    pub identity: Option<PathBuf>,
    #[command(subcommand)]
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum What {
    /// All the node says, as JSON
    Status,
    /// Members of the ring
    Members,
    /// Shards and their copies
    Shards,
    /// Let a node hand over, to be restarted or removed
    Drain {
        /// Id of the member, or its name
        node: String,
        #[arg(value_enum)]
        mode: Mode,
    },
    /// Let a node stop handing over
    Undrain { node: String },
    /// Take a drained node out for good
    Remove {
        node: String,
        /// Its disk is gone for good: replace its copies with those of others
        #[arg(long)]
        lost: bool,
    },
    /// Let another voter lead the ring
    Transfer { to: String },
    /// Take snapshots, and let go of the log they cover
    Snapshot,
    /// Switch on a level of formats
    Finalize { format: u32 },
    /// Give up what a sealed generation still has in no block; all its nodes must be lost
    Abandon { shard: u32, generation: u64 },
    /// What to do when the ring has lost its majority
    Recover,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    Restart,
    Remove,
}

/// The command as it is sent; `None` asks for the status.
fn message(what: &What, member: impl Fn(&str) -> anyhow::Result<u64>) -> anyhow::Result<Option<Value>> {
    Ok(Some(match what {
        What::Status | What::Members | What::Shards => return Ok(None),
        What::Drain { node, mode } => {
            let mode = match mode {
                Mode::Restart => "restart",
                Mode::Remove => "remove",
            };
            json!({"command": "drain", "member": member(node)?, "mode": mode})
        }
        What::Undrain { node } => json!({"command": "undrain", "member": member(node)?}),
        What::Remove { node, lost } => json!({"command": "remove", "member": member(node)?, "lost": lost}),
        What::Transfer { to } => json!({"command": "transferLeadership", "to": member(to)?}),
        What::Snapshot => json!({"command": "snapshot"}),
        What::Finalize { format } => json!({"command": "finalize", "format": format}),
        What::Abandon { shard, generation } => {
            json!({"command": "abandon", "shard": shard, "generation": generation})
        }
        What::Recover => json!({"command": "recover", "member": 0, "cluster": ""}),
    }))
}

/// A member by its id, in decimal or as its disk is named, or by what people call it.
fn member_of(status: &Value, word: &str) -> anyhow::Result<u64> {
    let members = status["view"]["members"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let is_meant = |member: &&Value| {
        member["pod"] == word
            || member["incarnation"] == word
            || member["raftId"].as_u64().is_some_and(|id| word.parse() == Ok(id))
    };
    let mut found = members.iter().filter(is_meant);
    match (found.next(), found.next()) {
        (Some(member), None) => member["raftId"].as_u64().context("the node gives no id"),
        (Some(_), Some(_)) => bail!("several members are called {word}: say the id"),
        (None, _) => bail!("no member is {word}"),
    }
}

/// Does what the words say, and prints the answer.
pub async fn command(args: AdminArgs, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
    let client = client(&args)?;
    let base = args.url.trim_end_matches('/');
    let status = client.get(format!("{base}/admin/v1/status")).send().await;
    let status = status.with_context(|| format!("{base} does not answer"))?;
    let status: Value = status.error_for_status()?.json().await?;
    match message(&args.what, |word| member_of(&status, word))? {
        None => write!(out, "{}", text(&args.what, &status)?)?,
        Some(message) => {
            let answer = client
                .post(format!("{base}/admin/v1/command"))
                .json(&message)
                .send()
                .await?;
            let code = answer.status();
            if !code.is_success() {
                bail!("{}", answer.text().await?);
            }
            writeln!(out, "done")?;
        }
    }
    Ok(())
}

fn client(args: &AdminArgs) -> anyhow::Result<reqwest::Client> {
    let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let mut builder = reqwest::Client::builder().timeout(TIMEOUT);
    if let Some(path) = &args.ca {
        builder = builder.tls_certs_only([reqwest::Certificate::from_pem(&read(path)?)?]);
    }
    if let Some(path) = &args.identity {
        builder = builder.identity(reqwest::Identity::from_pem(&read(path)?)?);
    }
    Ok(builder.build()?)
}

fn text(what: &What, status: &Value) -> anyhow::Result<String> {
    let view = &status["view"];
    Ok(match what {
        What::Members => {
            let mut text = format!(
                "{:<22}{:<24}{:<12}{:<9}{:<9}{:<11}{:>7}{:>8}\n",
                "ID", "NAME", "ZONE", "ROLE", "STATE", "REACHABLE", "LAG", "SHARDS"
            );
            for member in view["members"].as_array().map(Vec::as_slice).unwrap_or_default() {
                let word = |field: &str| member[field].as_str().unwrap_or("-").to_owned();
                text += &format!(
                    "{:<22}{:<24}{:<12}{:<9}{:<9}{:<11}{:>7}{:>8}{}\n",
                    member["raftId"].to_string(),
                    word("pod"),
                    word("zone"),
                    word("role"),
                    word("state"),
                    member["reachable"].to_string(),
                    member["lag"].to_string(),
                    member["shards"].to_string(),
                    if view["leader"] == member["raftId"] {
                        "  leads the ring"
                    } else {
                        ""
                    }
                );
            }
            text
        }
        What::Shards => format!("{}\n", serde_json::to_string_pretty(&view["shards"])?),
        _ => format!("{}\n", serde_json::to_string_pretty(status)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Value {
        json!({"view": {"leader": 7, "members": [
            {"raftId": 7, "incarnation": "0000000000000007", "pod": "a"},
            {"raftId": 8, "incarnation": "0000000000000008", "pod": "b"},
            {"raftId": 9, "incarnation": "0000000000000009", "pod": "b"},
        ]}})
    }

    #[test]
    fn a_member_is_meant_by_id_by_disk_or_by_a_name_that_only_it_has() {
        let status = status();
        let found = |word| member_of(&status, word).ok();
        assert_eq!(
            (found("7"), found("0000000000000008"), found("a")),
            (Some(7), Some(8), Some(7))
        );
        assert_eq!((found("b"), found("c")), (None, None));
    }

    #[test]
    fn every_command_is_one_that_the_node_understands() {
        let node = || "a".to_owned();
        let all = [
            What::Drain {
                node: node(),
                mode: Mode::Restart,
            },
            What::Drain {
                node: node(),
                mode: Mode::Remove,
            },
            What::Undrain { node: node() },
            What::Remove {
                node: node(),
                lost: true,
            },
            What::Transfer { to: node() },
            What::Snapshot,
            What::Finalize { format: 1 },
            What::Abandon {
                shard: 1,
                generation: 2,
            },
            What::Recover,
        ];
        for what in all {
            let message = message(&what, |_| Ok(7)).unwrap().unwrap();
            serde_json::from_value::<crate::node::AdminCommand>(message).unwrap();
        }
    }
}
