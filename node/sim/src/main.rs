//! Deterministic simulation: whole nodes in one process, one seed, one story, the same every time.
//!
//! ```text
//! vivace-sim --seed 7          one run; exit code 1 and the reason if a promise was broken
//! vivace-sim --seed 7 -v       the same, and everything that happens; -vv also every message and write
//! vivace-sim --seeds 0..40     many runs, each in a process of its own
//! vivace-sim --seed 7 --twice  two runs, which must have the same fingerprint
//! vivace-sim --plants          each planted bug, and the seed that finds it; needs `--features plants`
//! ```
//!
//! **What is real**: the node from `Node::open_on` on, with everything in it: writer, router, lanes, Raft (openraft over our log
//! store, state machines and snapshots), the log and its recovery, peers' HTTP/2 and hello, members, shard map, generations,
//! flushes, catalog, merges, mirrors of tails, questions by trace and counts. **What is simulated** is what a node stands on:
//! time ([`host`], [`world`]), randomness ([`entropy`]), the network ([`net`]), the disk under log and snapshots (`wal::SimVfs`),
//! the object store ([`bucket`]), and when which of them fails ([`story`]).
//!
//! **What is held to** (`I` numbers as in the reliability notes), by [`client`] and at the end by [`run`]:
//! - I1 acknowledged spans are in every answer that says it is complete; I2 once; I3 unaltered; I4 nothing that was never sent,
//!   and what was seen stays; I5 no span of another trace or tenant;
//! - I6 an answer that lacks something says so, and once all is well none does; I7 once all is well, everything is taken and
//!   answered within a bound;
//! - I8 the catalog names only objects that are there with their size; I2 also of what is stored: blocks hold every span once;
//! - I11 members that applied the same entry of the ring have the same state;
//! - no panic, no refusal of a good batch, no span rejected.
//!
//! **What is not here**: TLS, HTTP and gRPC doors, limits of ingest (the client calls behind them); the spool, the caches and
//! the node id are files of the real machine, which neither fail nor forget; a full disk and flipped bits (the log's own tests
//! and the end-to-end chaos have them); I9 and I13, which take days; I10 is implied by the catalog's own rule; I12.
//! Threads run in turn with their runtime, so races between threads are not explored, only orders of events.
//!
//! **How a run repeats**: all runtimes on one thread, clocks that move only when told to, threads of work in strict turn with
//! their runtime, `getrandom` replaced, addresses not randomised ([`repeat`]), one process per run.

mod bucket;
mod client;
mod entropy;
mod garden;
mod host;
mod machine;
mod net;
mod repeat;
mod run;
mod series;
mod spans;
mod story;
mod watch;
mod world;

use clap::Parser;

#[derive(Debug, Parser)]
#[command(about = "Simulates a cluster and checks its promises")]
struct Args {
    /// The one number from which everything follows.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Runs all of FROM..TO, each in a process of its own.
    #[arg(long, value_name = "FROM..TO", conflicts_with_all = ["seed", "verbose"])]
    seeds: Option<series::Seeds>,
    /// How many at once.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Runs each seed twice and compares.
    #[arg(long)]
    twice: bool,
    /// Plants a bug (`--features plants`).
    #[arg(long)]
    plant: Option<String>,
    /// Looks for each planted bug, or for `--plant` alone, with at most this many seeds (`--features plants`).
    #[arg(long, num_args = 0..=1, default_missing_value = "200", value_name = "SEEDS")]
    plants: Option<u64>,
    /// Says everything that happens; given twice, also every message and write.
    #[arg(long, short, action = clap::ArgAction::Count)]
    verbose: u8,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(seeds) = args.plants {
        let is_good = garden::find_all(args.plant.as_deref(), seeds, args.jobs)?;
        std::process::exit(i32::from(!is_good));
    }
    if args.seeds.is_some() || args.twice {
        let seeds = args.seeds.unwrap_or(series::Seeds::one(args.seed));
        let is_good = series::run(seeds, args.jobs, args.twice)?;
        std::process::exit(i32::from(!is_good));
    }
    repeat::without_random_addresses()?;
    if let Some(name) = &args.plant {
        garden::plant(name)?;
    }
    entropy::seed(args.seed);
    bucket::is_the_stage();
    let world = world::World::new(args.verbose);
    watch::watch(&world)?;
    let begun = std::time::Instant::now();
    let outcome = run::run(args.seed, world)?;
    println!("{outcome}");
    if args.verbose > 0 {
        println!("took {:.1} s", begun.elapsed().as_secs_f64());
    }
    std::process::exit(i32::from(outcome.broken.is_some()));
}
