//! The session as a table of commands and what they come to.

use bytes::Bytes;
use fanout_core::envelope::Position;
use fanout_core::{Topic, Who};

use super::*;
use crate::join::Standing;
use crate::protocol::Encoding;

const NOW: u64 = 1_800_000_000;

fn rules(topics: Topics) -> Rules {
    Rules {
        tokens: Tokens::new(Some(&"s".repeat(32).into())).expect("secret"),
        topics,
        node: "node".into(),
        insecure: false,
        allow_anonymous: false,
        answers_rpc: false,
        max_channels: 4,
        max_subscribes_per_second: 2,
        ping_seconds: 25,
    }
}

fn said(session: &mut Session, line: &str) -> Step {
    let command = Encoding::Json.commands(Bytes::from(line.to_owned())).next().flatten();
    session.command(command.as_ref(), NOW)
}

fn text(step: Step) -> String {
    match step {
        Step::Reply(reply) => {
            let mut out = Vec::new();
            Encoding::Json.reply(&reply, &mut out);
            String::from_utf8(out).expect("UTF-8")
        }
        step => format!("{step:?}"),
    }
}

fn standing() -> Option<Standing> {
    let top = Position { epoch: "00c0ffee".parse().expect("epoch"), offset: 7 };
    Some(Standing { top, missed: None })
}

