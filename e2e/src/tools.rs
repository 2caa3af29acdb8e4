//! Real programs to test against, at pinned versions, installed once into a cache outside the repository.
//!
//! The cache is `$XDG_CACHE_HOME/vivace` (or `~/.cache/vivace`), one folder per tool and version, complete when it holds
//! [`COMPLETE`]. Installing takes minutes of both cores, so a test never starts it by itself: it takes what is there and
//! is skipped otherwise. `cargo run --bin tools` installs everything, as `.ci/run` does; with
//! [`INSTALL`]`=1` in the environment a test installs what it lacks.
//!
//! Only package registries are used, through their ordinary clients. A tool that one of them does not have is
//! [`Unavailable`], not an error.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::skip::Unavailable;

/// Environment variable: install a missing tool on first use.
pub const INSTALL: &str = "VIVACE_E2E_INSTALL";
/// The file whose presence says that an installation ran to its end.
pub const COMPLETE: &str = "complete";

/// Longer than the slowest installation on two busy cores.
const INSTALL_SECONDS_MAX: &str = "1500";

const COLLECTOR: &str = "0.161.0";
/// The version and, behind the plus, how often the manifest below has changed for it.
const COLLECTOR_BUILD: &str = "0.161.0+2";
const COLLECTOR_PROVIDERS: &str = "1.67.0";

const CONTAINERD: &str = "2.4.2";
/// Packages of Debian that a node needs, and libraries of theirs that may not be installed. They are unpacked, not installed.
const NODE_PACKAGES: &[&str] = &[
    "runc",
    "containernetworking-plugins",
    "nftables",
    "libnftables1",
    "libnftnl11",
    "libjansson4",
    "libmnl0",
    "libseccomp2",
];

const KUBERNETES: &str = "1.36.3";
/// Modules that Kubernetes' own module names by path in its repository, and that are published beside it.
const KUBERNETES_STAGED: &str = "api apiextensions-apiserver apimachinery apiserver cli-runtime client-go cloud-provider \
    cluster-bootstrap code-generator component-base component-helpers controller-manager cri-api cri-client cri-streaming \
    csi-translation-lib dynamic-resource-allocation endpointslice externaljwt kms kube-aggregator kube-controller-manager \
    kube-proxy kube-scheduler kubectl kubelet metrics mount-utils pod-security-admission sample-apiserver \
    sample-cli-plugin sample-controller streaming";

/// A real program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tool {
    /// OpenTelemetry Collector with the OTLP receiver, batch processor, both OTLP exporters and the debug exporter.
    Collector,
    /// The Collector project's load generator.
    Telemetrygen,
    /// Azure Blob Storage in memory; the path is its script, to be run by `node`.
    Azurite,
    /// Many services of AWS in memory, S3 among them; the path is a Python that has it as `moto.server`.
    Moto,
    /// A Python with pyarrow and duckdb.
    Readers,
    /// MinIO's server: S3 on a disk.
    Minio,
    /// Google's storage in memory, in its JSON API and a part of the XML one.
    FakeGcs,
    /// Kubernetes' store.
    Etcd,
    /// Kubernetes' API.
    KubeApiserver,
    /// Kubernetes' own controllers: StatefulSets, garbage, endpoints.
    KubeControllers,
    /// Renders the chart.
    Helm,
    /// Says which pod runs where.
    KubeScheduler,
    /// Runs pods.
    Kubelet,
    /// Makes Services lead somewhere.
    KubeProxy,
    /// Runs containers; its shim and its client lie beside it.
    Containerd,
    /// Gives names to Services and pods.
    CoreDns,
    /// runc, the CNI plugins and nft, as Debian packages them, unpacked; the path is runc's.
    NodePrograms,
}

