use std::sync::Arc;

use serde_json::value::to_raw_value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::*;

/// A backend that answers every call with `answer` once `go` says so, and what it was sent last.
async fn call(answer: &str) -> (Result<Option<Data>, CallError>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/rpc", listener.local_addr().expect("an address"));
    let backend = Backend::new(&url, None, 1).expect("a backend");
    let data = to_raw_value(&[1]).expect("JSON");
    let call = Call { client: "c1", user: "42", method: "price", data: Some(&data) };
    let serve = async {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        let mut request = Vec::new();
        while !request.ends_with(b"}") {
            socket.read_buf(&mut request).await.expect("a request");
        }
        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}", answer.len());
        socket.write_all(text.as_bytes()).await.expect("sent");
        String::from_utf8(request).expect("UTF-8")
    };
    tokio::join!(backend.rpc(call), serve)
}

#[tokio::test]
async fn a_call_goes_to_the_backend_and_its_answer_comes_back() {
    let (result, request) = call(r#"{"result":{"data":{"cents": 999}}}"#).await;
    assert_eq!(result.expect("a result"), Data::parse(r#"{"cents": 999}"#).ok());
    assert!(request.starts_with("POST /rpc HTTP/1.1\r\n"), "{request}");
    assert!(request.ends_with(r#"{"client":"c1","user":"42","method":"price","data":[1]}"#), "{request}");
    assert_eq!(call(r#"{"result":{}}"#).await.0.expect("a result"), None);
}

#[tokio::test]
async fn refusals_are_passed_on_and_nonsense_is_not() {
    let (refused, _) = call(r#"{"error":{"code":404,"message":"no such method"}}"#).await;
    assert!(matches!(refused, Err(CallError::Refused { code: 404, message }) if message == "no such method"));
    for nonsense in ["{}", "no", r#"{"result":7}"#] {
        assert!(matches!(call(nonsense).await.0, Err(CallError::Answer(_))), "{nonsense}");
    }
}

#[tokio::test]
async fn calls_beyond_the_limit_are_turned_away() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/rpc", listener.local_addr().expect("an address"));
    let backend = Arc::new(Backend::new(&url, None, 1).expect("a backend"));
    let call = Call { client: "c1", user: "", method: "slow", data: None };
    let under_way = Notify::new();
    let second = async {
        under_way.notified().await;
        backend.rpc(call).await
    };
    let serve = async {
        let _silent = listener.accept().await.expect("a connection");
        under_way.notify_one();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        refused = second => assert!(matches!(refused, Err(CallError::Busy)), "{refused:?}"),
        first = backend.rpc(call) => panic!("an answer from nobody: {first:?}"),
        () = serve => {}
    }
}
