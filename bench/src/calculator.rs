//! What a number of users needs: bridges, Redis, bandwidth, and how long it takes until all is well after a failover.
//! Every formula stands once, as text, beside the code that computes it; `--explain` prints that text.

mod figures;
mod print;

pub use figures::{Figure, Figures};
pub use print::print;

use anyhow::{Result, ensure};
use clap::Args;

/// The regions, in the order of [`Site::shares`].
pub const REGIONS: [&str; 4] = ["Africa West", "Europe West", "US East", "Asia South-East"];
/// Seconds in an hour.
const HOUR: f64 = 3_600.0;
/// Clients of the official libraries come back within a second of a lost connection.
const FIRST_RETRY_SECONDS: f64 = 1.0;

/// What the operator knows of the users and wants of the machines. Defaults are guesses about a shop, not measurements.
#[derive(Debug, Clone, Args)]
pub struct Site {
    /// Users with an account, in all regions together
    #[arg(long, default_value_t = 100_000_000.0)]
    pub users: f64,
    /// Part of the users who are connected at the busiest moment
    #[arg(long, default_value_t = 0.1)]
    pub online: f64,
    /// Part of the users who were connected or got a publication within 7 days: what Redis remembers
    #[arg(long, default_value_t = 0.4)]
    pub active: f64,
    /// Connections per user who is there: tabs and phones
    #[arg(long, default_value_t = 1.2)]
    pub connections_per_user: f64,
    /// Part of the users in each region: Africa West, Europe West, US East, Asia South-East
    #[arg(long, value_delimiter = ',', default_values_t = [0.25, 0.25, 0.25, 0.25])]
    pub shares: Vec<f64>,
    /// Personal publications per user who is there and hour, at the busiest time
    #[arg(long, default_value_t = 6.0)]
    pub publications_per_user_hour: f64,
    /// Part of the personal publications that are for users who are not there: stored, not delivered
    #[arg(long, default_value_t = 0.3)]
    pub absent: f64,
    /// Publications per hour that everybody who is there gets
    #[arg(long, default_value_t = 12.0)]
    pub broadcasts_per_hour: f64,
    /// Bytes of a publication's data
    #[arg(long, default_value_t = 200.0)]
    pub data_bytes: f64,
    /// Minutes that a connection lives; a phone's are short
    #[arg(long, default_value_t = 15.0)]
    pub connection_minutes: f64,
    /// Seconds between pings: `ping_seconds`
    #[arg(long, default_value_t = 25.0)]
    pub ping_seconds: f64,
    /// Seconds over which clients are told of lost continuity: `telling_window_seconds`
    #[arg(long, default_value_t = 10.0)]
    pub telling_seconds: f64,
    /// Seconds until a replica is promoted when a Redis primary is lost
    #[arg(long, default_value_t = 15.0)]
    pub promotion_seconds: f64,
    /// Tokens that a bridge verifies per second, where public keys verify them: `max_verifications_per_second`. 0 for
    /// tokens by a secret, which have no limit
    #[arg(long, default_value_t = 0.0)]
    pub verifications_per_second: f64,
    /// Most connections of a bridge: `max_connections`. The rows go to 15,000; measure before you trust more
    #[arg(long, default_value_t = 20_000.0)]
    pub connections_per_bridge: f64,
    /// Cores of a bridge
    #[arg(long, default_value_t = 2.0)]
    pub bridge_cores: f64,
    /// Memory of a bridge, in GB
    #[arg(long, default_value_t = 4.0)]
    pub bridge_gb: f64,
    /// Memory of a Redis primary that data may fill, in GB
    #[arg(long, default_value_t = 25.0)]
    pub redis_gb: f64,
    /// Copies of each Redis primary
    #[arg(long, default_value_t = 1.0)]
    pub replicas: f64,
    /// Part of CPU and memory that is planned for; the rest is for storms and neighbours
    #[arg(long, default_value_t = 0.5)]
    pub fill: f64,
    /// Bridges beyond what is needed, as a part of it; at least one
    #[arg(long, default_value_t = 0.2)]
    pub headroom: f64,
}

