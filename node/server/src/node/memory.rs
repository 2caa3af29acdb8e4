//! How much memory live spans and columns of blocks may take where settings leave it open.

use settings::ByteSize;

/// Budget of live spans where settings leave it open: a quarter of the memory we may use, within these.
const HEADS_MIN: u64 = ByteSize::mib(128).0;
const HEADS_MAX: u64 = ByteSize::gib(2).0;
/// Memory for columns of blocks where settings leave it open: an eighth, within these.
const COLUMNS_MIN: u64 = ByteSize::mib(16).0;
const COLUMNS_MAX: u64 = ByteSize::mib(512).0;

/// Bytes of live spans.
pub(super) fn heads_budget(asked: Option<ByteSize>) -> usize {
    let budget = match asked {
        Some(asked) => asked.bytes(),
        None => (memory_limit() / 4).clamp(HEADS_MIN, HEADS_MAX),
    };
    usize::try_from(budget).unwrap_or(usize::MAX)
}

/// Bytes of columns kept as they are stored, and as they are decoded. Half of each: what is decoded is several times as
/// long, but what is hot is little, and is not asked for as it is stored any more.
pub(super) fn columns_budget(asked: Option<ByteSize>) -> (u64, u64) {
    let both = match asked {
        Some(asked) => asked.bytes(),
        None => (memory_limit() / 8).clamp(COLUMNS_MIN, COLUMNS_MAX),
    };
    (both / 2, both - both / 2)
}

/// Bytes this process may use: the cgroup's limit, or all memory of the machine.
fn memory_limit() -> u64 {
    let number = |path: &str| {
        std::fs::read_to_string(path)
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok())
    };
    let cgroup = number("/sys/fs/cgroup/memory.max").or_else(|| number("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim()
            .strip_suffix(" kB")?
            .trim()
            .parse::<u64>()
            .ok()
            .map(|kib| kib << 10)
    });
    // Without a limit, version 1 of cgroups reports a number close to 2^63.
    cgroup
        .unwrap_or(u64::MAX)
        .min(machine.unwrap_or(ByteSize::gib(1).bytes()))
}
