//! What the bridge counts.

use fanout_core::telemetry::ByReason;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::protocol::Encoding;
use crate::wire::{Framing, Wire};

/// Counters and gauges of the bridge; clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    /// Open connections.
    connections: Gauge,
    /// The same, by how they are spoken over.
    transports: Family<Transport, Gauge>,
    /// Feeds that some connection has.
    pub(crate) feeds: Gauge,
    /// Publications that came out of Redis.
    pub(crate) received: Counter,
    /// Publications handed to connections.
    pub(crate) deliveries: Counter,
    /// Connections that ended, by the reason's text.
    pub(crate) disconnects: ByReason,
    /// Subscribers told that continuity is lost.
    pub(crate) told: ByReason,
    /// Rounds of repairing a feed, by what they found.
    pub(crate) repairs: ByReason,
    /// Channels whose history was read, by what for.
    pub(crate) history_reads: ByReason,
    /// Channels that clients asked to recover, by outcome.
    pub(crate) recoveries: ByReason,
    /// Clients that signed in.
    pub(crate) connects: Counter,
    /// Publications dropped on their way.
    pub(crate) dropped: ByReason,
    /// Raw publications dropped.
    pub(crate) raw_dropped: ByReason,
    /// Requests that were refused, and sockets that sent none.
    pub(crate) refused: ByReason,
    /// Token keys that changed, or should have, by what happened.
    pub(crate) token_keys: ByReason,
    /// Certificates that changed, or should have, by what happened.
    pub(crate) certificates: ByReason,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let mut metrics = Self {
            disconnects: ByReason::register(registry, "disconnects", "Connections that ended, by reason"),
            told: ByReason::register(registry, "continuity_lost", "Subscribers told that continuity is lost, by side"),
            repairs: ByReason::register(registry, "repairs", "Rounds of repairing a feed, by what they found"),
            history_reads: ByReason::register(
                registry,
                "history_reads",
                "Channels whose history was read, by what for",
            ),
            recoveries: ByReason::register(
                registry,
                "recoveries",
                "Channels that clients asked to recover, by outcome",
            ),
            dropped: ByReason::register(registry, "publications_dropped", "Publications from Redis dropped, by reason"),
            raw_dropped: ByReason::register(registry, "raw_dropped", "Raw publications dropped, by reason"),
            refused: ByReason::register(registry, "handshakes_refused", "Requests refused, by reason"),
            certificates: ByReason::register(registry, "certificates", "Certificates looked at, by what happened"),
            token_keys: ByReason::register(registry, "token_keys", "Token keys looked at or fetched, by what happened"),
            ..Self::default()
        };
        let Self { connections, transports, connects, feeds, received, deliveries, .. } = &mut metrics;
        registry.register("connections", "Open connections", connections.clone());
        registry.register("transports", "Open connections, by transport and encoding", transports.clone());
        registry.register("connects", "Clients that signed in", connects.clone());
        registry.register("feeds", "Feeds that some connection has", feeds.clone());
        registry.register("publications_received", "Publications that came out of Redis", received.clone());
        registry.register("deliveries", "Publications handed to connections", deliveries.clone());
        metrics
    }
    /// Counts a connection until what is returned is dropped.
    pub(crate) fn open(&self, wire: Wire) -> Open {
        let gauges = [self.connections.clone(), self.transports.get_or_create(&Transport::of(wire)).clone()];
        for gauge in &gauges {
            gauge.inc();
        }
        Open(gauges)
    }
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Open([Gauge; 2]);

impl Drop for Open {
    fn drop(&mut self) {
        for gauge in &self.0 {
            gauge.dec();
        }
    }
}

/// How a connection is spoken over, as labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Transport {
    transport: &'static str,
    encoding: &'static str,
}

impl Transport {
    fn of(wire: Wire) -> Self {
        let transport = match (wire.framing, wire.one_way) {
            (Framing::WebSocket, false) => "websocket",
            (Framing::WebSocket, true) => "uni_websocket",
            (Framing::Stream, false) => "http_stream",
            (Framing::Stream, true) => "uni_http_stream",
            (Framing::Events, false) => "sse",
            (Framing::Events, true) => "uni_sse",
        };
        let encoding = match wire.encoding {
            Encoding::Json => "json",
            Encoding::Protobuf => "protobuf",
        };
        Self { transport, encoding }
    }
}
