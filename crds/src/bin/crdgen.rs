//! `crdgen DIR...`: writes the definitions as YAML into each folder.

use std::path::Path;

fn main() -> std::io::Result<()> {
    for folder in std::env::args().skip(1) {
        std::fs::create_dir_all(&folder)?;
        for (name, yaml) in vivace_crds::crd_yaml() {
            std::fs::write(Path::new(&folder).join(name), yaml)?;
        }
    }
    Ok(())
}
