//! Images without a registry or a builder: a program, the libraries it is linked with and the authorities it trusts, as an
//! OCI layout in a tar, which `ctr image import`, `docker load`, `podman load` and `skopeo` take.
//!
//! **Always holds:** an image holds nothing but what the program needs, and its files belong to root; equal files give an
//! equal image.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use s3s::crypto::{Checksum as _, Sha256};
use serde_json::json;

/// Where programs look for the authorities they trust, in the image and on most machines.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// The user that the chart's pods run as.
const USER: &str = "10001:10001";
const BLOCK: usize = 512;

/// An image: a name and the files in it, by their path there.
#[derive(Debug, Clone)]
pub struct Image {
    pub name: String,
    entrypoint: String,
    files: BTreeMap<String, PathBuf>,
}

impl Image {
    /// An image that starts this program. A static program brings nothing with it, another one its libraries.
    pub fn of(name: &str, program: &Path) -> anyhow::Result<Self> {
        let file = program
            .file_name()
            .context("a program without a name")?
            .to_string_lossy();
        let entrypoint = format!("/{file}");
        let mut files = BTreeMap::from([(entrypoint.clone(), program.to_path_buf())]);
        if Path::new(AUTHORITIES).is_file() {
            files.insert(AUTHORITIES.to_owned(), PathBuf::from(AUTHORITIES));
        }
        for library in libraries(program)? {
            files.insert(library.clone(), std::fs::canonicalize(&library)?);
        }
        Ok(Self {
            name: name.to_owned(),
            entrypoint,
            files,
        })
    }

    /// Writes it as a tar with an OCI layout.
    pub fn write(&self, to: &Path) -> anyhow::Result<()> {
        let layer = self.layer()?;
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {"Entrypoint": [self.entrypoint], "User": USER},
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
        })
        .to_string()
        .into_bytes();
        let part = |kind: &str, bytes: &[u8]| {
            let kind = format!("application/vnd.oci.image.{kind}");
            json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()})
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": part("config.v1+json", &config),
            "layers": [part("layer.v1.tar", &layer)],
        })
        .to_string()
        .into_bytes();
        let mut described = part("manifest.v1+json", &manifest);
        described["platform"] = json!({"architecture": architecture(), "os": "linux"});
        described["annotations"] = json!({"io.containerd.image.name": self.name});
        let index = json!({"schemaVersion": 2, "manifests": [described]}).to_string();

        let mut tar = Vec::with_capacity(layer.len() + 64 * BLOCK);
        put(&mut tar, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
        for blob in [&layer, &config, &manifest] {
            let name = digest(blob).replace(':', "/");
            put(&mut tar, &format!("blobs/{name}"), 0o644, blob);
        }
        put(&mut tar, "index.json", 0o644, index.as_bytes());
        end(&mut tar);
        std::fs::write(to, tar).with_context(|| format!("cannot write {}", to.display()))
    }

    fn layer(&self) -> anyhow::Result<Vec<u8>> {
        let mut tar = Vec::new();
        let mut folders = BTreeSet::new();
        for path in self.files.keys() {
            let parents = Path::new(path)
                .ancestors()
                .skip(1)
                .filter(|parent| *parent != Path::new("/"));
            folders.extend(parents.map(|parent| parent.display().to_string()));
        }
        for folder in folders {
            header(
                &mut tar,
                &format!("{}/", folder.trim_start_matches('/')),
                0o755,
                0,
                b'5',
            );
        }
        for (path, file) in &self.files {
            let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            put(&mut tar, path.trim_start_matches('/'), 0o755, &bytes);
        }
        end(&mut tar);
        Ok(tar)
    }
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    }
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::checksum(bytes);
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Paths of the libraries a program is linked with, the loader included; none for a static one.
fn libraries(program: &Path) -> anyhow::Result<Vec<String>> {
    let said = Command::new("ldd").arg(program).output().context("cannot run ldd")?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    Ok(said.lines().filter_map(library).map(str::to_owned).collect())
}

/// The path in a line of ldd: `name => path (address)` or `path (address)`.
fn library(line: &str) -> Option<&str> {
    let path = line.split_once("=>").map_or(line, |(_, path)| path).trim();
    let path = path.split(" (").next()?.trim();
    path.starts_with('/').then_some(path)
}

/// A file in a tar.
fn put(tar: &mut Vec<u8>, name: &str, mode: u32, bytes: &[u8]) {
    header(tar, name, mode, bytes.len(), b'0');
    tar.extend_from_slice(bytes);
    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
}

fn end(tar: &mut Vec<u8>) {
    tar.resize(tar.len() + 2 * BLOCK, 0);
}

/// One ustar header. Names here are far below its hundred bytes.
fn header(tar: &mut Vec<u8>, name: &str, mode: u32, size: usize, kind: u8) {
    let mut block = [0_u8; BLOCK];
    let mut set = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    assert!(name.len() <= 100, "{name} is too long for a tar of this kind");
    set(0, name);
    set(100, &format!("{mode:07o}"));
    set(108, "0000000");
    set(116, "0000000");
    set(124, &format!("{size:011o}"));
    set(136, "00000000000");
    set(148, "        ");
    set(257, "ustar");
    set(263, "00");
    block[156] = kind;
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    tar.extend_from_slice(&block);
}

#[cfg(test)]
mod tests {
    //! Files in, a tar that tar reads out.

    use super::*;

    #[test]
    fn libraries_are_read_off_what_ldd_says() {
        for (line, wanted) in [
            ("\tlinux-vdso.so.1 (0x00007f)", None),
            (
                "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)",
                Some("/lib/x86_64-linux-gnu/libc.so.6"),
            ),
            (
                "\t/lib64/ld-linux-x86-64.so.2 (0x00007f)",
                Some("/lib64/ld-linux-x86-64.so.2"),
            ),
            ("\tstatically linked", None),
            ("\tlibx.so => not found", None),
        ] {
            assert_eq!(library(line), wanted, "{line}");
        }
    }

    #[test]
    fn an_image_is_a_tar_of_a_layout() {
        let dir = std::env::temp_dir().join(format!("vivace-image-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let image = Image::of("vivace.local/true:1", Path::new("/bin/true")).unwrap();
        let (one, two) = (dir.join("one.tar"), dir.join("two.tar"));
        image.write(&one).unwrap();
        image.write(&two).unwrap();
        assert_eq!(std::fs::read(&one).unwrap(), std::fs::read(&two).unwrap());
        let listed = Command::new("tar").arg("-tf").arg(&one).output().unwrap();
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        let names = String::from_utf8(listed.stdout).unwrap();
        assert!(
            names.starts_with("oci-layout\nblobs/sha256/") && names.ends_with("index.json\n"),
            "{names}"
        );
        assert!(image.files.contains_key("/true"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
