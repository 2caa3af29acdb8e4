# Shortcuts. `just --list` shows them; nothing here is needed to build or test.

# formatting, lints and tests; changes nothing
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo test --workspace

# formats and applies what clippy can apply
fix:
    cargo clippy --workspace --all-targets --fix --allow-dirty
    cargo fmt --all

# the tests of one crate: just test block
test CRATE:
    cargo test -p vivace-{{CRATE}}

# the property tests with new random inputs, many of them: just explore 5000
explore CASES="2000":
    PROPTEST_CASES={{CASES}} cargo test --workspace

# the custom resources' YAML, from their types
crds:
    cargo run -p vivace-crds --bin crdgen -- crds/yaml charts/vivace/files/crds

# the operator's single-file install, from the chart
install-yaml:
    (printf '# Everything the chart installs with its defaults, for: kubectl apply --server-side -f install.yaml\n# Made by: just install-yaml\n---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: tracing-system\n'; helm template vivace-operator charts/vivace -n tracing-system --kube-version 1.36.0) > charts/vivace/install.yaml

# a node on this machine
up *ARGS:
    cargo run --release --bin vivace -- standalone {{ARGS}}

# realistic traces against it
load *ARGS:
    cargo run --release --bin vivace -- load {{ARGS}}

# every gate of the block layout, as ratios in one run
bench:
    cargo bench -p vivace-wire
    cargo bench -p vivace-block
    cargo bench -p vivace-shard

# whole nodes in one process, one seed one story: just sim --seed 7, just sim --seeds 0..100
sim *ARGS:
    cargo run --release -p vivace-sim -- {{ARGS}}

# three nodes under load and one fault after the other, for so long: just soak 120
soak MINUTES="60":
    cargo build --release -p vivace-server
    VIVACE_BIN=target/release/vivace VIVACE_CHAOS_MINUTES={{MINUTES}} cargo test -p vivace-e2e --test e2e cluster::chaos -- --nocapture

# what lands has to pass this
ci:
    bash .ci/run

doc:
    cargo doc --workspace --no-deps

deny:
    cargo deny check
