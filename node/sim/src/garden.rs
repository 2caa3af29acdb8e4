//! Planted bugs: switched on for a run, and looked for.
//!
//! A simulation that finds nothing proves nothing by itself. Each plant is a mistake that somebody could have made, at the place
//! where it would have been made; if no seed of a few hundred finds it, the story or the checker lacks something.

use std::sync::atomic::{AtomicU64, Ordering};

use plants::Plant;

use crate::series;

/// Switches a mistake on.
///
/// Errors: there is none of that name, or this program was built without them.
pub(crate) fn plant(name: &str) -> anyhow::Result<()> {
    let plant = named(name)?;
    #[cfg(feature = "plants")]
    plants::select(plant);
    #[cfg(not(feature = "plants"))]
    anyhow::bail!("{} is not compiled in: build with --features plants", plant.name());
    #[cfg(feature = "plants")]
    Ok(())
}

fn named(name: &str) -> anyhow::Result<Plant> {
    let known = Plant::ALL.iter().copied().find(|plant| plant.name() == name);
    known.ok_or_else(|| {
        let names: Vec<_> = Plant::ALL.iter().map(|plant| plant.name()).collect();
        anyhow::anyhow!("no such plant: {name}; there are {}", names.join(", "))
    })
}

/// Looks for each plant, or for one, and says which seed finds it and how. Says whether all were found.
pub(crate) fn find_all(only: Option<&str>, seeds: u64, jobs: usize) -> anyhow::Result<bool> {
    let wanted = match only {
        Some(name) => vec![named(name)?],
        None => Plant::ALL.to_vec(),
    };
    plant(wanted[0].name())?;
    let mut all = true;
    for plant in wanted {
        match find(plant, seeds, jobs)? {
            Some((seed, said)) => println!("{:<22} seed {seed:>3}: {said}", plant.name()),
            None => {
                println!("{:<22} NOT FOUND in {seeds} seeds", plant.name());
                all = false;
            }
        }
    }
    Ok(all)
}

/// The first seed that finds it, and what it says.
fn find(plant: Plant, seeds: u64, jobs: usize) -> anyhow::Result<Option<(u64, String)>> {
    let (next, found) = (AtomicU64::new(0), parking_lot::Mutex::new(None));
    let work = || -> std::io::Result<()> {
        while found.lock().is_none() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                break;
            }
            let (said, is_well) = series::one(seed, &["--plant", plant.name()])?;
            if !is_well {
                let why = said.split_once("BROKEN: ").map_or(said.as_str(), |(_, why)| why);
                let mut found = found.lock();
                if found.as_ref().is_none_or(|(earlier, _)| *earlier > seed) {
                    *found = Some((seed, why.lines().next().unwrap_or_default().to_owned()));
                }
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            thread.join().expect("running a process does not panic")?;
        }
        Ok::<_, std::io::Error>(())
    })?;
    Ok(found.into_inner())
}