impl Tool {
    /// All of them, the quick ones first.
    pub const ALL: [Self; 17] = [
        Self::Readers,
        Self::Moto,
        Self::Azurite,
        Self::FakeGcs,
        Self::Telemetrygen,
        Self::Collector,
        Self::Minio,
        Self::Etcd,
        Self::KubeApiserver,
        Self::KubeControllers,
        Self::Helm,
        Self::KubeScheduler,
        Self::Kubelet,
        Self::KubeProxy,
        Self::Containerd,
        Self::CoreDns,
        Self::NodePrograms,
    ];

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Collector => "otelcol",
            Self::Telemetrygen => "telemetrygen",
            Self::Azurite => "azurite",
            Self::Moto => "moto",
            Self::Readers => "parquet-readers",
            Self::Minio => "minio",
            Self::FakeGcs => "fake-gcs-server",
            Self::Etcd => "etcd",
            Self::KubeApiserver => "kube-apiserver",
            Self::KubeControllers => "kube-controller-manager",
            Self::Helm => "helm",
            Self::KubeScheduler => "kube-scheduler",
            Self::Kubelet => "kubelet",
            Self::KubeProxy => "kube-proxy",
            Self::Containerd => "containerd",
            Self::CoreDns => "coredns",
            Self::NodePrograms => "node-programs",
        }
    }

    /// The pinned version, which is also the cache key. These install with the toolchains named in the README; a newer
    /// one is a change to be tried, not a string to be bumped.
    pub fn version(self) -> &'static str {
        match self {
            Self::Collector => COLLECTOR_BUILD,
            Self::Telemetrygen => "0.161.0",
            Self::Azurite => "3.37.0",
            Self::Moto => "5.2.5",
            Self::Readers => "pyarrow-26.0.1-duckdb-2.0.0",
            // The project tags releases by date, which Go does not take for versions.
            Self::Minio => "0.0.0-20260212201848-7aac2a2c5b7c",
            Self::FakeGcs => "1.56.1",
            Self::Etcd => "3.6.16",
            Self::KubeApiserver | Self::KubeControllers => KUBERNETES,
            Self::KubeScheduler | Self::Kubelet | Self::KubeProxy => KUBERNETES,
            Self::Helm => "3.22.0",
            Self::Containerd => CONTAINERD,
            Self::CoreDns => "1.14.7",
            // Whatever the machine's release has: runc and CNI are asked for nothing new.
            Self::NodePrograms => "packaged",
        }
    }

    /// The program to start, installing it first if it is not cached and that is allowed.
    pub fn obtain(self) -> Result<PathBuf, Unavailable> {
        let dir = self.dir()?;
        if dir.join(COMPLETE).is_file() {
            return Ok(dir.join(self.program()));
        }
        if std::env::var_os(INSTALL).is_none_or(|value| value != "1") {
            return Err(Unavailable(format!(
                "{} {} is not installed; `cargo run --bin tools` does it",
                self.name(),
                self.version()
            )));
        }
        self.install()
    }

    /// Installs it if it is not there, one process at a time, and gives the program to start.
    pub fn install(self) -> Result<PathBuf, Unavailable> {
        let dir = self.dir()?;
        let what = format!("{} {}", self.name(), self.version());
        self.install_into(&dir)
            .map_err(|error| Unavailable::because(&what, error))?;
        Ok(dir.join(self.program()))
    }

    fn dir(self) -> Result<PathBuf, Unavailable> {
        Ok(cache_root()?.join(self.name()).join(self.version()))
    }

    fn program(self) -> &'static str {
        match self {
            Self::Collector => "build/otelcol",
            Self::Telemetrygen => "bin/telemetrygen",
            Self::Azurite => "node_modules/azurite/dist/src/blob/main.js",
            Self::Moto | Self::Readers => "venv/bin/python",
            Self::Minio => "bin/minio",
            Self::FakeGcs => "bin/fake-gcs-server",
            Self::Etcd => "bin/etcd",
            Self::KubeApiserver => "bin/kube-apiserver",
            Self::KubeControllers => "bin/kube-controller-manager",
            Self::Helm => "bin/helm",
            Self::KubeScheduler => "bin/kube-scheduler",
            Self::Kubelet => "bin/kubelet",
            Self::KubeProxy => "bin/kube-proxy",
            Self::Containerd => "bin/containerd",
            Self::CoreDns => "bin/coredns",
            Self::NodePrograms => "usr/sbin/runc",
        }
    }

    fn install_into(self, dir: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let lock = File::create(dir.join("lock"))?;
        lock.lock().context("cannot lock the cache")?;
        if dir.join(COMPLETE).is_file() {
            return Ok(());
        }
        match self {
            Self::Collector => install_collector(dir)?,
            Self::Telemetrygen => go_install(
                dir,
                "github.com/open-telemetry/opentelemetry-collector-contrib/cmd/telemetrygen",
                self.version(),
            )?,
            Self::Minio => go_install(dir, "github.com/minio/minio", self.version())?,
            Self::FakeGcs => go_install(dir, "github.com/fsouza/fake-gcs-server", self.version())?,
            Self::Helm => go_install(dir, "helm.sh/helm/v3/cmd/helm", self.version())?,
            Self::Etcd => install_etcd(dir, self.version())?,
            Self::KubeApiserver | Self::KubeControllers | Self::KubeScheduler | Self::Kubelet | Self::KubeProxy => {
                install_kubernetes(dir, self.name())?
            }
            Self::Containerd => install_containerd(dir)?,
            Self::CoreDns => go_install(dir, "github.com/coredns/coredns", self.version())?,
            Self::NodePrograms => install_node_programs(dir)?,
            Self::Azurite => {
                let package = format!("azurite@{}", self.version());
                // It asks for a newer node than Debian's, and runs on it all the same; its optional native parts do not
                // concern the blob service.
                run(
                    dir,
                    "npm",
                    &[
                        "install",
                        "--no-audit",
                        "--no-fund",
                        "--ignore-scripts",
                        "--prefix",
                        ".",
                        &package,
                    ],
                )?;
            }
            Self::Moto => install_python(dir, &[&format!("moto[s3,server]=={}", self.version())])?,
            Self::Readers => install_python(dir, &["pyarrow==26.0.1", "duckdb==2.0.0"])?,
        }
        let program = dir.join(self.program());
        if !program.exists() {
            bail!("the installation ended well but there is no {}", program.display());
        }
        fs::write(dir.join(COMPLETE), self.version())?;
        Ok(())
    }
}

