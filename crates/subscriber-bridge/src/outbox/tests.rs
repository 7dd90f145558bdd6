//! Bounds, order and ends of an outbox, over real sockets and over one that hands on.

use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::*;
use crate::protocol::Encoding;
use crate::wire::{Framing, Shared};

const WIRE: Wire = Wire { encoding: Encoding::Json, framing: Framing::WebSocket, one_way: false };

/// An outbox whose socket is nobody's concern.
pub(crate) fn unconnected() -> Arc<Outbox> {
    Arc::new(Outbox::new(Sink::Queue(mpsc::channel(1).0), WIRE, 0, 0))
}

/// What waits, frame by frame.
pub(crate) fn waiting(outbox: &Outbox) -> Vec<String> {
    outbox.queue().frames.iter().map(|waiting| String::from_utf8_lossy(&waiting.frame).into_owned()).collect()
}

fn held(data: impl Into<Bytes>, conflation: Option<&Arc<str>>) -> Held {
    let publication = crate::protocol::publication(data.into(), None, None);
    let push = Arc::new(Shared::new(crate::protocol::published("c", publication)));
    Held { push, bytes: 0, kind: Kind::Live, position: None, conflation: conflation.cloned() }
}

async fn pair(limit: usize) -> (Outbox, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let client = TcpStream::connect(listener.local_addr().expect("address")).await.expect("connects");
    let (server, _) = listener.accept().await.expect("accepts");
    server.writable().await.expect("writable");
    (Outbox::new(Sink::Socket(server), WIRE, limit, 2 * limit), client)
}

/// Fills what the kernel takes, so that what follows has to wait.
fn stuff(outbox: &Outbox) {
    let junk = Bytes::from(vec![b'.'; 256 * 1024]);
    while outbox.is_empty() && outbox.closed().is_none() {
        outbox.send(junk.clone());
    }
}

async fn rest(outbox: Arc<Outbox>, mut client: TcpStream) -> Vec<u8> {
    let driver = Arc::clone(&outbox);
    let read = async {
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.expect("reads");
        all
    };
    let write = async move {
        assert!(matches!(driver.drive().await, Turn::Closed(_)));
        driver.finish(Duration::from_secs(10)).await;
        drop(driver);
        drop(outbox);
    };
    tokio::join!(read, write).0
}

#[tokio::test]
async fn the_newest_of_a_key_leaves_in_order_with_the_rest() {
    let (outbox, client) = pair(8 * 1024 * 1024).await;
    stuff(&outbox);
    let key: Arc<str> = "wallet-updates:#42 7".into();
    outbox.publish(&held("\"old\"", Some(&key)));
    outbox.publish(&held("\"order\"", None));
    outbox.publish(&held("\"new\"", Some(&key)));
    outbox.close(crate::codes::SHUTDOWN);
    outbox.send(Bytes::from_static(b"<too late>"));
    let all = rest(Arc::new(outbox), client).await;
    let end = String::from_utf8_lossy(&all[all.len() - 160..]).into_owned();
    let (order, new) = (end.find("\"order\"").expect("the order"), end.find("\"new\"").expect("the newest"));
    assert!(order < new && !end.contains("old") && end.ends_with("shutdown"), "{end}");
}

#[tokio::test]
async fn a_slow_client_costs_its_limit_and_no_more() {
    let (outbox, client) = pair(300 * 1024).await;
    stuff(&outbox);
    for _ in 0..10_000 {
        outbox.send(Bytes::from_static(&[b'x'; 1_000]));
        assert!(outbox.queue().costs[0] <= 300 * 1024);
    }
    assert_eq!(outbox.closed(), Some(SLOW));
    let all = rest(Arc::new(outbox), client).await;
    assert!(all.ends_with(b"\x88\x06\x0b\xc0slow"));
    let junk = all.iter().filter(|byte| **byte == b'.').count();
    assert_eq!(junk % (256 * 1024), 0, "what has left in part is followed by its rest");
}

#[tokio::test]
async fn the_end_of_a_slow_client_does_not_stand_in_the_middle_of_what_it_is_sent() {
    let (outbox, client) = pair(256 * 1024).await;
    let longest = Bytes::from(vec![b'.'; 16 * 1024 * 1024]);
    outbox.send(longest.clone());
    assert_eq!(outbox.closed(), Some(SLOW));
    let all = rest(Arc::new(outbox), client).await;
    assert!(all.starts_with(&longest) && all[longest.len()..] == *b"\x88\x06\x0b\xc0slow");
}

#[tokio::test]
async fn commands_are_bounded_and_leave_room_for_orders() {
    let (taker, _taken) = mpsc::channel(1);
    let outbox = |taker: &mpsc::Sender<Bytes>| Outbox::new(Sink::Queue(taker.clone()), WIRE, 300 * 1024, 0);
    let fill = |outbox: &Outbox, bytes: usize| {
        (0..1_000).take_while(|_| outbox.order(Order::Commands(vec![b'x'; bytes].into()))).count()
    };
    let (short, long, longest) = (outbox(&taker), outbox(&taker), outbox(&taker));
    assert_eq!((fill(&short, 10), fill(&long, 60_000), fill(&longest, 1_000_000)), (64, 4, 1));
    let other = || Order::Unsubscribe(fanout_core::control::Whom::default(), Channel::parse("c").expect("a channel"));
    assert_eq!((0..1_000).take_while(|_| short.order(other())).count(), 64);
    assert!(long.order(other()));
}