/// Whether the regions' numbers can be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Total {
    /// They can.
    Sum,
    /// The longest of them counts.
    Longest,
}

/// One number per region and where it comes from.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// What it is.
    pub label: &'static str,
    /// In what; empty for things that are counted.
    pub unit: &'static str,
    /// How regions are put together.
    pub total: Total,
    /// The formula in words.
    pub formula: &'static str,
    /// The number.
    pub of: fn(&Plan) -> f64,
}

// A field, its documentation and its line for the reader are one entry here, so that none can say something else.
macro_rules! plan {
    ($($field:ident: $label:literal, $unit:literal, $total:ident = $formula:literal;)*) => {
        /// What one region needs, in the order in which it is computed.
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct Plan {
            $(#[doc = concat!($label, " (", $unit, "): ", $formula)] pub $field: f64,)*
        }
        /// The fields of a [`Plan`] as a reader goes through them.
        pub const LINES: &[Line] = &[
            $(Line { label: $label, unit: $unit, total: Total::$total, formula: $formula, of: |plan| plan.$field },)*
        ];
    };
}

plan! {
    online: "users who are there", "", Sum = "users × share of the region × online";
    connections: "connections", "", Sum = "users who are there × connections per user";
    publications: "personal publications", "/s", Sum = "users who are there × publications per user hour ÷ 3,600";
    personal: "personal deliveries", "/s", Sum = "personal publications × (1 − absent) × connections per user";
    broadcast: "broadcast deliveries", "/s", Sum = "connections × broadcasts per hour ÷ 3,600, on average";
    pings: "pings", "/s", Sum = "connections ÷ ping seconds";
    connects: "connects", "/s", Sum = "connections ÷ (connection minutes × 60)";
    bridge_cores: "CPU of bridges", "cores", Sum = "(personal × µs + broadcast × µs + pings × µs + connects × µs) ÷ 1,000,000";
    bridge_memory: "memory of bridges", "GB", Sum = "connections × (bridge's + kernel's bytes per idle connection)";
    by_cpu: "bridges by CPU", "", Sum = "CPU of bridges ÷ (cores of a bridge × fill), rounded up";
    by_memory: "bridges by memory", "", Sum = "memory of bridges ÷ (memory of a bridge × fill), rounded up";
    by_connections: "bridges by connections", "", Sum = "connections ÷ connections per bridge, rounded up";
    bridges: "bridges", "", Sum = "the largest of the three, and headroom: that part more, at least one";
    bridges_alone: "bridges, another region away", "", Sum = "bridges × (1 + share of the largest other region ÷ (1 − that share)), rounded up: its users spread by share";
    redis_memory: "memory of Redis primaries", "GB", Sum = "users × share × active × bytes per active user + users who are there × bytes per subscription";
    redis_cores: "CPU of Redis primaries", "cores", Sum = "(personal publications × µs + connects × µs per position) ÷ 1,000,000; a primary has one core for commands";
    primaries: "Redis primaries", "", Sum = "the larger of memory ÷ (memory of a primary × fill) and CPU ÷ fill, rounded up";
    redis_servers: "Redis servers", "", Sum = "primaries × (1 + replicas)";
    outward: "bandwidth to browsers", "Gbit/s", Sum = "((personal + broadcast deliveries) × (data + bytes around them) + pings × bytes around them) × 8";
    inward: "bandwidth from Redis", "Gbit/s", Sum = "personal publications × (1 − absent) × (data + bytes around them) × 8";
    broadcast_spread: "a broadcast to all", "s", Longest = "connections per bridge in use × µs per broadcast delivery ÷ cores of a bridge";
    positions_read: "after a lost Redis primary: positions read", "s", Longest = "promotion + users who are there ÷ primaries × µs per position ÷ fill of a core";
    told: "after a lost Redis primary: all told and back", "s", Longest = "positions read + the longest of the telling window, (connections ÷ primaries ÷ bridges × recovery µs ÷ (cores of a bridge × (1 − fill))) and the same connections ÷ verifications per second";
    bridge_lost: "after a lost bridge: all back", "s", Longest = "first retry 1 s + connections ÷ bridges ÷ (bridges − 1) × the longer of (recovery µs ÷ (cores of a bridge × (1 − fill))) and (1 ÷ verifications per second)";
    all_back: "after all connections broke: all back", "s", Longest = "first retry 1 s + the longest of (connections × recovery µs ÷ (bridges × cores of a bridge)), (connections ÷ bridges ÷ verifications per second) and (connections × µs per position ÷ primaries); above 3 s of verifications clients are sent away and come back later, which is not in it";
}

impl Site {
    /// Whether the formulas have an answer for these numbers.
    ///
    /// # Errors
    /// The first that is out of its range, with the option's name.
    pub fn check(&self) -> Result<()> {
        let sum: f64 = self.shares.iter().sum();
        ensure!(self.shares.len() == REGIONS.len(), "--shares takes {} numbers, one per region", REGIONS.len());
        ensure!(self.shares.iter().all(|share| *share > 0.0), "--shares: each region needs more than 0");
        ensure!((sum - 1.0).abs() < 0.001, "--shares add up to {sum}: make it 1");
        for (name, part) in [("online", self.online), ("active", self.active), ("absent", self.absent)] {
            ensure!((0.0..=1.0).contains(&part), "--{name} is {part}: a part of all is between 0 and 1");
        }
        ensure!(self.fill > 0.0 && self.fill < 1.0, "--fill is {}: make it more than 0 and less than 1", self.fill);
        for (name, number) in self.divisors() {
            ensure!(number > 0.0 && number.is_finite(), "--{name} is {number}: make it more than 0");
        }
        for (name, number) in self.rates() {
            ensure!(number >= 0.0 && number.is_finite(), "--{name} is {number}: make it 0 or more");
        }
        Ok(())
    }

    fn divisors(&self) -> [(&'static str, f64); 8] {
        [
            ("users", self.users),
            ("connections-per-user", self.connections_per_user),
            ("connection-minutes", self.connection_minutes),
            ("ping-seconds", self.ping_seconds),
            ("connections-per-bridge", self.connections_per_bridge),
            ("bridge-cores", self.bridge_cores),
            ("bridge-gb", self.bridge_gb),
            ("redis-gb", self.redis_gb),
        ]
    }

    fn rates(&self) -> [(&'static str, f64); 8] {
        [
            ("verifications-per-second", self.verifications_per_second),
            ("publications-per-user-hour", self.publications_per_user_hour),
            ("broadcasts-per-hour", self.broadcasts_per_hour),
            ("data-bytes", self.data_bytes),
            ("telling-seconds", self.telling_seconds),
            ("promotion-seconds", self.promotion_seconds),
            ("replicas", self.replicas),
            ("headroom", self.headroom),
        ]
    }

    /// What a region with this share of the users needs, when the largest other one has `other`.
    #[must_use]
    pub fn plan(&self, figures: &Figures, share: f64, other: f64) -> Plan {
        let mut plan = Plan::default();
        self.load(&mut plan, share);
        self.bridges(&mut plan, figures, other);
        self.redis(&mut plan, figures, share);
        self.bandwidth(&mut plan, figures);
        self.resume(&mut plan, figures);
        plan
    }

    /// The four regions.
    #[must_use]
    pub fn plans(&self, figures: &Figures) -> Vec<Plan> {
        let largest_but = |without: usize| {
            let others = self.shares.iter().enumerate().filter(|(region, _)| *region != without);
            others.map(|(_, share)| *share).fold(0.0, f64::max)
        };
        self.shares.iter().enumerate().map(|(region, share)| self.plan(figures, *share, largest_but(region))).collect()
    }

    fn load(&self, plan: &mut Plan, share: f64) {
        plan.online = self.users * share * self.online;
        plan.connections = plan.online * self.connections_per_user;
        plan.publications = plan.online * self.publications_per_user_hour / HOUR;
        plan.personal = plan.publications * (1.0 - self.absent) * self.connections_per_user;
        plan.broadcast = plan.connections * self.broadcasts_per_hour / HOUR;
        plan.pings = plan.connections / self.ping_seconds;
        plan.connects = plan.connections / (self.connection_minutes * 60.0);
    }

    fn bridges(&self, plan: &mut Plan, figures: &Figures, other: f64) {
        plan.bridge_cores = seconds(plan.personal, &figures.personal_delivery)
            + seconds(plan.broadcast, &figures.broadcast_delivery)
            + seconds(plan.pings, &figures.ping)
            + seconds(plan.connects, &figures.connect);
        plan.bridge_memory = plan.connections * (figures.connection.value + figures.socket.value) / 1e9;
        plan.by_cpu = (plan.bridge_cores / (self.bridge_cores * self.fill)).ceil();
        plan.by_memory = (plan.bridge_memory / (self.bridge_gb * self.fill)).ceil();
        plan.by_connections = (plan.connections / self.connections_per_bridge).ceil();
        let needed = plan.by_cpu.max(plan.by_memory).max(plan.by_connections);
        plan.bridges = needed + (needed * self.headroom).ceil().max(1.0);
        plan.bridges_alone = (plan.bridges * (1.0 + other / (1.0 - other))).ceil();
    }

    fn redis(&self, plan: &mut Plan, figures: &Figures, share: f64) {
        let remembered = self.users * share * self.active * figures.active_user.value;
        plan.redis_memory = (remembered + plan.online * figures.subscription.value) / 1e9;
        plan.redis_cores = seconds(plan.publications, &figures.publication) + seconds(plan.connects, &figures.position);
        let by_memory = plan.redis_memory / (self.redis_gb * self.fill);
        plan.primaries = by_memory.max(plan.redis_cores / self.fill).ceil().max(1.0);
        plan.redis_servers = plan.primaries * (1.0 + self.replicas);
    }

    fn bandwidth(&self, plan: &mut Plan, figures: &Figures) {
        let delivery = self.data_bytes + figures.envelope.value;
        let deliveries = (plan.personal + plan.broadcast) * delivery;
        plan.outward = (deliveries + plan.pings * figures.envelope.value) * 8.0 / 1e9;
        plan.inward = plan.publications * (1.0 - self.absent) * delivery * 8.0 / 1e9;
    }

    fn resume(&self, plan: &mut Plan, figures: &Figures) {
        // What the everyday load leaves of a bridge is there for those who come back.
        let spare = self.bridge_cores * (1.0 - self.fill);
        let each = plan.connections / plan.bridges;
        plan.broadcast_spread = seconds(each, &figures.broadcast_delivery) / self.bridge_cores;
        let read = seconds(plan.online / plan.primaries, &figures.position) / self.fill;
        plan.positions_read = self.promotion_seconds + read;
        let back = |count: f64, cores: f64| (seconds(count, &figures.recovery) / cores).max(self.verified(count));
        plan.told = plan.positions_read + self.telling_seconds.max(back(each / plan.primaries, spare));
        // There are at least two: headroom is at least one beyond the one that is needed.
        let orphans = each / (plan.bridges - 1.0);
        plan.bridge_lost = FIRST_RETRY_SECONDS + back(orphans, spare);
        let by_bridges = back(each, self.bridge_cores);
        let by_redis = seconds(plan.connections, &figures.position) / plan.primaries;
        plan.all_back = FIRST_RETRY_SECONDS + by_bridges.max(by_redis);
    }
}

impl Site {
    /// Seconds until a bridge has verified so many tokens.
    fn verified(&self, count: f64) -> f64 {
        if self.verifications_per_second > 0.0 { count / self.verifications_per_second } else { 0.0 }
    }
}

/// What `count` of something cost, in seconds of one core.
fn seconds(count: f64, microseconds: &Figure) -> f64 {
    count * microseconds.value / 1e6
}

#[cfg(test)]
mod tests;
