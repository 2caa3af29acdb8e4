//! `vivace catalog rebuild` and `vivace fsck`: the object store looked at without a node.
//!
//! **Always holds:** neither writes to the object store. A rebuild writes only into a data directory that belongs to no
//! cluster, and until it is through that directory belongs to none. Not here: whether other nodes of the cluster still run;
//! whoever rebuilds has lost their disks.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde::Serialize;
use settings::NodeSettings;
use shard::fsck::{Depth, Findings};
use shard::rebuild::{RebuildOptions, Report};
use shard::store::Store;

use crate::app::Common;
use crate::client::time::instant;
use crate::clock::SystemClock;
use crate::node::Node;

/// See [`CatalogCommand`].
#[derive(Debug, Clone, Args)]
pub struct CatalogArgs {
    #[command(subcommand)]
    command: CatalogCommand,
}

#[derive(Debug, Clone, Subcommand)]
enum CatalogCommand {
    /// When the disks of all nodes are lost: make a data directory from what the object store holds. Spans that were never
    /// flushed are lost with the disks. Start one node on the directory, then others with cluster.join and empty ones
    Rebuild(RebuildArgs),
}

#[derive(Debug, Clone, Args)]
struct RebuildArgs {
    /// Settings file (YAML) of the nodes whose bucket it is
    #[arg(long, env = "VIVACE_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// Folder to make, in place of the settings' node.data_dir; must not belong to a cluster
    #[arg(long, env = "VIVACE_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Say what would be found, write nothing
    #[arg(long)]
    dry_run: bool,
    /// Do without the copy of the catalog in the object store, if it is damaged or gone: spans of blocks that were merged
    /// shortly before the end are counted twice
    #[arg(long)]
    without_root: bool,
}

/// What to check.
#[derive(Debug, Clone, Args)]
pub struct FsckArgs {
    /// Settings file (YAML) of the nodes whose bucket it is
    #[arg(long, env = "VIVACE_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// Read every byte: checksums, indexes and pages. Otherwise only names and lengths
    #[arg(long)]
    deep: bool,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Does what the words say, and reports on `out`.
pub async fn command(args: CatalogArgs, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
    let CatalogCommand::Rebuild(args) = args.command;
    let mut settings = settings::load(&args.config)?;
    if let Some(data_dir) = args.data_dir {
        settings.node.data_dir = data_dir;
    }
    if Node::is_known(&settings) {
        let data_dir = settings.node.data_dir.display();
        writeln!(out, "{data_dir} belongs to a cluster already: nothing to do")?;
        return Ok(());
    }
    let (store, cluster) = open(&settings).await?;
    let common = Common::new(settings, Arc::new(SystemClock::new()));
    let names = Node::block_ids(Arc::clone(&common.clock));
    let options = RebuildOptions {
        without_root: args.without_root,
    };
    let rebuilt = shard::rebuild::rebuild(&store, cluster, options, &*names).await;
    let rebuilt = rebuilt.context("nothing was written; --without-root does without the copy of the catalog")?;
    tell(&rebuilt.report, out)?;
    if args.dry_run {
        return Ok(());
    }
    Node::found_again(&common, cluster, &rebuilt).await?;
    let data_dir = common.settings.node.data_dir.display();
    writeln!(out, "{data_dir} belongs to cluster {cluster:032x} now")?;
    Ok(())
}

async fn open(settings: &NodeSettings) -> anyhow::Result<(Store, u128)> {
    let objects = crate::storage::open(settings)?;
    let cluster = Node::owner_of(settings, &*objects).await?;
    Ok((Store::new(objects, crate::storage::prefix(settings)), cluster))
}

fn tell(report: &Report, out: &mut (dyn Write + Send)) -> std::io::Result<()> {
    match report.root {
        Some((revision, taken)) => writeln!(
            out,
            "catalog of {} (revision {revision}): {} blocks",
            instant(taken),
            report.blocks_of_root
        )?,
        None => writeln!(out, "no catalog in the object store")?,
    }
    writeln!(out, "blocks flushed since: {}", report.blocks_since)?;
    writeln!(out, "spans: {}", report.spans)?;
    writeln!(out, "objects that nothing names, to be collected: {}", report.unnamed)?;
    for key in &report.lost {
        writeln!(out, "lost: {key}")?;
    }
    for (key, why) in &report.unreadable {
        writeln!(out, "unreadable: {key}: {why}")?;
    }
    if !report.unreadable.is_empty() {
        let what = "while unreadable objects are there, nothing is deleted from the object store: move them away";
        writeln!(out, "{what} once nothing in them is wanted")?;
    }
    Ok(())
}

/// What `vivace fsck -o json` prints.
#[derive(Serialize)]
struct Checked<'a> {
    cluster: String,
    revision: Option<u64>,
    #[serde(rename = "takenUnixNanos")]
    taken_unix_nanos: Option<u64>,
    blocks: usize,
    objects: usize,
    bytes: u64,
    spans: u64,
    unnamed: u64,
    foreign: u64,
    problems: Vec<FoundProblem<'a>>,
}

#[derive(Serialize)]
struct FoundProblem<'a> {
    object: &'a str,
    problem: &'a str,
}

/// Checks, and reports on `out`.
///
/// Errors: that there are problems, after they were reported; or that the store cannot be asked.
pub async fn fsck(args: FsckArgs, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
    let settings = settings::load(&args.config)?;
    let (store, cluster) = open(&settings).await?;
    let depth = if args.deep { Depth::Bytes } else { Depth::Names };
    let findings = shard::fsck::fsck(&store, cluster, depth).await?;
    match args.output {
        Output::Text => show(&findings, out)?,
        Output::Json => {
            let checked = Checked {
                cluster: format!("{cluster:032x}"),
                revision: findings.root.map(|(revision, _)| revision),
                taken_unix_nanos: findings.root.map(|(_, taken)| taken),
                blocks: findings.blocks,
                objects: findings.objects,
                bytes: findings.bytes,
                spans: findings.spans,
                unnamed: findings.unnamed,
                foreign: findings.foreign,
                problems: findings
                    .problems
                    .iter()
                    .map(|(object, problem)| FoundProblem { object, problem })
                    .collect(),
            };
            serde_json::to_writer_pretty(&mut *out, &checked)?;
            writeln!(out)?;
        }
    }
    match findings.problems.len() {
        0 => Ok(()),
        problems => bail!("{problems} problems in the object store"),
    }
}

fn show(findings: &Findings, out: &mut (dyn Write + Send)) -> std::io::Result<()> {
    let Findings {
        blocks,
        objects,
        bytes,
        spans,
        ..
    } = findings;
    for (key, why) in &findings.problems {
        writeln!(out, "{key}: {why}")?;
    }
    match findings.root {
        Some((revision, taken)) => writeln!(out, "catalog of {} (revision {revision})", instant(taken))?,
        None if findings.problems.is_empty() => {
            writeln!(out, "no catalog in the object store yet: nothing to compare with")?;
        }
        None => {}
    }
    writeln!(
        out,
        "{spans} spans in {blocks} blocks in {objects} objects of {bytes} bytes"
    )?;
    let (unnamed, foreign) = (findings.unnamed, findings.foreign);
    writeln!(
        out,
        "{unnamed} objects came since, or wait to be collected; {foreign} are not ours"
    )
}