#[tokio::test]
async fn orders_and_the_end_do_not_wait_for_a_peer_that_takes_nothing() {
    let (taker, mut taken) = mpsc::channel(1);
    let outbox = Outbox::new(Sink::Queue(taker), WIRE, 300 * 1024, 0);
    outbox.send(Bytes::from_static(b"first"));
    outbox.send(Bytes::from(vec![b'x'; HANDED]));
    let blocked = async {
        tokio::task::yield_now().await;
        outbox.order(Order::Commands(Bytes::from_static(b"{}")));
    };
    let (turn, ()) = tokio::join!(outbox.drive(), blocked);
    assert!(matches!(turn, Turn::Order(_)), "{turn:?}");
    let slow = async {
        tokio::task::yield_now().await;
        while outbox.closed().is_none() {
            outbox.send(Bytes::from_static(&[b'x'; 1_000]));
        }
    };
    let (turn, ()) = tokio::join!(outbox.drive(), slow);
    assert!(matches!(&turn, Turn::Closed(why) if *why == SLOW), "{turn:?}");
    assert_eq!(taken.recv().await.as_deref(), Some(b"first".as_slice()));
    outbox.finish(Duration::from_secs(10)).await;
    assert!(taken.recv().await.is_some_and(|last| last.ends_with(b"slow")), "what waited is given up");
}

#[tokio::test]
async fn who_does_not_take_any_more_is_noticed() {
    let (taker, taken) = mpsc::channel(1);
    let outbox = Outbox::new(Sink::Queue(taker), WIRE, 300 * 1024, 0);
    drop(taken);
    let turn = tokio::time::timeout(Duration::from_secs(10), outbox.drive()).await.expect("it is noticed");
    assert!(matches!(turn, Turn::Closed(why) if why == CLOSED));
}

#[tokio::test]
async fn what_was_missed_does_not_make_a_client_slow() {
    let (outbox, client) = pair(300 * 1024).await;
    stuff(&outbox);
    outbox.recover(Bytes::from(vec![b'h'; 500 * 1024]), None);
    outbox.send(Bytes::from_static(b"<live>"));
    assert_eq!(outbox.closed(), None);
    outbox.recover(Bytes::from(vec![b'h'; 200 * 1024]), None);
    assert_eq!(outbox.closed(), Some(SLOW), "it has a limit of its own");
    drop(client);
}

#[tokio::test]
async fn a_run_leaves_whole_and_in_order_wherever_the_socket_stops_taking_it() {
    let (outbox, client) = pair(64 * 1024 * 1024).await;
    let channel = Channel::parse("c").expect("a channel");
    let (mut sent, mut waiting) = (Vec::new(), 0);
    while waiting < 20 {
        let run = sent.len();
        let held = (0..17).map(|index| held(format!("\"{run}-{index}-{}\"", "x".repeat(1_000)), None)).collect();
        let run = Run::new(channel.clone(), held);
        sent.extend_from_slice(run.frames(WIRE));
        outbox.publish_run(&run);
        waiting += usize::from(!outbox.is_empty());
    }
    outbox.close(crate::codes::SHUTDOWN);
    assert!(rest(Arc::new(outbox), client).await.starts_with(&sent));
}

#[tokio::test]
async fn what_has_left_in_part_is_neither_overtaken_nor_replaced() {
    let (outbox, mut client) = pair(64 * 1024 * 1024).await;
    let key: Arc<str> = "wallet-updates:#42 7".into();
    // Longer than what a socket takes at once.
    let long = |byte: &str| held(format!("\"{}\"", byte.repeat(16 * 1024 * 1024)), Some(&key));
    let (first, second, third) = (long("1"), long("2"), held("3", Some(&key)));
    let sent = [&first, &second, &third].map(|held| held.push.frame(WIRE).clone());
    outbox.publish(&first);
    let mut all = vec![0; sent[0].len() - outbox.queue().frames[0].frame.len()];
    client.read_exact(&mut all).await.expect("reads");
    outbox.stream().expect("a socket").writable().await.expect("writable");
    outbox.publish(&second);
    let mut more = vec![0; sent[0].len() + 1 - all.len()];
    tokio::select! {
        read = client.read_exact(&mut more) => drop(read.expect("reads")),
        turn = outbox.drive() => panic!("{turn:?}"),
    }
    all.append(&mut more);
    outbox.publish(&third);
    outbox.close(crate::codes::SHUTDOWN);
    all.extend(rest(Arc::new(outbox), client).await);
    assert!(all.starts_with(&sent.concat()));
}

#[tokio::test]
async fn of_a_run_only_the_newest_of_a_key_waits() {
    let (outbox, client) = pair(8 * 1024 * 1024).await;
    stuff(&outbox);
    let key: Arc<str> = "wallet-updates:#42 7".into();
    let held = vec![held("\"old\"", Some(&key)), held("\"order\"", None), held("\"new\"", Some(&key))];
    outbox.publish_run(&Run::new(Channel::parse("c").expect("a channel"), held));
    outbox.close(crate::codes::SHUTDOWN);
    let all = rest(Arc::new(outbox), client).await;
    let end = String::from_utf8_lossy(&all[all.len() - 160..]).into_owned();
    assert!(end.contains("\"order\"") && end.contains("\"new\"") && !end.contains("old"), "{end}");
}
