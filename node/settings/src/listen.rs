//! Where the node listens and what one connection may cost it.
//!
//! Owns [`ListenSettings`] and [`TenancySettings`]. The limits here protect the node before it knows whose request it
//! is; what a tenant may do is in [`crate::limits`].

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::problem::Problems;
use crate::quantity::{ByteSize, Period};
use crate::section::section;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

section! {
    /// Addresses and connection limits. Every address is loopback unless written otherwise; port 0 takes any free port.
    pub struct ListenSettings {
        /// OTLP over gRPC.
        otlp_grpc: SocketAddr = SocketAddr::new(LOOPBACK, 4317),
        /// OTLP over HTTP (`/v1/traces`).
        otlp_http: SocketAddr = SocketAddr::new(LOOPBACK, 4318),
        /// Queries, status and metrics: HTTP and gRPC (h2c) on one port.
        http: SocketAddr = SocketAddr::new(LOOPBACK, 3200),
        /// Other nodes. Absent: this node is alone.
        #[serde(skip_serializing_if = "Option::is_none")]
        peer: Option<SocketAddr> = None,
        /// The admin API: membership, drains, health. Absent: there is none.
        #[serde(skip_serializing_if = "Option::is_none")]
        admin: Option<SocketAddr> = None,
        /// Connections of all three ports together; further ones are closed at once.
        connections_max: u32 = 4_096,
        /// Time a client may take to send its request head, and a TLS or HTTP/2 handshake.
        header_timeout: Period = Period::secs(10),
        /// Requests in flight on one HTTP/2 connection.
        http2_streams_max: u32 = 128,
        /// Bytes of a request as sent; above it 413.
        request_wire_bytes_max: ByteSize = ByteSize::mib(16),
        /// Bytes of a request after decompression; above it 413, found while inflating.
        request_bytes_max: ByteSize = ByteSize::mib(64),
        /// Inflated bytes per sent byte, looked at after the first MiB; above it 413 (compression bomb).
        inflate_ratio_max: u32 = 100,
        /// Bytes per second below which a body that is still arriving is given up.
        body_rate_min: ByteSize = ByteSize::kib(1),
        /// How long a body may be slower than that.
        body_rate_grace: Period = Period::secs(10),
        /// Time for requests in flight to end after SIGTERM before the node stops without them.
        shutdown_grace: Period = Period::secs(30),
    }
}

section! {
    /// Who owns a span.
    pub struct TenancySettings {
        /// Read the tenant from the header `X-Scope-OrgID` and answer 401 without it. Off: all is tenant `single-tenant`.
        multitenancy_enabled: bool = false,
        /// Take spans of tenants that no setting names, up to `tenants_auto_max`. Off: those answer 403.
        tenants_auto: bool = true,
        /// Tenants that may come into being by sending; further ones answer 403.
        tenants_auto_max: u32 = 1_000,
    }
}

/// The tenant of everything while multitenancy is off; the name is Tempo's.
pub const SINGLE_TENANT: &str = "single-tenant";

impl ListenSettings {
    /// The three addresses with the field and the name each is announced under.
    pub fn addresses(&self) -> [(&'static str, &'static str, SocketAddr); 3] {
        [
            ("listen.otlp_grpc", "otlp-grpc", self.otlp_grpc),
            ("listen.otlp_http", "otlp-http", self.otlp_http),
            ("listen.http", "http", self.http),
        ]
    }

    pub(crate) fn check(&self, problems: &mut Problems) {
        let mut addresses = self.addresses().to_vec();
        addresses.extend(self.peer.map(|address| ("listen.peer", "peer", address)));
        addresses.extend(self.admin.map(|address| ("listen.admin", "admin", address)));
        for (index, (field, _, address)) in addresses.iter().enumerate() {
            for (other_field, _, other) in &addresses[..index] {
                if is_same_socket(*address, *other) {
                    let field = field.trim_start_matches("listen.");
                    problems.add(
                        field,
                        format!("{address} is also {other_field}: each needs its own port"),
                    );
                }
            }
        }
        if self.connections_max == 0 || self.connections_max > 100_000 {
            problems.add("connections_max", "must be 1 to 100000");
        }
        if self.http2_streams_max == 0 || self.http2_streams_max > 10_000 {
            problems.add("http2_streams_max", "must be 1 to 10000");
        }
        if self.inflate_ratio_max < 2 {
            problems.add("inflate_ratio_max", "must be at least 2");
        }
        problems.between(
            "header_timeout",
            self.header_timeout,
            Period::millis(100),
            Period::minutes(5),
        );
        problems.between(
            "body_rate_grace",
            self.body_rate_grace,
            Period::millis(100),
            Period::minutes(5),
        );
        problems.at_most("shutdown_grace", self.shutdown_grace, Period::hours(1));
        problems.at_least("request_wire_bytes_max", self.request_wire_bytes_max, ByteSize::kib(1));
        problems.at_most("request_bytes_max", self.request_bytes_max, ByteSize::gib(1));
        if self.request_bytes_max < self.request_wire_bytes_max {
            problems.add("request_bytes_max", "must not be below request_wire_bytes_max");
        }
    }
}

impl TenancySettings {
    pub(crate) fn check(&self, problems: &mut Problems) {
        if self.tenants_auto_max > 10_000 {
            problems.add("tenants_auto_max", "must be at most 10000");
        }
    }
}

/// Two listeners clash on one port when the addresses are equal or one of them means every address.
fn is_same_socket(a: SocketAddr, b: SocketAddr) -> bool {
    let overlaps = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && overlaps
}
