//! An HTTP answer that does not end, read as it comes.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::body::{Body, BodyDataStream};
use futures::StreamExt;
use hyper::client::conn::http1;
use hyper::header::HeaderMap;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// A busy test machine gets some time.
const PATIENCE: Duration = Duration::from_secs(20);

/// See the module. It is broken off when it is dropped, as by a browser that vanishes.
#[derive(Debug)]
pub struct Stream {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    body: BodyDataStream,
    unread: Vec<u8>,
    _connection: AbortOnDropHandle<()>,
}

impl Stream {
    /// Sends a request on a connection of its own, and returns when the headers of the answer are there.
    pub async fn open(
        addr: SocketAddr,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Result<Self> {
        let mut request = Request::builder().method(method).uri(path).header("host", addr.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut sender, connection) = http1::handshake(TokioIo::new(TcpStream::connect(addr).await?)).await?;
        // How it ends shows in the answer's body.
        let connection = TaskTracker::new().spawn(async move { connection.await.unwrap_or_default() });
        let answer =
            timeout(PATIENCE, sender.send_request(request.body(body.into())?)).await.context("no answer")??;
        let (parts, body) = answer.into_parts();
        Ok(Self {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: Body::new(body).into_data_stream(),
            unread: Vec::new(),
            _connection: AbortOnDropHandle::new(connection),
        })
    }

    /// A header's value; empty where there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The bytes that come next; `None` at the end.
    pub async fn bytes(&mut self) -> Result<Option<Vec<u8>>> {
        if !self.unread.is_empty() {
            return Ok(Some(std::mem::take(&mut self.unread)));
        }
        let next = timeout(PATIENCE, self.body.next()).await.context("nothing comes")?;
        Ok(next.transpose()?.map(Vec::from))
    }

    /// The next line without what ends it; `None` at the end.
    pub async fn line(&mut self) -> Result<Option<String>> {
        let mut line = Vec::new();
        loop {
            let Some(bytes) = self.bytes().await? else {
                return if line.is_empty() { Ok(None) } else { bail!("the stream ends within a line: {line:?}") };
            };
            line.extend(bytes);
            if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
                self.unread = line.split_off(end + 1);
                return Ok(Some(String::from_utf8(line)?.trim_end().to_owned()));
            }
        }
    }

    /// The next thing that is said, of lines as of server-sent events: its JSON. An error at the end.
    pub async fn json(&mut self) -> Result<Value> {
        loop {
            let line = self.line().await?.context("the stream has ended")?;
            match line.strip_prefix("data: ").unwrap_or(&line) {
                "" => {}
                text => return serde_json::from_str(text).with_context(|| format!("not JSON: {text}")),
            }
        }
    }

    /// The next thing that is no ping.
    pub async fn said(&mut self) -> Result<Value> {
        loop {
            match self.json().await? {
                Value::Object(fields) if fields.is_empty() => {}
                said => return Ok(said),
            }
        }
    }

    /// All that still comes, as text.
    pub async fn rest(mut self) -> Result<String> {
        let mut rest = Vec::new();
        while let Some(bytes) = self.bytes().await? {
            rest.extend(bytes);
        }
        Ok(String::from_utf8_lossy(&rest).into_owned())
    }
}
