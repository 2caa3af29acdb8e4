//! Many runs, each in a process of its own: nothing of one can reach another.

use std::process::Command;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A range of seeds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seeds {
    from: u64,
    to: u64,
}

impl Seeds {
    pub(crate) fn one(seed: u64) -> Self {
        Self {
            from: seed,
            to: seed + 1,
        }
    }
}

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once("..").ok_or("not FROM..TO")?;
        let number = |part: &str| part.parse().map_err(|error| format!("{part:?}: {error}"));
        let (from, to) = (number(parts.0)?, number(parts.1)?);
        if from < to {
            Ok(Self { from, to })
        } else {
            Err("it is empty".to_owned())
        }
    }
}

/// One run in a process of its own: its last words, and whether all was well.
pub(crate) fn one(seed: u64, more: &[&str]) -> std::io::Result<(String, bool)> {
    let output = Command::new(std::env::current_exe()?)
        .args(["--seed", &seed.to_string()])
        .args(more)
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ok((said.trim_end().to_owned(), output.status.success()))
}

/// Runs them all; says whether all was well.
pub(crate) fn run(seeds: Seeds, jobs: usize, twice: bool) -> std::io::Result<bool> {
    let (next, is_good) = (AtomicU64::new(seeds.from), AtomicBool::new(true));
    let work = || -> std::io::Result<()> {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.to {
                return Ok(());
            }
            let (said, mut well) = one(seed, &[])?;
            println!("{said}");
            if twice {
                let (again, _) = one(seed, &[])?;
                if again != said {
                    println!("seed {seed} was not the same twice: {again}");
                    well = false;
                }
            }
            if !well {
                is_good.store(false, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            thread.join().expect("running a process does not panic")?;
        }
        Ok::<_, std::io::Error>(())
    })?;
    Ok(is_good.into_inner())
}