/// Signed in as 42 with a token for a minute.
fn signed_in(topics: Topics) -> Session {
    let rules = rules(topics);
    let user = UserId::parse("42").expect("user");
    let token = rules.tokens.sign(&user, NOW, 60).expect("signs");
    let mut session = Session::new(Arc::new(rules), "client".into(), Manner::TwoWay { pings: true });
    let Step::Join(join) = said(&mut session, &format!(r#"{{"id":1,"connect":{{"token":"{token}"}}}}"#)) else {
        panic!("not signed in")
    };
    let standings: Vec<_> = (0..join.channels.len()).map(|n| if n == 1 { None } else { standing() }).collect();
    let reply = session.joined(join, &standings, NOW).expect("joined");
    let reply = text(answer(reply));
    assert!(reply.contains(r#""expires":true,"ttl":60"#), "{reply}");
    session
}

fn built_in() -> Topics {
    Topics::new(None, None).expect("built in")
}

fn open(topic: Topic) -> Topics {
    Topics::new(Some([("open".to_owned(), topic)].into()), None).expect("topics")
}

#[test]
fn a_position_that_could_not_be_read_is_no_position() {
    let rules = rules(built_in());
    let token = rules.tokens.sign(&UserId::parse("42").expect("user"), NOW, 60).expect("signs");
    let mut session = Session::new(Arc::new(rules), "client".into(), Manner::TwoWay { pings: true });
    let Step::Join(join) = said(&mut session, &format!(r#"{{"id":1,"connect":{{"token":"{token}"}}}}"#)) else {
        panic!("not signed in")
    };
    let reply = session.joined(join, &[standing(), None, standing()], NOW).expect("joined");
    assert!(text(answer(reply)).contains(r#""orders:#42":{}"#));
}

#[test]
fn only_the_answer_to_a_ping_puts_off_the_next_one() {
    let mut session = signed_in(built_in());
    assert!(matches!(said(&mut session, "{}"), Step::Nothing));
    assert!(session.ping() && session.awaits_pong());
    assert!(matches!(said(&mut session, "{}"), Step::Answered));
    assert!(!session.awaits_pong());
    assert!(matches!(said(&mut session, "{}"), Step::Nothing));
}

#[test]
fn a_subscription_that_the_bridge_ended_can_be_made_again() {
    let mut session = signed_in(built_in());
    let subscribe = r##"{"id":2,"subscribe":{"channel":"orders:#42"}}"##;
    assert!(text(said(&mut session, subscribe)).contains("105"), "it has it");
    session.ended(&Channel::parse("orders:#42").expect("channel"));
    assert!(matches!(said(&mut session, subscribe), Step::Join(_)));
}

#[test]
fn whoever_subscribes_over_and_over_is_put_off() {
    let mut session = signed_in(built_in());
    let mut subscribe = || {
        session.ended(&Channel::parse("orders:#42").expect("channel"));
        said(&mut session, r##"{"id":2,"subscribe":{"channel":"orders:#42"}}"##)
    };
    assert!((0..4).all(|_| matches!(subscribe(), Step::Join(_))), "as many at once as channels are permitted");
    let reply = text(subscribe());
    assert!(reply.contains(r#""code":111"#) && reply.contains(r#""temporary":true"#), "{reply}");
}

#[test]
fn what_a_topic_does_not_permit_is_denied_and_what_it_does_not_keep_is_not_available() {
    let named = Topic { named: true, presence: true, ..Topic::default() };
    let ask = |topic: &Topic, line: &str| text(said(&mut signed_in(open(topic.clone())), line));
    let publish = r#"{"id":2,"publish":{"channel":"open:room","data":{}}}"#;
    let presence = r#"{"id":2,"presence":{"channel":"open:room"}}"#;
    let history = r#"{"id":2,"history":{"channel":"open:room"}}"#;
    for line in [publish, presence, history] {
        assert!(ask(&named, line).contains(r#""code":103"#), "{line}");
    }
    let everything = Topic { publish: Who::Users, see_presence: Who::Users, see_history: Who::Users, ..named.clone() };
    for line in [publish, presence, history] {
        assert!(!ask(&everything, line).contains("error"), "{line}");
        let elsewhere = line.replace("open:room", "open:#43");
        assert!(ask(&everything, &elsewhere).contains(r#""code":103"#), "another user's: {elsewhere}");
    }
    let nothing = Topic { presence: false, history_size: 0, ..everything };
    for line in [presence, history] {
        assert!(ask(&nothing, line).contains(r#""code":108"#), "{line}");
    }
    let empty = r#"{"id":2,"publish":{"channel":"open:room"}}"#;
    assert!(ask(&nothing, empty).contains(r#""code":107"#));
}

#[test]
fn subscribers_may_what_is_for_subscribers() {
    let topic = Topic { named: true, publish: Who::Subscribers, ..Topic::default() };
    let mut session = signed_in(open(topic));
    let publish = r#"{"id":3,"publish":{"channel":"open:room","data":1}}"#;
    assert!(text(said(&mut session, publish)).contains(r#""code":103"#));
    let Step::Join(join) = said(&mut session, r#"{"id":2,"subscribe":{"channel":"open:room"}}"#) else {
        panic!("not permitted")
    };
    session.joined(join, &[standing()], NOW).expect("joined");
    assert!(matches!(said(&mut session, publish), Step::Publish { .. }));
}

#[test]
fn a_client_that_wants_an_error_is_not_subscribed_without_its_position() {
    let topic = Topic { named: true, ..Topic::default() };
    let mut session = signed_in(open(topic));
    let subscribe = r#"{"id":2,"subscribe":{"channel":"open:room","recover":true,"offset":3,"epoch":"0","flag":3}}"#;
    let Step::Join(join) = said(&mut session, subscribe) else { panic!("not permitted") };
    let refused = session.joined(join, &[standing()], NOW).expect_err("not recovered");
    assert_eq!(refused.error.map(|error| error.code), Some(112));
    assert!(matches!(said(&mut session, subscribe), Step::Join(_)), "it may try again");
}

#[test]
fn strangers_connect_only_where_they_may_and_are_nobody_in_particular() {
    let connect = r#"{"id":1,"connect":{}}"#;
    let topic = Topic { named: true, anonymous: true, ..Topic::default() };
    let stranger = |rules: Rules| Session::new(Arc::new(rules), "client".into(), Manner::TwoWay { pings: true });
    let mut refused = stranger(rules(open(topic.clone())));
    assert!(matches!(said(&mut refused, connect), Step::Disconnect(disconnect) if disconnect.code == 3501));
    let mut taken = stranger(Rules { allow_anonymous: true, ..rules(open(topic)) });
    assert!(matches!(said(&mut taken, connect), Step::Join(_)));
    assert!(taken.user().is_none());
    assert!(matches!(said(&mut taken, r#"{"id":2,"subscribe":{"channel":"open:room"}}"#), Step::Join(_)));
    assert!(text(said(&mut taken, r##"{"id":2,"subscribe":{"channel":"open:#42"}}"##)).contains(r#""code":103"#));
}

#[test]
fn what_opens_everything_does_not_open_personal_channels() {
    let rules = Rules { insecure: true, ..rules(built_in()) };
    let mut session = Session::new(Arc::new(rules), "client".into(), Manner::TwoWay { pings: true });
    assert!(matches!(said(&mut session, r#"{"id":1,"connect":{}}"#), Step::Join(_)));
    assert!(matches!(said(&mut session, r#"{"id":2,"subscribe":{"channel":"orders:room"}}"#), Step::Join(_)));
    for line in [
        r##"{"id":2,"subscribe":{"channel":"orders:#42"}}"##,
        r##"{"id":2,"publish":{"channel":"orders:#42","data":1}}"##,
        r##"{"id":2,"history":{"channel":"orders:#42"}}"##,
    ] {
        assert!(text(said(&mut session, line)).contains(r#""code":103"#), "{line}");
    }
}

#[test]
fn what_is_not_supported_is_answered_as_the_readme_says() {
    let topic = Topic { named: true, publish: Who::Users, ..Topic::default() };
    let ask = |line: &str| said(&mut signed_in(open(topic.clone())), line);
    for (line, code) in [
        (r#"{"id":2,"subscribe":{"channel":"open:a","tf":{"key":"k","cmp":"eq","val":"v"}}}"#, 107),
        (r#"{"id":2,"subscribe":{"channel":"open:a","type":1}}"#, 103),
        (r#"{"id":2,"subscribe":{"channel":"open:a","type":4}}"#, 108),
        (r##"{"id":2,"subscribe":{"channel":"open:#4,2"}}"##, 107),
        (r#"{"id":2,"subscribe":{"channel":"$open:a"}}"#, 107),
    ] {
        assert!(text(ask(line)).contains(&format!(r#""code":{code}"#)), "{line}");
    }
    assert!(matches!(ask(r#"{"id":2,"subscribe":{"channel":"open:a","delta":"fossil"}}"#), Step::Join(_)), "whole");
    let unknown = ask(r#"{"id":2,"subscribe":{"channel":"open:a","delta":"other"}}"#);
    assert!(matches!(unknown, Step::Disconnect(disconnect) if disconnect.code == 3501));
    // Only protobuf can carry what is not JSON.
    let publish =
        crate::protocol::message::PublishRequest { channel: "open:a".into(), data: Bytes::from_static(b"\xff") };
    let command = Command { id: 2, publish: Some(publish), ..Command::default() };
    let refused = signed_in(open(topic.clone())).command(Some(&command), NOW);
    assert!(text(refused).contains(r#""code":107"#));
}
