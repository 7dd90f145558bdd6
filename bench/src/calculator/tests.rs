//! The formulas with numbers that can be followed in the head.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    site: Site,
}

fn site(options: &[&str]) -> Site {
    Command::parse_from(["calculator"].iter().chain(options)).site
}

/// A million users who are all there, once each, in a region that has them all to itself.
fn round() -> Site {
    site(&[
        "--users=1000000",
        "--online=1",
        "--connections-per-user=1",
        "--publications-per-user-hour=3.6",
        "--absent=0",
    ])
}

fn figures() -> Figures {
    let figure = |value| Figure { value, source: String::new() };
    Figures {
        personal_delivery: figure(10.0),
        broadcast_delivery: figure(2.0),
        ping: figure(5.0),
        connect: figure(90.0),
        recovery: figure(90.0),
        connection: figure(4_000.0),
        socket: figure(4_000.0),
        active_user: figure(1_000.0),
        subscription: figure(100.0),
        publication: figure(20.0),
        position: figure(2.0),
        envelope: figure(50.0),
    }
}

fn close(value: f64, expected: f64) {
    assert!((value - expected).abs() <= expected.abs() * 1e-9, "{value} is not {expected}");
}

#[test]
fn load_follows_from_users() {
    let site = Site { broadcasts_per_hour: 36.0, ..round() };
    let plan = site.plan(&figures(), 1.0, 0.0);
    close(plan.connections, 1e6);
    close(plan.personal, 1_000.0);
    close(plan.broadcast, 10_000.0);
    close(plan.pings, 40_000.0);
    close(plan.connects, 1e6 / 900.0);
    // 0.01 for personal deliveries, 0.02 for broadcasts, 0.2 for pings, 0.1 for connects.
    close(plan.bridge_cores, 0.33);
    close(plan.bridge_memory, 8.0);
}

#[test]
fn the_scarcest_thing_decides_how_many_bridges_there_are() {
    let bridges = |site: Site| site.plan(&figures(), 1.0, 0.0);
    let by_connections = bridges(round());
    close(by_connections.by_connections, 50.0);
    close(by_connections.bridges, 60.0);
    let by_memory = bridges(Site { connections_per_bridge: 1e6, bridge_gb: 0.8, ..round() });
    close(by_memory.by_memory, 20.0);
    close(by_memory.bridges, 24.0);
    let by_cpu = bridges(Site { publications_per_user_hour: 36_000.0, ..round() });
    assert!(by_cpu.by_cpu > 100.0 && by_cpu.by_cpu < 102.0, "{by_cpu:?}");
}

#[test]
fn there_is_at_least_one_bridge_beyond_the_one_that_is_needed() {
    let plan = Site { users: 10.0, headroom: 0.0, ..round() }.plan(&figures(), 1.0, 0.0);
    close(plan.bridges, 2.0);
    assert!(LINES.iter().all(|line| (line.of)(&plan).is_finite()), "{plan:?}");
}

#[test]
fn a_region_that_is_away_is_carried_by_the_others_by_their_share() {
    let quarter = round().plan(&figures(), 0.25, 0.25);
    close(quarter.bridges_alone, (quarter.bridges * 4.0 / 3.0).ceil());
    let site = Site { shares: vec![0.4, 0.3, 0.2, 0.1], ..round() };
    let plans = site.plans(&figures());
    close(plans[0].bridges_alone, (plans[0].bridges / 0.7).ceil());
    close(plans[3].bridges_alone, (plans[3].bridges / 0.6).ceil());
}

#[test]
fn redis_is_sized_by_memory_or_by_cpu() {
    let by_memory = Site { active: 1.0, redis_gb: 0.2, ..round() }.plan(&figures(), 1.0, 0.0);
    close(by_memory.redis_memory, 1.1);
    close(by_memory.primaries, 11.0);
    close(by_memory.redis_servers, 22.0);
    let by_cpu = Site { publications_per_user_hour: 360.0, ..round() }.plan(&figures(), 1.0, 0.0);
    // 100,000 publications of 20 µs are two cores, and half a core of each primary is planned for.
    close(by_cpu.redis_cores, 2.0 + 1e6 / 900.0 * 2e-6);
    close(by_cpu.primaries, 5.0);
}

#[test]
fn who_is_not_there_costs_redis_and_no_delivery() {
    let plan = Site { absent: 0.5, connections_per_user: 2.0, ..round() }.plan(&figures(), 1.0, 0.0);
    close(plan.publications, 1_000.0);
    close(plan.personal, 1_000.0);
}

#[test]
fn bandwidth_counts_what_is_around_the_data() {
    let site = Site { data_bytes: 200.0, broadcasts_per_hour: 0.0, ..round() };
    let plan = site.plan(&figures(), 1.0, 0.0);
    close(plan.inward, 1_000.0 * 250.0 * 8.0 / 1e9);
    close(plan.outward, (1_000.0 * 250.0 + 40_000.0 * 50.0) * 8.0 / 1e9);
}

#[test]
fn resuming_takes_what_is_slowest() {
    // 60 bridges of 2 cores, one Redis primary: two seconds of it for positions, at half of its core.
    let plan = round().plan(&figures(), 1.0, 0.0);
    close(plan.primaries, 1.0);
    close(plan.positions_read, 15.0 + 4.0);
    close(plan.told, 19.0 + 10.0);
    close(plan.bridge_lost, 1.0 + 1e6 / 60.0 / 59.0 * 90e-6);
    close(plan.all_back, 1.0 + 2.0);
    let dear = Figures { recovery: Figure { value: 6_000.0, source: String::new() }, ..figures() };
    let cheap_bridges = Site { connection_minutes: 1e6, ..round() };
    close(cheap_bridges.plan(&dear, 1.0, 0.0).told, 19.0 + 1e6 / 60.0 * 6e-3);
    close(cheap_bridges.plan(&dear, 1.0, 0.0).all_back, 1.0 + 6_000.0 / 120.0);
    // Signatures by public keys are verified only so often.
    let signed = Site { verifications_per_second: 1_000.0, ..round() }.plan(&figures(), 1.0, 0.0);
    close(signed.bridge_lost, 1.0 + 1e6 / 60.0 / 59.0 / 1_000.0);
    close(signed.all_back, 1.0 + 1e6 / 60.0 / 1_000.0);
}

#[test]
fn numbers_that_describe_no_site_are_named() {
    assert!(site(&[]).check().is_ok());
    for (options, named) in [
        (["--online=1.5"].as_slice(), "--online"),
        (&["--shares=0.5,0.5,0.5,0.5"], "--shares add up to 2"),
        (&["--shares=0.5,0.5,0,0"], "more than 0"),
        (&["--fill=1"], "--fill"),
        (&["--bridge-cores=0"], "--bridge-cores"),
        (&["--headroom=-1"], "--headroom"),
        (&["--users=NaN"], "--users"),
    ] {
        let refused = site(options).check().unwrap_err().to_string();
        assert!(refused.contains(named), "{options:?}: {refused}");
    }
}
