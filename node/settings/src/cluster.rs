//! The other nodes: how they are found, how they know each other, how many copies of a shard they keep.
//!
//! Owns [`ClusterSettings`] and [`PeerTlsSettings`]. A node without `listen.peer` is alone and needs none of this.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::problem::Problems;
use crate::quantity::Period;
use crate::section::section;

/// Longest name, zone or address: a DNS name and a port.
const NAME_BYTES_MAX: usize = 253;
const JOIN_MAX: usize = 64;

section! {
    /// How this node is one of several. The same file may serve all nodes: what differs comes by flag or environment.
    pub struct ClusterSettings {
        /// Peer addresses (`host:port`) of nodes that are in the cluster, asked in turn by a node whose disk is empty. None:
        /// an empty disk founds a cluster of its own. Its own address may be among them.
        join: Vec<String> = Vec::new(),
        /// Of nodes that share the same addresses to join, the name of the one that founds the cluster, once: where the bucket
        /// belongs to a cluster already it joins like the others. Absent: nobody, a node with addresses only joins.
        #[serde(skip_serializing_if = "Option::is_none")]
        founder: Option<String> = None,
        /// What people call this node; its pod's name. Absent: its id.
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<String> = None,
        /// Where it is. Copies of a shard and voters of the ring are spread over zones.
        zone: String = String::new(),
        /// Where peers reach it, `host:port`. Absent: `listen.peer`, which must then name one address.
        #[serde(skip_serializing_if = "Option::is_none")]
        advertise: Option<String> = None,
        /// Copies of every shard: 1, 3 or 5. With fewer nodes there are as many as make sense, and more once nodes join.
        replicas: u32 = 3,
        /// Members that agree on the ring: 1, 3, 5 or 7; with fewer nodes as many as make sense. The ring's leader goes by its
        /// own. Absent: 3, from 9 nodes on 5.
        #[serde(skip_serializing_if = "Option::is_none")]
        voters: Option<u32> = None,
        /// How long peers may take to connect and to say who they are.
        connect_timeout: Period = Period::secs(3),
        /// Certificates between nodes.
        #[serde(skip_serializing_if = "Option::is_none")]
        tls: Option<PeerTlsSettings> = None,
        /// Speak to peers without TLS, so that whoever reaches the port may claim to be one. Only on loopback addresses.
        plaintext: bool = false,
    }
}

section! {
    /// Certificates between nodes: TLS 1.3, both sides show one. The files are read again when they change.
    pub struct PeerTlsSettings {
        /// PEM: this node's certificate and what lies between it and the authority.
        certificate_file: PathBuf = PathBuf::new(),
        /// PEM: its key.
        key_file: PathBuf = PathBuf::new(),
        /// PEM: authorities that sign peers. Several while one replaces another.
        ca_file: PathBuf = PathBuf::new(),
        /// The DNS name that the certificate of every peer must be for.
        peer_name: String = String::from("peers.vivace.internal"),
    }
}

impl ClusterSettings {
    /// Where peers reach this node when it listens on `listen`.
    pub fn advertised(&self, listen: SocketAddr) -> String {
        self.advertise.clone().unwrap_or_else(|| listen.to_string())
    }

    pub(crate) fn secret_files(&self) -> impl Iterator<Item = (&'static str, &PathBuf)> {
        self.tls.iter().map(|tls| ("cluster.tls.key_file", &tls.key_file))
    }

    pub(crate) fn check(&self, problems: &mut Problems, peer: Option<SocketAddr>) {
        if !matches!(self.replicas, 1 | 3 | 5) {
            problems.add("replicas", "must be 1, 3 or 5");
        }
        if self.voters.is_some_and(|voters| !matches!(voters, 1 | 3 | 5 | 7)) {
            problems.add("voters", "must be 1, 3, 5 or 7");
        }
        if self.join.len() > JOIN_MAX {
            problems.add("join", format!("must name at most {JOIN_MAX} nodes"));
        }
        for (index, address) in self.join.iter().enumerate() {
            if !is_host_and_port(address) {
                problems.add(&format!("join.{index}"), format!("{address:?} is not host:port"));
            }
        }
        if let Some(address) = self.advertise.as_ref().filter(|address| !is_host_and_port(address)) {
            problems.add("advertise", format!("{address:?} is not host:port"));
        }
        if self.zone.len() > NAME_BYTES_MAX {
            problems.add("zone", format!("must have at most {NAME_BYTES_MAX} bytes"));
        }
        if let Some(name) = &self.name
            && (name.is_empty() || name.len() > NAME_BYTES_MAX)
        {
            problems.add("name", format!("must have 1 to {NAME_BYTES_MAX} bytes"));
        }
        if self.founder.is_some() && self.join.is_empty() {
            problems.add(
                "founder",
                "chooses among nodes that join: name their addresses in cluster.join, or leave it out and a node founds a cluster of its own",
            );
        }
        problems.between(
            "connect_timeout",
            self.connect_timeout,
            Period::millis(100),
            Period::secs(30),
        );
        if let Some(tls) = &self.tls {
            problems.at("cluster.tls", |problems| tls.check(problems));
        }
        match peer {
            None if !self.join.is_empty() => {
                problems.add("join", "needs listen.peer, where the others reach this node")
            }
            None => {}
            Some(_) if self.tls.is_some() && self.plaintext => {
                problems.add("plaintext", "contradicts cluster.tls: choose one");
            }
            Some(_) if self.tls.is_none() && !self.plaintext => problems.add(
                "tls",
                "is missing: peers speak TLS; on one machine cluster.plaintext may be set instead",
            ),
            Some(peer) if self.plaintext && !peer.ip().is_loopback() => {
                problems.add(
                    "plaintext",
                    format!("is for loopback addresses alone, and {peer} is none"),
                );
            }
            Some(peer) if self.advertise.is_none() && peer.ip().is_unspecified() => {
                problems.add("advertise", format!("is missing: peers cannot connect to {peer}"));
            }
            Some(_) => {}
        }
    }
}

