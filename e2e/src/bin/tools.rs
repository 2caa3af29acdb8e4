//! Installs every tool of the end-to-end suite into the cache, or only those named, and says what came of it.
//!
//! A tool that cannot be had is reported and does not fail the run: its tests are skipped, loudly.

use std::time::Instant;

use vivace_e2e::tools::{Tool, cache_root};

fn main() -> anyhow::Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    println!("tools are kept in {}", cache_root()?.display());
    for tool in Tool::ALL {
        if !wanted.is_empty() && !wanted.iter().any(|name| name == tool.name()) {
            continue;
        }
        let started = Instant::now();
        let result = tool.install();
        let seconds = started.elapsed().as_secs();
        match result {
            Ok(program) => println!(
                "{:16} {:36} {seconds:4} s  {}",
                tool.name(),
                tool.version(),
                program.display()
            ),
            Err(reason) => println!(
                "{:16} {:36} {seconds:4} s  UNAVAILABLE: {reason}",
                tool.name(),
                tool.version()
            ),
        }
    }
    Ok(())
}
