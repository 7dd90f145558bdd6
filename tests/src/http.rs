//! One HTTP request at a time: enough for readiness, metrics and the publish API.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// No answer of ours takes this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The body, as text.
    pub body: String,
}

impl Response {
    /// The body as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.body).with_context(|| format!("status {}, not JSON: {}", self.status, self.body))
    }
}

/// `GET path`.
pub async fn get(addr: SocketAddr, path: &str) -> Result<Response> {
    request(addr, "GET", path, &[], "").await
}

/// `POST path` with a JSON body.
pub async fn post(addr: SocketAddr, path: &str, headers: &[(&str, &str)], body: &str) -> Result<Response> {
    request(addr, "POST", path, headers, body).await
}

/// The value of a metric, as it stands in a line of `/metrics`: `griot_connections`, or with its labels. What is not there
/// was never counted: 0.
pub async fn metric(admin: SocketAddr, name: &str) -> Result<f64> {
    let text = get(admin, "/metrics").await?.body;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.and_then(|value| value.parse().ok()).unwrap_or(0.0))
}

/// Any request, on a connection of its own.
pub async fn request(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Response> {
    // HTTP/1.0: the body then ends with the connection, and never comes in chunks.
    let mut text = format!("{method} {path} HTTP/1.0\r\nHost: {addr}\r\nContent-Type: application/json\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    let exchange = async {
        let mut stream = TcpStream::connect(addr).await?;
        stream.write_all(text.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let what = || format!("{method} {path} at {addr}");
    let answer = timeout(PATIENCE, exchange).await.with_context(what)?.with_context(what)?;
    parse(&String::from_utf8_lossy(&answer)).with_context(what)
}

fn parse(answer: &str) -> Result<Response> {
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("not HTTP: {answer:?}"))?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok(Response { status: status.with_context(|| format!("no status: {head:?}"))?, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use axum::{Json, Router, http::HeaderMap, routing};

    use super::*;

    #[tokio::test]
    async fn requests_reach_a_real_server() {
        let echo = |headers: HeaderMap, body: String| async move {
            Json(serde_json::json!({ "key": headers["x-api-key"].to_str().unwrap(), "body": body }))
        };
        let router = Router::new().route("/api/echo", routing::post(echo));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let exchange = async {
            let answer = post(addr, "/api/echo", &[("X-API-Key", "k")], "[1]").await.unwrap();
            assert_eq!(answer.status, 200);
            assert_eq!(answer.json().unwrap(), serde_json::json!({ "key": "k", "body": "[1]" }));
            assert_eq!(get(addr, "/nothing").await.unwrap(), Response { status: 404, body: String::new() });
        };
        tokio::select! {
            () = exchange => {}
            ended = axum::serve(listener, router) => panic!("the server ended: {ended:?}"),
        }
    }
}