/// Where the cache is.
pub fn cache_root() -> Result<PathBuf, Unavailable> {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    Ok(cache
        .ok_or_else(|| Unavailable("neither XDG_CACHE_HOME nor HOME is set".to_owned()))?
        .join("vivace"))
}

fn install_collector(dir: &Path) -> anyhow::Result<()> {
    let manifest = format!(
        r"dist:
  name: otelcol
  description: Collector of the end-to-end suite
  output_path: ./build
  version: {COLLECTOR}
receivers:
  - gomod: go.opentelemetry.io/collector/receiver/otlpreceiver v{COLLECTOR}
processors:
  - gomod: go.opentelemetry.io/collector/processor/batchprocessor v{COLLECTOR}
exporters:
  - gomod: go.opentelemetry.io/collector/exporter/otlpexporter v{COLLECTOR}
  - gomod: go.opentelemetry.io/collector/exporter/otlphttpexporter v{COLLECTOR}
  - gomod: go.opentelemetry.io/collector/exporter/debugexporter v{COLLECTOR}
providers:
  - gomod: go.opentelemetry.io/collector/confmap/provider/envprovider v{COLLECTOR_PROVIDERS}
  - gomod: go.opentelemetry.io/collector/confmap/provider/fileprovider v{COLLECTOR_PROVIDERS}
"
    );
    fs::write(dir.join("manifest.yaml"), manifest)?;
    go_install(dir, "go.opentelemetry.io/collector/cmd/builder", COLLECTOR)?;
    let builder = dir.join("bin/builder");
    run(dir, &builder.to_string_lossy(), &["--config", "manifest.yaml"])
}

fn go_install(dir: &Path, module: &str, version: &str) -> anyhow::Result<()> {
    run(
        dir,
        "go",
        &[
            "install",
            "-trimpath",
            "-ldflags=-s -w",
            &format!("{module}@v{version}"),
        ],
    )
}

