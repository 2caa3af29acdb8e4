//! Addresses as a source of chance: some hash maps take theirs from where the process lies in memory.
//!
//! So the process starts itself again where addresses are not randomised. Some sandboxes forbid that; then runs may differ in
//! the order of things that happen at once, and it is said.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Tells the process that it has been through here.
const DONE: &str = "VIVACE_SIM_PLACED";

/// From Linux' `personality.h`.
const ADDR_NO_RANDOMIZE: u64 = 0x004_0000;

#[expect(
    unsafe_code,
    reason = "the C library's function has no safe wrapper among our dependencies"
)]
mod libc {
    unsafe extern "C" {
        /// Takes a number, gives one, touches no memory of ours.
        pub(super) safe fn personality(persona: std::ffi::c_ulong) -> std::ffi::c_int;
    }
}

/// Comes back in a process whose addresses are the same every time.
pub(crate) fn without_random_addresses() -> anyhow::Result<()> {
    if std::env::var_os(DONE).is_some() {
        return Ok(());
    }
    if libc::personality(ADDR_NO_RANDOMIZE) < 0 {
        eprintln!("addresses are random here: another run of this seed may differ in details");
        return Ok(());
    }
    let error = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(DONE, "1")
        .exec();
    Err(error.into())
}
