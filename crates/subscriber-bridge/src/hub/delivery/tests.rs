//! What a large fan-out promises while members come and go, and when a feed is asked about. The link is never connected:
//! nobody answers.

use std::collections::BTreeMap;
use std::hash::BuildHasher;

use fanout_core::envelope::Position;
use fanout_core::link::Link;
use fanout_core::names::Partitions;
use fanout_core::position::FeedPosition;
use fanout_core::{RedisConfig, Topics};
use tokio::sync::mpsc;

use super::*;
use crate::hub::{ConnectionId, SHARDS};
use crate::join::{Joining, Terms};
use crate::metrics::Metrics;
use crate::outbox::tests::waiting;
use crate::outbox::{Outbox, Sink};
use crate::wire::Wire;

/// So many that they are served in several slices.
const MANY: u64 = 300;

fn hub() -> Hub {
    let (link, _) = Link::new(&RedisConfig::default()).expect("a link");
    let topics = Topics::new(None, None).expect("topics");
    Hub::new(link, Partitions::new(1), topics, Metrics::default(), Room::new(1_000_000))
}

fn channel(name: &str) -> Channel {
    Channel::parse(name).expect("a channel")
}

fn feed(name: &str) -> Feed {
    Feed::of(&channel(name))
}

fn at(offset: u64) -> Position {
    Position { epoch: "a".parse().expect("epoch"), offset }
}

fn outbox() -> Arc<Outbox> {
    Arc::new(Outbox::new(Sink::Queue(mpsc::channel(1).0), Wire::USUAL, 1_000_000, 1_000_000))
}

fn joining(names: &[&str]) -> Vec<Joining> {
    names.iter().map(|name| Joining::new(channel(name), None, Terms::default())).collect()
}

/// A connection that has these channels, which stand at 0 if they have positions.
fn arrive(hub: &Hub, id: u64, names: &[&str]) -> Arc<Outbox> {
    let outbox = outbox();
    hub.join(ConnectionId(id), &outbox, &joining(names), false);
    names.iter().for_each(|name| hub.activate(ConnectionId(id), &channel(name), Some(at(0))));
    outbox
}

/// What the connection was given, by its data.
fn given(outbox: &Outbox) -> Vec<u64> {
    let number = |frame: &String| frame.split("\"data\":").nth(1)?.split([',', '}']).next()?.parse().ok();
    waiting(outbox).iter().map(|frame| number(frame).expect("a number")).collect()
}

fn envelope(number: u64, data: &[u8]) -> Bytes {
    let head = format!("G1 {number} a {number}\n{{\"topic\":\"orders\",\"id\":\"i\"}}\n");
    [head.as_bytes(), data].concat().into()
}

fn work(hub: &Hub) {
    assert!((0..10_000).any(|_| !hub.work()), "it never ends");
}

#[test]
fn all_have_everything_in_order_whoever_comes_and_goes_between_two_slices() {
    let (hub, orders, notifications) = (hub(), channel("orders:#42"), channel("notifications:#42"));
    let few = |id| id < 10;
    let mut outboxes: BTreeMap<u64, Arc<Outbox>> = BTreeMap::new();
    for id in 0..MANY {
        let names = if few(id) { &["orders:#42", "notifications:#42"][..] } else { &["orders:#42"] };
        outboxes.insert(id, arrive(&hub, id, names));
    }
    let is_order = |number: &u64| number % 4 != 1;
    let publish = |number| {
        let channel = if is_order(&number) { &orders } else { &notifications };
        hub.publish_raw(channel, number.to_string().into());
    };
    (0..4).for_each(publish);
    for round in 4..40 {
        hub.work();
        publish(round);
        let leaves = 10 + round * 97 % (MANY - 10);
        hub.leave(ConnectionId(leaves), [&orders]);
        outboxes.remove(&leaves);
        outboxes.insert(MANY + round, arrive(&hub, MANY + round, &["orders:#42"]));
    }
    work(&hub);
    let all: Vec<u64> = (0..40).collect();
    let of_orders: Vec<u64> = all.iter().copied().filter(is_order).collect();
    for (id, outbox) in outboxes {
        let given = given(&outbox);
        match id {
            id if few(id) => assert_eq!(given, all),
            id if id < MANY => assert_eq!(given, of_orders),
            _ => assert!(of_orders.ends_with(&given), "who came meanwhile: {given:?}"),
        }
    }
}

#[test]
fn what_finds_no_room_to_wait_does_not_overtake_what_waits() {
    let mut hub = hub();
    hub.busy.room = Room::new(1_000);
    let outboxes: Vec<_> = (0..MANY).map(|id| arrive(&hub, id, &["orders"])).collect();
    (0..50_u64).for_each(|number| hub.publish_raw(&channel("orders"), number.to_string().into()));
    work(&hub);
    outboxes.iter().for_each(|outbox| assert_eq!(given(outbox), (0..50).collect::<Vec<_>>()));
}

#[test]
fn what_waits_is_handed_out_before_its_feed_is_repaired() {
    for is_looked_at in [true, false] {
        let (hub, orders) = (hub(), feed("orders"));
        let outboxes: Vec<_> = (0..MANY).map(|id| arrive(&hub, id, &["orders"])).collect();
        hub.publish(&orders, &envelope(1, b"1"));
        hub.resumed(&orders);
        hub.publish(&orders, &envelope(2, b"2"));
        let position = FeedPosition { epoch: at(2).epoch, sequence: 2, tops: vec![("orders".into(), 2)] };
        if is_looked_at {
            assert_eq!(hub.missing(&orders, &position), [], "one has arrived, the other is held");
        }
        hub.repaired(&orders, Some(&position), &[]);
        outboxes.iter().for_each(|outbox| assert_eq!(given(outbox), [1, 2]));
    }
}

#[test]
fn what_is_not_json_in_one_line_reaches_nobody_and_is_a_gap() {
    for data in [&b"\"\xff\""[..], b"[1,\n2]", b"{"] {
        let hub = hub();
        let outbox = arrive(&hub, 1, &["orders"]);
        hub.publish(&feed("orders"), &envelope(1, data));
        assert_eq!(waiting(&outbox), [""; 0], "{data:?}");
        hub.publish(&feed("orders"), &envelope(2, b"2"));
        let told = waiting(&outbox);
        assert!(told.len() == 1 && told[0].contains("\"code\":2500"), "{told:?}");
    }
}

#[test]
fn a_feed_is_asked_about_only_once_all_of_its_channels_are_there() {
    let (hub, outbox) = (hub(), outbox());
    let shard = |name: &str| hub.hasher.hash_one(feed(name)) as usize % SHARDS;
    let apart = |name: &String| shard(name) != shard("orders:#42") && shard(name) != shard("orders:a");
    let last = (0..).map(|number| format!("orders:{number}")).find(apart).expect("a channel in another shard");
    let joining = joining(&["orders:#42", "orders:a", &last, "notifications:#42"]);
    std::thread::scope(|scope| {
        let held = hub.shard(&feed(&last));
        scope.spawn(|| hub.join(ConnectionId(1), &outbox, &joining, false));
        while !hub.shard(&feed("orders:a")).contains_key(&feed("orders:a")) {
            std::thread::yield_now();
        }
        assert!(hub.link.is_settled(), "one of the user's channels is not there yet");
        drop(held);
    });
    assert!(!hub.link.is_settled());
}
