//! `vivace`: reads the words, runs the command, tells the exit code. No logic here.

use clap::Parser as _;
use server::cli::{Cli, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Version => {
            println!("vivace {} ({})", server::VERSION, server::REVISION);
            Ok(())
        }
        Command::Load(args) => runtime()?.block_on(server::load::command(args)),
        Command::Standalone(args) => {
            args.settings().map_err(|error| anyhow::anyhow!("{error}"))?;
            Ok(())
        }
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}
