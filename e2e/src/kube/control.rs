//! etcd, kube-apiserver and the controllers as plain processes, and the operator as one where there are no images.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use super::{Kube, charts, condition, documents};
use crate::process::{Process, free_addr};
use crate::tools::Tool;

/// The administrator's token.
const ADMINISTRATOR: &str = "administrator-of-the-tests";
/// How long each part may take to start on a busy machine.
const START_WITHIN: Duration = Duration::from_secs(90);

/// The control plane; dropping it ends it.
#[derive(Debug)]
pub struct ControlPlane {
    /// As an administrator.
    pub kube: Kube,
    /// CA of the API server, for the kubeconfigs of others.
    pub ca: PathBuf,
    processes: Vec<Process>,
}

/// Whom it is for.
#[derive(Debug, Clone, Copy)]
enum For {
    /// Processes on this loopback; pods are bound by whoever runs them.
    Here,
    /// Pods with addresses of their own, which meet it under this one; it has a scheduler.
    Pods(Ipv4Addr),
}

/// Who a token is for.
pub(super) const TOKENS: [(&str, &str, &str); 4] = [
    (ADMINISTRATOR, "admin", "system:masters"),
    ("scheduler-of-the-tests", "system:kube-scheduler", ""),
    ("proxy-of-the-tests", "system:kube-proxy", ""),
    ("node-of-the-tests", "system:node:here", "system:nodes"),
];

impl ControlPlane {
    /// Starts one for pods that are processes; its files are in `dir`.
    pub async fn start(dir: &Path) -> anyhow::Result<Self> {
        Self::start_for(dir, For::Here).await
    }

    /// Starts one for a real node, whose pods meet it under this address of the machine.
    pub async fn start_for_pods(dir: &Path, address: Ipv4Addr) -> anyhow::Result<Self> {
        Self::start_for(dir, For::Pods(address)).await
    }

    async fn start_for(dir: &Path, whom: For) -> anyhow::Result<Self> {
        let [etcd, apiserver, controllers] = [Tool::Etcd, Tool::KubeApiserver, Tool::KubeControllers].map(Tool::obtain);
        let (etcd, apiserver, controllers) = (etcd?, apiserver?, controllers?);
        let token = ADMINISTRATOR;
        let tokens = TOKENS.map(|(token, user, group)| format!("{token},{user},{user},{group}\n"));
        std::fs::write(dir.join("tokens.csv"), tokens.concat())?;
        let key = rcgen::KeyPair::generate()?;
        std::fs::write(dir.join("accounts.key"), key.serialize_pem())?;
        std::fs::write(dir.join("accounts.pub"), key.public_key_pem())?;
        let (peer, client, secure) = (free_addr()?, free_addr()?, free_addr()?);

        let mut command = Command::new(etcd);
        command
            .arg(format!("--data-dir={}", dir.join("etcd").display()))
            .arg(format!("--listen-client-urls=http://{client}"))
            .arg(format!("--advertise-client-urls=http://{client}"))
            .arg(format!("--listen-peer-urls=http://{peer}"))
            .arg(format!("--initial-advertise-peer-urls=http://{peer}"))
            .arg(format!("--initial-cluster=default=http://{peer}"))
            .arg("--unsafe-no-fsync");
        let mut etcd = Process::start("etcd", command, dir).await?;
        etcd.accepting(client, START_WITHIN).await?;

        let certificates = dir.join("apiserver");
        let mut command = Command::new(apiserver);
        command
            .arg(format!("--etcd-servers=http://{client}"))
            .arg(format!("--cert-dir={}", certificates.display()))
            .arg(format!("--secure-port={}", secure.port()))
            .arg(format!("--token-auth-file={}", dir.join("tokens.csv").display()))
            .arg(format!(
                "--service-account-key-file={}",
                dir.join("accounts.pub").display()
            ))
            .arg(format!(
                "--service-account-signing-key-file={}",
                dir.join("accounts.key").display()
            ))
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg("--service-cluster-ip-range=10.96.0.0/16")
            .arg("--authorization-mode=Node,RBAC");
        match whom {
            For::Here => command
                .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"])
                // A loopback address cannot stand behind the Service "kubernetes".
                .arg("--endpoint-reconciler-type=none"),
            For::Pods(address) => command
                .arg("--bind-address=0.0.0.0")
                .arg(format!("--advertise-address={address}"))
                .arg("--enable-admission-plugins=NodeRestriction")
                .arg("--kubelet-preferred-address-types=InternalIP"),
        };
        let mut apiserver = Process::start("kube-apiserver", command, dir).await?;
        apiserver.accepting(secure, START_WITHIN).await?;
        let ca = certificates.join("apiserver.crt");
        // The certificate it makes for itself is for the address it advertises.
        let url = match whom {
            For::Here => format!("https://{secure}"),
            For::Pods(address) => format!("https://{address}:{}", secure.port()),
        };
        let kube = Kube::new(&url, token, &ca)?;
        apiserver
            .until(START_WITHIN, "be ready", async || {
                kube.call(Method::GET, "/readyz", "application/json", None)
                    .await
                    .is_ok_and(|(status, _)| status.is_success())
            })
            .await?;

        kube.kubeconfig(dir, "administrator", token, &ca)?;
        let config = kube.kubeconfig(dir, "controllers", token, &ca)?;
        let mut command = Command::new(controllers);
        command
            .arg(format!("--kubeconfig={}", config.display()))
            .arg(format!("--authentication-kubeconfig={}", config.display()))
            .arg(format!("--authorization-kubeconfig={}", config.display()))
            .arg(format!(
                "--service-account-private-key-file={}",
                dir.join("accounts.key").display()
            ))
            .arg(format!("--root-ca-file={}", ca.display()))
            .arg("--leader-elect=false")
            .arg("--secure-port=0");
        match whom {
            // Nobody tells how the one node fares, and it must not be emptied because of that.
            For::Here => {
                command.arg("--controllers=*,-node-lifecycle-controller,-cloud-node-lifecycle-controller");
            }
            For::Pods(_) => {
                command.arg("--use-service-account-credentials=true");
            }
        }
        let controllers = Process::start("kube-controller-manager", command, dir).await?;
        kube.until(START_WITHIN, "the default account", async || {
            Ok(kube
                .get("/api/v1/namespaces/default/serviceaccounts/default")
                .await?
                .is_some())
        })
        .await?;
        let mut processes = vec![controllers, apiserver, etcd];
        if let For::Pods(_) = whom {
            processes.insert(0, scheduler(&kube, dir, &ca).await?);
        }
        Ok(Self { kube, ca, processes })
    }

