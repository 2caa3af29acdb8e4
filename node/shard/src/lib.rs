//! vivace-shard