/// A module around Kubernetes', because `go install` takes no module with replacements.
fn install_kubernetes(dir: &Path, command: &str) -> anyhow::Result<()> {
    let staged = KUBERNETES.strip_prefix("1.").unwrap_or(KUBERNETES);
    let mut module = format!(
        "module vivace.local/kubernetes\n\ngo 1.26.0\n\ngodebug default=go1.26\n\nrequire k8s.io/kubernetes v{KUBERNETES}\n\n"
    );
    for name in KUBERNETES_STAGED.split_whitespace() {
        module.push_str(&format!("replace k8s.io/{name} => k8s.io/{name} v0.{staged}\n"));
    }
    fs::write(dir.join("go.mod"), module)?;
    let stamp = format!("-s -w -X k8s.io/component-base/version.gitVersion=v{KUBERNETES}");
    let package = format!("k8s.io/kubernetes/cmd/{command}");
    let output = format!("bin/{command}");
    run(
        dir,
        "go",
        &[
            "build",
            "-mod=mod",
            "-trimpath",
            "-ldflags",
            &stamp,
            "-o",
            &output,
            &package,
        ],
    )
}

fn install_etcd(dir: &Path, version: &str) -> anyhow::Result<()> {
    fs::write(dir.join("go.mod"), "module vivace.local/etcd\n\ngo 1.26.0\n")?;
    run(dir, "go", &["get", &format!("go.etcd.io/etcd/server/v3@v{version}")])?;
    run(
        dir,
        "go",
        &[
            "build",
            "-trimpath",
            "-ldflags=-s -w",
            "-o",
            "bin/etcd",
            "go.etcd.io/etcd/server/v3",
        ],
    )
}

/// Without the snapshotters that need C.
fn install_containerd(dir: &Path) -> anyhow::Result<()> {
    let module = "github.com/containerd/containerd/v2";
    fs::write(dir.join("go.mod"), "module vivace.local/containerd\n\ngo 1.26.0\n")?;
    run(dir, "go", &["get", &format!("{module}@v{CONTAINERD}")])?;
    for command in ["containerd", "containerd-shim-runc-v2", "ctr"] {
        run(
            dir,
            "go",
            &[
                "build",
                "-mod=mod",
                "-tags=no_btrfs no_devmapper no_zfs",
                "-trimpath",
                "-ldflags=-s -w",
                "-o",
                &format!("bin/{command}"),
                &format!("{module}/cmd/{command}"),
            ],
        )?;
    }
    Ok(())
}

/// Needs apt's lists, which a fresh machine does not have yet; bringing them takes root.
fn install_node_programs(dir: &Path) -> anyhow::Result<()> {
    let mut arguments = vec!["download", "-q"];
    arguments.extend_from_slice(NODE_PACKAGES);
    if run(dir, "apt-get", &arguments).is_err() {
        run(dir, "apt-get", &["update", "-q"])?;
        run(dir, "apt-get", &arguments)?;
    }
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            run(dir, "dpkg-deb", &["-x", &path.to_string_lossy(), "."])?;
        }
    }
    Ok(())
}

fn install_python(dir: &Path, packages: &[&str]) -> anyhow::Result<()> {
    run(dir, "python3", &["-m", "venv", "venv"])?;
    let mut arguments = vec!["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    arguments.extend_from_slice(packages);
    run(dir, &dir.join("venv/bin/python").to_string_lossy(), &arguments)
}

/// Runs one installer politely, with its output in `install.log`.
fn run(dir: &Path, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(dir.join("install.log"))?;
    let status = Command::new("nice")
        .args(["-n", "10", "timeout", INSTALL_SECONDS_MAX, program])
        .args(arguments)
        .current_dir(dir)
        .env("GOBIN", dir.join("bin"))
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-buildvcs=false")
        // A module that wants a newer Go is reported, not answered by fetching a toolchain.
        .env("GOTOOLCHAIN", "local")
        .stdin(std::process::Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    if status.success() {
        return Ok(());
    }
    let log = fs::read_to_string(dir.join("install.log")).unwrap_or_default();
    let last = log
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("no output");
    bail!("{program} {}: {status}: {last}", arguments.first().unwrap_or(&""))
}
