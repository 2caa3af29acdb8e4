//! Nodes that meet over loopback: good ones replicate, bad ones are turned away with a reason.

use std::collections::BTreeSet;
use std::path::Path;

use consensus::{
    Applied, Group, GroupId, Groups, GroupsOptions, Machine, MachineError, MachineSnapshot, Payload, SnapshotPoint,
    Timing,
};
use model::LogIndex;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use settings::PeerTlsSettings;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wal::{SimVfs, Vfs, Wal, WalOptions};

use super::accept::{Desk, PeerDoor};
use super::hello::HelloRefusal;
use super::*;

const NAME: &str = "peers.vivace.internal";
const CLUSTER: u128 = 77;
const SOON: Duration = Duration::from_secs(30);

/// Counts bytes.
#[derive(Debug, Default)]
struct Total(u64);

impl Machine for Total {
    type Response = u64;
    fn apply(&mut self, _: Applied, payload: Payload) -> Result<u64, MachineError> {
        self.0 += payload.data().len() as u64;
        Ok(self.0)
    }
    fn snapshot(&self) -> MachineSnapshot {
        MachineSnapshot {
            point: SnapshotPoint::Applied,
            state: Bytes::copy_from_slice(&self.0.to_le_bytes()),
        }
    }
    fn install(&mut self, _: LogIndex, state: Bytes) -> Result<(), MachineError> {
        self.0 = u64::from_le_bytes(state[..].try_into().unwrap());
        Ok(())
    }
}

/// Gives every question back with the id of who asked.
struct Echo;

impl Desk for Echo {
    fn answer(&self, caller: Arc<Hello>, question: Bytes) -> BoxFuture<'static, Result<Bytes, Status>> {
        async move { Ok([&caller.from.0.to_le_bytes()[..], &question].concat().into()) }.boxed()
    }
}

/// An authority and what it signs.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    fn sign(&self, node: &str, name: &str) -> PeerTlsSettings {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()])
            .unwrap()
            .signed_by(&key, &self.issuer)
            .unwrap();
        let file = |suffix: &str| self.folder.path().join(format!("{node}{suffix}"));
        std::fs::write(file(".pem"), certificate.pem()).unwrap();
        std::fs::write(file(".key"), key.serialize_pem()).unwrap();
        PeerTlsSettings {
            certificate_file: file(".pem"),
            key_file: file(".key"),
            ca_file: file_in(&self.folder, "ca.pem"),
            peer_name: NAME.to_owned(),
        }
    }
}

fn file_in(folder: &TempDir, name: &str) -> std::path::PathBuf {
    folder.path().join(name)
}

fn tls(settings: &PeerTlsSettings) -> Security {
    Security::Tls(Arc::new(PeerTls::load(settings).unwrap()))
}

struct TestNode {
    transport: PeerTransport,
    groups: Groups,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl TestNode {
    async fn start(id: u64, cluster: u128, security: Security) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let identity = PeerIdentity {
            node: NodeId(id),
            address: listener.local_addr().unwrap().to_string().into(),
            feature_level: 1,
        };
        let transport = PeerTransport::new(identity, cluster, security, Duration::from_secs(5));
        let vfs: Arc<dyn Vfs> = Arc::new(SimVfs::new(id));
        let options = WalOptions {
            segment_bytes: 16 << 20,
            quota_bytes: 256 << 20,
            ..WalOptions::new(id)
        };
        let (wal, _) = Wal::open(Arc::clone(&vfs), Path::new("/data/wal"), options).unwrap();
        vfs.create_dir(Path::new("/data/snapshots")).unwrap();
        let mut options = GroupsOptions::new(NodeId(id), "test", "/data/snapshots");
        options.timing = Timing {
            heartbeat: Duration::from_millis(200),
            election_min: Duration::from_millis(800),
            election_max: Duration::from_millis(1600),
        };
        let groups = Groups::new(options, wal, vfs, Arc::new(transport.clone())).unwrap();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let door = PeerDoor::new(transport.clone(), groups.clone(), Arc::new(Echo));
        tasks.spawn(door.serve(Box::new(listener), stop.clone(), tasks.clone()));
        Self {
            transport,
            groups,
            stop,
            tasks,
        }
    }

    fn address(&self) -> Arc<str> {
        Arc::clone(&self.transport.identity().address)
    }

    fn id(&self) -> NodeId {
        self.transport.identity().node
    }

    fn knows(&self, other: &Self) {
        self.transport.book().record(other.id(), &other.address());
    }

    async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.groups.shutdown().await;
        self.tasks.wait().await;
    }
}

async fn trio(security: impl Fn(u64) -> Security) -> Vec<TestNode> {
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(TestNode::start(id, CLUSTER, security(id)).await);
    }
    for node in &nodes {
        nodes.iter().for_each(|other| node.knows(other));
    }
    nodes
}

