//! Images of `vivace` and `vivace-operator` from the youngest builds, as tars that `docker load`, `podman load`, `skopeo` and
//! `ctr image import` take: `cargo run --bin image -- DIR [REGISTRY]`.

use std::path::PathBuf;

use anyhow::Context as _;
use vivace_e2e::image::Image;
use vivace_e2e::kube::operator_bin;
use vivace_e2e::process::vivace_bin;

fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let dir = PathBuf::from(
        words
            .next()
            .context("where to? cargo run --bin image -- DIR [REGISTRY]")?,
    );
    let registry = words.next().map(|registry| format!("{registry}/")).unwrap_or_default();
    std::fs::create_dir_all(&dir)?;
    for (name, program) in [("vivace", vivace_bin()?), ("vivace-operator", operator_bin()?)] {
        let image = Image::of(&format!("{registry}{name}:{}", env!("CARGO_PKG_VERSION")), &program)?;
        let file = dir.join(format!("{name}.tar"));
        image.write(&file)?;
        println!("{}: {} from {}", file.display(), image.name, program.display());
    }
    Ok(())
}
