//! `kubectl tracing`: what a person asks of a tracing store, through the same resources as everybody else.

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand, ValueEnum};
use crds::{TracingCluster, TracingTenant};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde::Serialize;
use serde_json::{Value, json};
use vivace_operator::{names, plugin};

#[derive(Debug, Parser)]
#[command(
    name = "kubectl-tracing",
    bin_name = "kubectl tracing",
    version,
    about = "Looks after TracingClusters"
)]
struct Args {
    /// Namespace [default: that of the context]
    #[arg(short, long, global = true)]
    namespace: Option<String>,
    /// Form of the answer
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What is wrong, what goes on, which nodes there are
    Status { cluster: String },
    /// Nodes and shards
    Ring { cluster: String },
    /// Tenants and what holds for them
    Tenants { cluster: String },
    /// Show how long spans are kept, or set it: `retention main 30d`
    Retention { cluster: String, period: Option<String> },
    /// Let this pod be the one that goes with the next step down
    Drain { cluster: String, pod: String },
    /// Restart every node, one by one
    Restart { cluster: String },
    /// Change nothing until `resume`
    Pause { cluster: String },
    /// Go on
    Resume { cluster: String },
    /// Everything somebody needs to help, without names of buckets and hosts
    Report { cluster: String },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let client = Client::try_default()
        .await
        .context("no way to the Kubernetes API; is there a context?")?;
    let namespace = args
        .namespace
        .clone()
        .unwrap_or_else(|| client.default_namespace().to_owned());
    let session = Session {
        clusters: Api::namespaced(client.clone(), &namespace),
        client,
        namespace,
        output: args.output,
    };
    print!("{}", session.run(args.command).await?);
    Ok(())
}

struct Session {
    client: Client,
    clusters: Api<TracingCluster>,
    namespace: String,
    output: Output,
}

impl Session {
    async fn run(&self, command: Command) -> anyhow::Result<String> {
        Ok(match command {
            Command::Status { cluster } => {
                let cluster = self.get(&cluster).await?;
                self.shown(&cluster.status, || plugin::status(&cluster))?
            }
            Command::Ring { cluster } => {
                let cluster = self.get(&cluster).await?;
                let status = cluster.status.clone().unwrap_or_default();
                let told = json!({"members": status.members, "raft": status.raft, "ring": status.ring});
                self.shown(&told, || plugin::ring(&cluster))?
            }
            Command::Tenants { cluster } => {
                let found = self.tenants(&cluster).await?;
                self.shown(&found, || plugin::tenants(&found))?
            }
            Command::Retention { cluster, period: None } => {
                let effective = self.get(&cluster).await?.status.and_then(|status| status.effective);
                let retention = effective
                    .and_then(|effective| effective.retention)
                    .unwrap_or_else(|| "unknown".to_owned());
                self.shown(&json!({"retention": retention}), || format!("{retention}\n"))?
            }
            Command::Retention {
                cluster,
                period: Some(period),
            } => {
                self.patch(&cluster, json!({"spec": {"retention": {"default": period}}}))
                    .await?;
                format!("spans of {cluster} are kept for {period}; nodes take it up within a minute\n")
            }
            Command::Drain { cluster, pod } => {
                let pods = Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
                let found = pods.get(&pod).await?;
                if found.labels().get(names::CLUSTER) != Some(&cluster) {
                    bail!("{pod} is no node of {cluster}");
                }
                let patch = json!({"metadata": {"annotations": {names::RETIRE: "true"}}});
                pods.patch(&pod, &PatchParams::default(), &Patch::Merge(&patch)).await?;
                format!("{pod} goes with the next step down: lower spec.replicas\n")
            }
            Command::Restart { cluster } => {
                let now = jiff::Timestamp::now().to_string();
                self.annotate(&cluster, names::RESTART, Some(now)).await?;
                format!("every node of {cluster} is restarted, one by one\n")
            }
            Command::Pause { cluster } => {
                self.annotate(&cluster, names::PAUSED, Some("true".to_owned())).await?;
                format!("{cluster} is paused\n")
            }
            Command::Resume { cluster } => {
                self.annotate(&cluster, names::PAUSED, None).await?;
                format!("{cluster} goes on\n")
            }
            Command::Report { cluster } => serde_json::to_string_pretty(&self.report(&cluster).await?)? + "\n",
        })
    }

    fn shown(&self, value: &impl Serialize, table: impl FnOnce() -> String) -> anyhow::Result<String> {
        Ok(match self.output {
            Output::Table => table(),
            Output::Json => serde_json::to_string_pretty(value)? + "\n",
        })
    }

    async fn get(&self, name: &str) -> anyhow::Result<TracingCluster> {
        let found = self.clusters.get_opt(name).await?;
        found.with_context(|| format!("there is no TracingCluster {name} in {}: try -n", self.namespace))
    }

    async fn tenants(&self, cluster: &str) -> anyhow::Result<Vec<TracingTenant>> {
        let params = ListParams::default().fields(&format!("spec.clusterRef.name={cluster}"));
        let all = Api::<TracingTenant>::all(self.client.clone()).list(&params).await;
        let found = match all {
            Err(kube::Error::Api(status)) if status.code == 403 => {
                Api::<TracingTenant>::namespaced(self.client.clone(), &self.namespace)
                    .list(&params)
                    .await?
            }
            other => other?,
        };
        let is_ours = |tenant: &TracingTenant| {
            let namespace = tenant.spec.cluster_ref.namespace.clone().or_else(|| tenant.namespace());
            namespace.as_deref() == Some(&self.namespace)
        };
        Ok(found.items.into_iter().filter(is_ours).collect())
    }

    async fn patch(&self, name: &str, patch: Value) -> anyhow::Result<()> {
        self.clusters
            .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
        Ok(())
    }

    async fn annotate(&self, name: &str, key: &str, value: Option<String>) -> anyhow::Result<()> {
        self.patch(name, json!({"metadata": {"annotations": {key: value}}}))
            .await
    }

    async fn report(&self, name: &str) -> anyhow::Result<Value> {
        let cluster = self.get(name).await?;
        let pods = Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
        let pods = pods
            .list(&ListParams::default().labels(&names::list_selector(name)))
            .await?;
        let events = Api::<Event>::namespaced(self.client.clone(), &self.namespace);
        let events = events
            .list(&ListParams::default().fields(&format!("involvedObject.name={name}")))
            .await?;
        let pods: Vec<Value> = pods
            .items
            .iter()
            .map(|pod| json!({"name": pod.name_any(), "status": pod.status}))
            .collect();
        let events: Vec<Value> = events
            .items
            .iter()
            .map(|event| json!({"reason": event.reason, "message": event.message, "type": event.type_}))
            .collect();
        Ok(json!({"cluster": plugin::redacted(&cluster), "pods": pods, "events": events}))
    }
}