async fn open_ring(nodes: &[TestNode]) -> Vec<Group<Total>> {
    let mut groups = Vec::new();
    for node in nodes {
        groups.push(node.groups.open(GroupId::Ring, Total::default()).await.unwrap());
    }
    let voters: BTreeSet<NodeId> = nodes.iter().map(TestNode::id).collect();
    groups[0].found(&voters).await.unwrap();
    groups
}

async fn leader(groups: &[Group<Total>]) -> &Group<Total> {
    let mut watch = groups[0].leadership();
    let now = tokio::time::timeout(SOON, watch.wait_for(|now| now.leader.is_some()));
    let id = now.await.unwrap().unwrap().leader.unwrap();
    let group = groups.iter().find(|group| group.node() == id).unwrap();
    let mut watch = group.leadership();
    tokio::time::timeout(SOON, watch.wait_for(|now| now.is_leader))
        .await
        .unwrap();
    group
}

async fn replicate(nodes: Vec<TestNode>) {
    let groups = open_ring(&nodes).await;
    let leader = leader(&groups).await;
    // It has to hear from a majority before it takes anything.
    let confirmed = async {
        while leader.read_index().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, confirmed).await.unwrap();
    // As large as an entry may be, many at once, and small ones.
    let sizes = [consensus::ENTRY_BYTES_MAX, 1, 100_000, 700_000, 3];
    let mut submitted = Vec::new();
    for size in sizes {
        submitted.push(leader.submit(Payload::new(vec![7; size])).await.unwrap());
    }
    let mut last = (LogIndex(0), 0);
    for one in submitted {
        last = tokio::time::timeout(SOON, one.outcome()).await.unwrap().unwrap();
    }
    assert_eq!(last.1, sizes.iter().sum::<usize>() as u64);
    for group in &groups {
        let caught_up = async {
            while group.status().applied < last.0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(SOON, caught_up).await.unwrap();
    }
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_of_three_replicates_over_tls() {
    let authority = Authority::new();
    replicate(trio(|id| tls(&authority.sign(&format!("node-{id}"), NAME))).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_of_three_replicates_without_tls_where_that_was_asked_for() {
    replicate(trio(|_| Security::Plaintext).await).await;
}

async fn ask(from: &TestNode, to: &TestNode, text: &'static str) -> Result<Bytes, String> {
    let asked = from
        .transport
        .ask(to.id(), Bytes::from_static(text.as_bytes()), SOON)
        .await;
    asked.map_err(|error| crate::storage::chain(&error))
}

#[tokio::test]
async fn questions_are_answered_and_the_asker_is_known() {
    let nodes = trio(|_| Security::Plaintext).await;
    let answer = ask(&nodes[0], &nodes[1], "how are you").await.unwrap();
    assert_eq!(answer, [&1_u64.to_le_bytes()[..], b"how are you"].concat());
    // Whoever called is found without the ring.
    assert_eq!(
        nodes[1].transport.book().address_of(NodeId(1)),
        Some(nodes[0].address())
    );
}

#[tokio::test]
async fn a_question_as_long_as_allowed_passes_and_a_longer_one_does_not() {
    let nodes = trio(|_| Security::Plaintext).await;
    for (bytes, passes) in [
        (ASK_BYTES_MAX - 9, true),
        (ASK_BYTES_MAX - 8, true),
        (ASK_BYTES_MAX - 7, false),
    ] {
        let question = Bytes::from(vec![1; bytes]);
        let answer = nodes[0].transport.ask(NodeId(2), question, SOON).await;
        assert_eq!(answer.is_ok(), passes, "{bytes}: {answer:?}");
        if let Err(error) = answer {
            assert!(matches!(error, PeerError::Refused(_)), "{error:?}");
        }
    }
}

#[tokio::test]
async fn a_node_of_another_cluster_is_turned_away() {
    let ours = TestNode::start(1, CLUSTER, Security::Plaintext).await;
    let theirs = TestNode::start(2, CLUSTER + 1, Security::Plaintext).await;
    theirs.knows(&ours);
    let refusal = HelloRefusal::OtherCluster { cluster: CLUSTER };
    let error = ask(&theirs, &ours, "hello").await.unwrap_err();
    assert!(error.contains(&refusal.to_string()), "{error}");
}

#[tokio::test]
async fn a_message_for_a_disk_that_is_gone_does_not_reach_the_one_in_its_place() {
    let nodes = trio(|_| Security::Plaintext).await;
    // Node 9 lived where node 2 lives now.
    nodes[0].transport.book().record(NodeId(9), &nodes[1].address());
    let asked = nodes[0].transport.ask(NodeId(9), Bytes::new(), SOON).await;
    let error = crate::storage::chain(&asked.unwrap_err());
    let refusal = HelloRefusal::OtherNode { node: NodeId(2) };
    assert!(error.contains(&refusal.to_string()), "{error}");
}

#[tokio::test]
async fn a_program_too_old_for_what_is_switched_on_is_turned_away() {
    let nodes = trio(|_| Security::Plaintext).await;
    nodes[1].transport.switched_on(2);
    let error = ask(&nodes[0], &nodes[1], "hello").await.unwrap_err();
    let refusal = HelloRefusal::TooOld { level: 2 };
    assert!(error.contains(&refusal.to_string()), "{error}");
}

#[tokio::test]
async fn foreign_certificates_wrong_names_and_plain_text_are_turned_away() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let ours = TestNode::start(1, CLUSTER, tls(&authority.sign("ours", NAME))).await;
    let mut half_foreign = stranger.sign("half", NAME);
    // Believes us, but shows a certificate of somebody else.
    half_foreign.ca_file = file_in(&authority.folder, "ca.pem");
    let others = [
        ("foreign", tls(&stranger.sign("foreign", NAME)), false),
        ("half", tls(&half_foreign), false),
        (
            "other name",
            tls(&authority.sign("client", "client.vivace.internal")),
            false,
        ),
        ("plain", Security::Plaintext, false),
        ("peer", tls(&authority.sign("peer", NAME)), true),
    ];
    for (who, security, is_peer) in others {
        let other = TestNode::start(2, CLUSTER, security).await;
        other.knows(&ours);
        assert_eq!(ask(&other, &ours, "hello").await.is_ok(), is_peer, "{who}");
        ours.knows(&other);
        // Nor do we call them.
        assert_eq!(ask(&ours, &other, "hello").await.is_ok(), is_peer, "{who}");
        ours.transport.retain(|_| false);
        other.stop().await;
    }
}

#[tokio::test]
async fn certificates_change_without_a_restart() {
    let (old, new) = (Authority::new(), Authority::new());
    let settings = old.sign("a", NAME);
    let a = TestNode::start(1, CLUSTER, tls(&settings)).await;
    let b = TestNode::start(2, CLUSTER, tls(&new.sign("b", NAME))).await;
    b.knows(&a);
    assert!(ask(&b, &a, "hello").await.is_err());
    let Security::Tls(loaded) = &a.transport.inner.security else {
        unreachable!("it was started with certificates")
    };
    assert!(!loaded.reload().unwrap());
    let renewed = new.sign("renewed", NAME);
    for (from, to) in [
        (&renewed.certificate_file, &settings.certificate_file),
        (&renewed.key_file, &settings.key_file),
        (&renewed.ca_file, &settings.ca_file),
    ] {
        std::fs::copy(from, to).unwrap();
    }
    assert!(loaded.reload().unwrap());
    assert!(ask(&b, &a, "hello").await.is_ok());
    // What cannot be used changes nothing.
    std::fs::write(&settings.key_file, "nonsense").unwrap();
    assert!(loaded.reload().is_err());
    b.transport.retain(|_| false);
    b.knows(&a);
    assert!(ask(&b, &a, "hello").await.is_ok());
}

#[tokio::test]
async fn a_group_that_is_not_here_is_a_refusal() {
    let nodes = trio(|_| Security::Plaintext).await;
    let group = GroupId::Shard(model::ShardId(1), model::Generation(1));
    let to = Peer { node: NodeId(2), group };
    let nothing = PeerMessage {
        head: Bytes::new(),
        parts: Vec::new(),
    };
    for lane in [Lane::Control, Lane::Snapshot] {
        let called = nodes[0].transport.call(to, lane, nothing.clone(), SOON).await;
        assert!(matches!(called, Err(PeerError::Refused(_))), "{called:?}");
    }
    let requests = futures::stream::iter([nothing]).boxed();
    let streamed = nodes[0].transport.stream(to, requests).await;
    assert!(matches!(streamed, Err(PeerError::Refused(_))));
}

#[tokio::test]
async fn an_entry_that_is_too_large_ends_the_stream_with_a_reason() {
    let nodes = trio(|_| Security::Plaintext).await;
    let _ring = open_ring(&nodes).await;
    let to = Peer {
        node: NodeId(2),
        group: GroupId::Ring,
    };
    let message = PeerMessage {
        head: Bytes::new(),
        parts: vec![Bytes::from(vec![0; consensus::ENTRY_BYTES_MAX + 1])],
    };
    let requests = futures::stream::iter([message]).boxed();
    let refused = match nodes[0].transport.stream(to, requests).await {
        Err(error) => error,
        Ok(mut answers) => answers.next().await.unwrap().unwrap_err(),
    };
    assert!(matches!(refused, PeerError::Refused(_)), "{refused:?}");
}

#[tokio::test]
async fn a_peer_that_comes_back_is_reached_again() {
    let a = TestNode::start(1, CLUSTER, Security::Plaintext).await;
    let b = TestNode::start(2, CLUSTER, Security::Plaintext).await;
    a.knows(&b);
    assert!(ask(&a, &b, "hello").await.is_ok());
    b.stop().await;
    let asked = a.transport.ask(NodeId(2), Bytes::new(), SOON).await;
    assert!(asked.is_err());
    let b = TestNode::start(2, CLUSTER, Security::Plaintext).await;
    a.knows(&b);
    let reached = async {
        while ask(&a, &b, "hello").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, reached).await.unwrap();
}
