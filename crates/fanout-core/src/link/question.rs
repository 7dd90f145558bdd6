//! Asking where feeds stand, on the connection that has just subscribed to them: the answer and the publications come
//! in one order, and one round trip does for both.

use std::collections::BTreeMap;

use redis_protocol::resp3::types::{BytesFrame, Resp3Frame};
use tokio::sync::oneshot;

use crate::names::Partitions;
use crate::position::{self, FeedPosition};
use crate::redis::{RedisConfig, RedisError};
use crate::script::POSITIONS;

/// Who is told where a feed stands.
pub(super) type Asker = oneshot::Sender<Result<FeedPosition, RedisError>>;

/// Where one feed stands, and who wants to know.
#[derive(Debug)]
pub(super) struct Question {
    /// The feed's pub/sub channel.
    pub(super) channel: String,
    pub(super) askers: Vec<Asker>,
}

/// Questions about feeds of one partition, which the server answers together.
#[derive(Debug)]
pub(super) struct Call(Vec<Question>);

impl Call {
    /// The calls that ask all of `questions`.
    pub(super) fn all(questions: Vec<Question>) -> impl Iterator<Item = Self> {
        let mut partitions: BTreeMap<String, Vec<Question>> = BTreeMap::new();
        for question in questions {
            if let Some((prefix, _)) = Partitions::split(&question.channel) {
                match partitions.get_mut(prefix) {
                    Some(questions) => questions.push(question),
                    None => drop(partitions.insert(prefix.to_owned(), vec![question])),
                }
            }
        }
        partitions.into_values().map(Self)
    }

    /// The call's command.
    pub(super) fn command(&self, config: &RedisConfig) -> Vec<String> {
        let named = self.0.iter().filter_map(|question| Partitions::split(&question.channel));
        let prefix = named.clone().map(|(prefix, _)| prefix.to_owned()).next().unwrap_or_default();
        let [fence, lifetime] = config.fenced();
        let head = ["EVALSHA".into(), POSITIONS.sha1().to_string(), "1".into(), prefix, fence, lifetime];
        head.into_iter().chain(named.map(|(_, feed)| feed.to_owned())).collect()
    }

    /// Tells the askers what the server has answered; `false` when that is no answer to this call.
    pub(super) fn answered(self, answer: &BytesFrame) -> bool {
        let feeds = array(answer).and_then(|answers| answers.iter().map(array).collect::<Option<Vec<_>>>());
        // Not even those before the first that does not fit: then nothing is known to be theirs.
        let Some(feeds) = feeds.filter(|feeds| feeds.len() == self.0.len()) else { return false };
        for (question, fields) in self.0.into_iter().zip(feeds) {
            let position = position::of_fields(fields.iter().map(|field| Some(field.to_string()?.into())));
            for asker in question.askers {
                // Whoever waits no more is no error.
                let _ = asker.send(position.clone());
            }
        }
        true
    }

    pub(super) fn questions(self) -> Vec<Question> {
        self.0
    }
}

fn array(frame: &BytesFrame) -> Option<&Vec<BytesFrame>> {
    if let BytesFrame::Array { data, .. } = frame { Some(data) } else { None }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use redis_protocol::resp3::decode::complete::decode_bytes_mut;

    use super::*;

    type Answered = oneshot::Receiver<Result<FeedPosition, RedisError>>;

    fn questions(channels: &[&str]) -> (Vec<Question>, Vec<Answered>) {
        let question = |channel: &&str| {
            let (asker, answered) = oneshot::channel();
            (Question { channel: (*channel).to_owned(), askers: vec![asker] }, answered)
        };
        channels.iter().map(question).unzip()
    }

    fn frame(text: &str) -> BytesFrame {
        decode_bytes_mut(&mut BytesMut::from(text)).expect("RESP").expect("a whole frame").0
    }

    #[test]
    fn feeds_of_one_partition_are_asked_about_in_one_call() {
        let (questions, _answered) =
            questions(&["griot:{0.1}:feed:u:1", "griot:{1.0}:feed:c:a", "griot:{0.1}:feed:u:2"]);
        let calls: Vec<Vec<String>> =
            Call::all(questions).map(|call| call.command(&RedisConfig::default())[3..].to_vec()).collect();
        let fence = ["1", "604800"];
        let [one, other] = [["griot:{0.1}:", fence[0], fence[1], "u:1"], ["griot:{1.0}:", fence[0], fence[1], "c:a"]];
        assert_eq!(calls, [[&one[..], &["u:2"]].concat(), other.to_vec()]);
    }

    #[test]
    fn each_is_told_its_own_and_a_refusal_is_one_feeds_alone() {
        let (questions, mut answered) = questions(&["griot:{0.1}:feed:u:1", "griot:{0.1}:feed:u:2"]);
        let call = Call::all(questions).next().expect("a call");
        let told = "*2\r\n*4\r\n$8\r\n00c0ffee\r\n:7\r\n$6\r\norders\r\n:3\r\n*1\r\n$23\r\nOOM command not allowed\r\n";
        assert!(call.answered(&frame(told)));
        let position = answered[0].try_recv().expect("told").expect("a position");
        assert_eq!((position.sequence, position.of("orders").offset, position.of("wallets").offset), (7, 3, 0));
        assert!(matches!(answered[1].try_recv(), Ok(Err(RedisError::OutOfMemory))));
    }

    #[test]
    fn what_answers_something_else_tells_nobody_anything() {
        for answer in ["+PONG\r\n", "*0\r\n", "*2\r\n*0\r\n*0\r\n", "*1\r\n:1\r\n"] {
            let (questions, mut answered) = questions(&["griot:{0.1}:feed:u:1"]);
            let call = Call::all(questions).next().expect("a call");
            assert!(!call.answered(&frame(answer)), "{answer:?}");
            assert!(answered[0].try_recv().is_err());
        }
        let (questions, mut answered) = questions(&["griot:{0.1}:feed:u:1", "griot:{0.1}:feed:u:2"]);
        let call = Call::all(questions).next().expect("a call");
        assert!(!call.answered(&frame("*2\r\n*2\r\n$8\r\n00c0ffee\r\n:7\r\n:1\r\n")), "half of it");
        assert!(answered.iter_mut().all(|answered| answered.try_recv().is_err()));
    }
}
