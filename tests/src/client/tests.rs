use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};

use super::*;

const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(50);

/// A server of one connection that acts out `script` and then reads until the client is gone.
struct Server {
    addr: SocketAddr,
    /// What the client sent.
    heard: watch::Receiver<Vec<String>>,
    _task: AbortOnDropHandle<()>,
}

/// Answers the n-th message of the client with the n-th entry.
async fn server(script: Vec<Vec<Message>>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (hears, heard) = watch::channel(Vec::new());
    let task = TaskTracker::new().spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        let mut script = script.into_iter();
        while let Some(Ok(message)) = socket.next().await {
            hears.send_modify(|heard| heard.push(message.to_string()));
            for answer in script.next().unwrap_or_default() {
                socket.send(answer).await.unwrap();
            }
        }
    });
    Server { addr, heard, _task: AbortOnDropHandle::new(task) }
}

impl Server {
    async fn connect(&self, token: &str) -> Result<(Client, Value)> {
        Client::connect(&format!("ws://{}/connection/websocket", self.addr), token).await
    }

    async fn hears(&mut self, count: usize) -> Vec<String> {
        timeout(LONG, self.heard.wait_for(|heard| heard.len() == count)).await.unwrap().unwrap().clone()
    }
}

fn text(text: &str) -> Message {
    Message::text(text)
}

fn connected() -> Vec<Message> {
    vec![text(r#"{"id":1,"connect":{"client":"c","ping":25,"pong":true}}"#)]
}

#[tokio::test]
async fn commands_get_their_replies_and_pushes_keep_their_order() {
    let mut server = server(vec![
        connected(),
        vec![
            text("{\"push\":{\"channel\":\"orders:#42\",\"pub\":{\"data\":1,\"offset\":1}}}\n{\"id\":2,\"subscribe\":{}}"),
            text(r#"{"push":{"channel":"orders","pub":{"data":2}}}"#),
        ],
    ])
    .await;
    let (client, result) = server.connect("t").await.unwrap();
    assert_eq!(result["client"], "c");
    assert_eq!(client.subscribe("orders").await.unwrap(), json!({}));
    let publication = client.next_publication(LONG).await.unwrap();
    assert_eq!(publication, ("orders:#42".to_owned(), json!({ "data": 1, "offset": 1 })));
    assert_eq!(client.next_publication(LONG).await.unwrap().1["data"], 2);
    assert!(client.next(SHORT).await.is_err());
    assert_eq!(
        server.hears(2).await,
        [r#"{"connect":{"token":"t"},"id":1}"#, r#"{"id":2,"subscribe":{"channel":"orders","flag":1}}"#]
    );
}

#[tokio::test]
async fn an_error_reply_is_told_by_its_code() {
    let server = server(vec![vec![text(r#"{"id":1,"error":{"code":109,"message":"token expired"}}"#)]]).await;
    let error = server.connect("t").await.unwrap_err();
    assert_eq!(refused(&error), Some(&Refused { code: 109, message: "token expired".to_owned() }));
}

#[tokio::test]
async fn a_close_instead_of_a_reply_is_told_by_its_code() {
    let frame = CloseFrame { code: CloseCode::from(3500), reason: "invalid token".into() };
    let server = server(vec![vec![Message::Close(Some(frame))]]).await;
    let error = server.connect("t").await.unwrap_err();
    assert_eq!(closed(&error), Some(&Closed { code: 3500, reason: "invalid token".to_owned() }));
}

#[tokio::test]
async fn pings_are_answered_once_each_unless_told_not_to() {
    let mut server = server(vec![connected(), vec![text("{}")], vec![], vec![text("{}")]]).await;
    let (client, _) = server.connect("t").await.unwrap();
    client.send_text("first").await.unwrap();
    assert_eq!(server.hears(3).await[2], "{}");
    client.answer_pings(false);
    client.send_text("second").await.unwrap();
    assert_eq!(client.next(LONG).await.unwrap().1, Received::Ping);
    assert_eq!(client.next(LONG).await.unwrap().1, Received::Ping);
    client.send_text("third").await.unwrap();
    assert_eq!(server.hears(5).await[4], "third");
}

#[tokio::test]
async fn a_connection_that_breaks_is_1006_and_stays_ended() {
    let server = server(vec![connected()]).await;
    let (client, _) = server.connect("t").await.unwrap();
    drop(server);
    assert_eq!(client.closed(LONG).await.unwrap().code, 1006);
    assert_eq!(client.closed(LONG).await.unwrap().code, 1006);
    assert!(client.next_push(LONG).await.is_err());
}

#[tokio::test]
async fn a_client_that_does_not_read_gets_it_later() {
    let server = server(vec![connected(), vec![text(r#"{"push":{"channel":"a"}}"#); 3]]).await;
    let (client, _) = server.connect("t").await.unwrap();
    client.keep_reading(false);
    client.send_text("go").await.unwrap();
    // One message may have been waited for already.
    let mut early = 0;
    while client.next_push(SHORT).await.is_ok() {
        early += 1;
    }
    assert!(early <= 1, "{early} pushes");
    client.keep_reading(true);
    for _ in early..3 {
        client.next_push(LONG).await.unwrap();
    }
}
