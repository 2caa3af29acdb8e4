//! The simulation as every change has to pass it: a seed, twice, and, in a build that has them, each planted bug.

use std::process::Command;

fn sim(args: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_vivace-sim"))
        .args(args)
        .output()
        .expect("the program is built beside its tests");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// One that was fully looked into. More: `vivace-sim --seeds 0..1000 --twice`.
#[test]
#[ignore = "not yet run often enough on machines that are busy with something else; `just sim --seed 2 --twice`"]
fn a_seed_keeps_every_promise_and_is_the_same_every_time() {
    let (is_well, said) = sim(&["--seed", "2", "--twice"]);
    let is_random = said.contains("addresses are random") && !said.contains("BROKEN");
    // Where the sandbox does not let addresses be fixed, no run is claimed to be like another.
    assert!(is_well || is_random, "{said}");
}

#[cfg(feature = "plants")]
#[test]
#[ignore = "takes minutes; `cargo run --release -p vivace-sim --features plants -- --plants`"]
fn every_plant_is_found() {
    let (is_well, said) = sim(&["--plants", "200"]);
    assert!(is_well, "{said}");
}

#[cfg(not(feature = "plants"))]
#[test]
fn plants_are_not_compiled_in() {
    let (is_well, said) = sim(&["--plant", "ack-before-sync"]);
    assert!(!is_well && said.contains("not compiled in"), "{said}");
}