    /// Applies the single-file install as it is and waits for its definitions.
    pub async fn install_whole(&self) -> anyhow::Result<()> {
        for object in documents(&std::fs::read_to_string(charts().join("install.yaml"))?)? {
            self.kube.apply(&object).await?;
        }
        for name in ["tracingclusters", "tracingtenants"] {
            let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}.tracing.vivace.dev");
            self.kube
                .until(START_WITHIN, "an established definition", async || {
                    let found = self.kube.get(&path).await?.unwrap_or_default();
                    Ok(condition(&found, "Established").0 == "True")
                })
                .await?;
        }
        Ok(())
    }

    /// The same without pods: where there are no images the operator runs as a process.
    pub async fn install(&self) -> anyhow::Result<()> {
        self.install_whole().await?;
        let deployment = "/apis/apps/v1/namespaces/tracing-system/deployments/vivace-operator";
        self.kube.merge(deployment, json!({"spec": {"replicas": 0}})).await?;
        Ok(())
    }

    /// Starts an operator with the rights of the chart's account and waits until it leads; gives its own address too.
    pub async fn operate(&self, bin: &Path, name: &str, dir: &Path) -> anyhow::Result<(Process, String)> {
        let token = self.kube.token("tracing-system", "vivace-operator").await?;
        let config = self.kube.kubeconfig(dir, name, &token, &self.ca)?;
        let mut command = Command::new(bin);
        command
            .env("KUBECONFIG", config)
            .env("POD_NAMESPACE", "tracing-system")
            .env("POD_NAME", name)
            .args(["--listen", "127.0.0.1:0", "--node-image", "vivace"]);
        let mut operator = Process::start(name, command, dir).await?;
        let address = operator
            .line(START_WITHIN, |line| {
                line.strip_prefix("listening http ").map(str::to_owned)
            })
            .await?;
        operator
            .line(START_WITHIN, |line| (line == "leading").then_some(()))
            .await?;
        Ok((operator, format!("http://{address}")))
    }

    /// Ends it, the users of each part first.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        for process in &mut self.processes {
            process.kill().await?;
        }
        Ok(())
    }
}

async fn scheduler(kube: &Kube, dir: &Path, ca: &Path) -> anyhow::Result<Process> {
    let config = kube.kubeconfig(dir, "scheduler", TOKENS[1].0, ca)?;
    let administrator = kube.kubeconfig(dir, "administrator", ADMINISTRATOR, ca)?;
    let mut command = Command::new(Tool::KubeScheduler.obtain()?);
    command
        .arg(format!("--kubeconfig={}", config.display()))
        .arg(format!("--authentication-kubeconfig={}", administrator.display()))
        .arg(format!("--authorization-kubeconfig={}", administrator.display()))
        .args(["--leader-elect=false", "--secure-port=0"]);
    Process::start("kube-scheduler", command, dir).await
}
