//! `vivace`: settings, build, run, drain. No logic here.

use std::sync::Arc;

use clap::Parser as _;
use server::app::{App, Common, stop_on_signal};
use server::cli::{Cli, Command, StandaloneArgs};
use server::clock::SystemClock;
use server::node::Node;

// Tables of live spans grow by doubling and go all at once. jemalloc keeps freed pages for the next table instead of giving
// them back at once, which saves the kernel from clearing them again, and needs half the memory of mimalloc for it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    let outcome = run(Cli::parse().command);
    if let Err(error) = outcome {
        // The sentence alone: whoever runs nodes shows their last line, and neither "Error:" nor a stack,
        // which RUST_BACKTRACE would add, is it.
        eprintln!("{error:#}");
        std::process::exit(1);
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Version => {
            println!("vivace {} ({})", server::VERSION, server::REVISION);
            Ok(())
        }
        Command::Admin(args) => runtime()?.block_on(server::admin::command(args, &mut std::io::stdout())),
        Command::Query(args) => runtime()?.block_on(server::client::command(args, &mut std::io::stdout())),
        Command::Catalog(args) => runtime()?.block_on(server::catalog::command(args, &mut std::io::stdout())),
        Command::Fsck(args) => runtime()?.block_on(server::catalog::fsck(args, &mut std::io::stdout())),
        Command::Purge(args) => runtime()?.block_on(server::purge::command(args)),
        Command::Load(args) => runtime()?.block_on(server::load::command(args)),
        Command::Standalone(args) => {
            let settings = match args.settings() {
                Ok(settings) => settings,
                Err(error) => {
                    // One line per problem, without the "Error:" that would stand before the first.
                    eprintln!("{error}");
                    std::process::exit(2);
                }
            };
            if args.check_config {
                println!("settings are valid");
                return Ok(());
            }
            let (runtime, computing) = (runtime()?, server::cpu::computing()?);
            let outcome = runtime.block_on(standalone(settings, &args, computing.handle().clone()));
            // Threads that still read blocks for nobody are not waited for.
            computing.shutdown_background();
            runtime.shutdown_timeout(std::time::Duration::from_secs(1));
            outcome
        }
    }
}

async fn standalone(
    settings: settings::NodeSettings,
    args: &StandaloneArgs,
    computing: tokio::runtime::Handle,
) -> anyhow::Result<()> {
    let repeats = server::telemetry::install(&settings.log)?;
    tracing::info!(version = server::VERSION, config = ?args.config, "starting");
    let stop = stop_on_signal()?;
    let mut common = Common::new(settings, Arc::new(SystemClock::new()));
    common.computing = Some(computing);
    let objects = server::storage::open(&common.settings)?;
    if common.settings.storage.probe {
        let (objects, prefix) = (Arc::clone(&objects), server::storage::prefix(&common.settings));
        let probe = async move { server::storage::probe(&*objects, &prefix, &std::process::id().to_string()).await };
        if Node::is_known(&common.settings) {
            // What is in the log is nowhere else, and spans can be acknowledged without the store.
            tokio::spawn(async move {
                if let Err(error) = probe.await {
                    tracing::error!("{error:#}; going on: blocks wait in the log until it can be used");
                }
            });
        } else {
            probe.await?;
        }
    }
    let app = App::bind(common.clone(), Some(repeats)).await?;
    // It may wait for others to let it in, or for a long log to be read, and nothing was acknowledged yet.
    let node = tokio::select! {
        node = Node::open(common.clone(), objects) => node?,
        () = stop.cancelled() => {
            tracing::info!("told to end before it was open");
            return Ok(());
        }
    };
    if let Some(address) = node.admin_address() {
        println!("listening admin {address}");
    }
    if let Some(address) = node.peer_address() {
        println!("listening peer {address}");
    }
    if let Some(path) = &args.config {
        // Ends with the stop token; what it does takes a millisecond, so nobody waits for it.
        tokio::spawn(server::reload::watch(path.clone(), common, stop.clone()));
    }
    app.run(node.backend(), stop, &mut std::io::stdout()).await
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}