impl PeerTlsSettings {
    fn check(&self, problems: &mut Problems) {
        let Self {
            certificate_file,
            key_file,
            ca_file,
            peer_name,
        } = self;
        let files = [
            ("certificate_file", certificate_file),
            ("key_file", key_file),
            ("ca_file", ca_file),
        ];
        for (field, path) in files {
            if path.as_os_str().is_empty() {
                problems.add(field, "is missing");
            }
        }
        if peer_name.is_empty() || peer_name.len() > NAME_BYTES_MAX {
            problems.add("peer_name", "must be a DNS name");
        }
    }
}

fn is_host_and_port(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else {
        return false;
    };
    let is_host = !host.is_empty() && host.len() <= NAME_BYTES_MAX && !host.contains(['/', ' ', '@']);
    is_host && port.parse::<u16>().is_ok_and(|port| port != 0)
}

#[cfg(test)]
mod tests {
    //! Text in, the fields that are wrong out.

    use crate::parse;

    fn wrong(text: &str) -> Vec<String> {
        match parse(text) {
            Ok(_) => Vec::new(),
            Err(error) => error.problems().iter().map(|problem| problem.field.clone()).collect(),
        }
    }

    #[test]
    fn a_node_that_is_alone_needs_nothing() {
        assert!(wrong("").is_empty());
    }

    #[test]
    fn peers_speak_tls_unless_they_share_a_machine() {
        let tls = "tls: {certificate_file: c, key_file: k, ca_file: a}";
        assert_eq!(wrong("listen: {peer: 127.0.0.1:7946}"), ["cluster.tls"]);
        assert!(wrong("{listen: {peer: 127.0.0.1:7946}, cluster: {plaintext: true}}").is_empty());
        assert_eq!(
            wrong("{listen: {peer: 10.0.0.1:7946}, cluster: {plaintext: true}}"),
            ["cluster.plaintext"]
        );
        assert!(wrong(&format!("{{listen: {{peer: 10.0.0.1:7946}}, cluster: {{{tls}}}}}")).is_empty());
        assert_eq!(
            wrong(&format!(
                "{{listen: {{peer: 127.0.0.1:7946}}, cluster: {{plaintext: true, {tls}}}}}"
            )),
            ["cluster.plaintext"]
        );
        assert_eq!(
            wrong("{listen: {peer: 127.0.0.1:7946}, cluster: {tls: {ca_file: a, key_file: k}}}"),
            ["cluster.tls.certificate_file"]
        );
    }

    #[test]
    fn an_address_that_nobody_can_connect_to_is_not_advertised() {
        let tls = "tls: {certificate_file: c, key_file: k, ca_file: a}";
        let with = |more: &str| format!("{{listen: {{peer: \"0.0.0.0:7946\"}}, cluster: {{{tls}{more}}}}}");
        assert_eq!(wrong(&with("")), ["cluster.advertise"]);
        assert!(wrong(&with(", advertise: \"node-0.peers:7946\"")).is_empty());
        assert_eq!(wrong(&with(", advertise: \"node-0.peers\"")), ["cluster.advertise"]);
        assert_eq!(wrong(&with(", advertise: \"node-0.peers:0\"")), ["cluster.advertise"]);
    }

    #[test]
    fn joining_needs_a_door_and_addresses() {
        assert_eq!(wrong("cluster: {join: [\"a:1\"]}"), ["cluster.join"]);
        let text = "{listen: {peer: 127.0.0.1:1}, cluster: {plaintext: true, join: [\"a:1\", \"a/b\"]}}";
        assert_eq!(wrong(text), ["cluster.join.1"]);
        assert_eq!(wrong("cluster: {replicas: 2}"), ["cluster.replicas"]);
        assert_eq!(wrong("cluster: {founder: a}"), ["cluster.founder"]);
        assert_eq!(wrong("cluster: {voters: 4}"), ["cluster.voters"]);
        assert!(wrong("cluster: {voters: 5}").is_empty());
    }
}
