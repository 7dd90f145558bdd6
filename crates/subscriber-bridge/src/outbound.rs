//! HTTP from the bridge to one address of the application: key sets and calls. Bounded in time, size and connections.
//!
//! A connection has no task of its own: whoever waits for an answer drives it, and what is idle rests.

use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fanout_core::config::ConfigError;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// Nobody took the connection, or not as the address demands.
    #[error("no connection: {0}")]
    Connect(std::io::Error),
    /// The connection broke, or spoke something else than HTTP.
    #[error("no answer: {0}")]
    Broken(hyper::Error),
    /// A status other than 200. Redirections are not followed.
    #[error("status {0} instead of 200")]
    Status(u16),
    /// The answer broke off or is longer than permitted.
    #[error("the answer could not be read within its limit: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    /// It took too long.
    #[error("no answer within {0:?}")]
    Late(Duration),
}

/// What one exchange may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From connecting to the end of the answer.
    pub patience: Duration,
    /// Bytes of the answer's body.
    pub max_bytes: usize,
    /// Connections that rest between exchanges.
    pub max_idle: usize,
}

/// One address, which the configuration names.
pub struct Outbound {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    limits: Limits,
    idle: Mutex<Vec<Line>>,
}

/// A connection with nothing under way.
struct Line {
    sender: SendRequest<Full<Bytes>>,
    driver: Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>,
    ended: bool,
}

/// A failed attempt, and whether the server may have seen it.
struct Failure {
    error: OutboundError,
    unsent: bool,
}

impl Outbound {
    /// `url`, which stands in the field `field`; `ca_file` holds certificates in PEM that are trusted beside the system's.
    ///
    /// # Errors
    /// Not an address of `http` or `https`, or no certificate to trust.
    pub fn new(field: &str, url: &str, ca_file: Option<&Path>, limits: Limits) -> Result<Self, ConfigError> {
        let wrong =
            |why: &str| ConfigError(format!("{field} = {url:?} {why}: give one like \"https://shop.example/path\""));
        let uri: Uri = url.parse().map_err(|_| wrong("is not a URL"))?;
        let authority = uri.authority().ok_or_else(|| wrong("names no host"))?;
        if authority.as_str().contains('@') {
            return Err(ConfigError(format!("{field} holds a user or password, which is not supported: leave it out")));
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong("is neither http nor https")),
        };
        let tls = if secure {
            let name =
                ServerName::try_from(host.clone()).map_err(|_| wrong("has a host that no certificate can name"))?;
            Some((TlsConnector::from(Arc::new(trust(ca_file)?)), name))
        } else {
            None
        };
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok(Self { uri, host, port, tls, limits, idle: Mutex::default() })
    }

    /// The body at the address.
    ///
    /// # Errors
    /// See [`OutboundError`].
    pub async fn get(&self) -> Result<Bytes, OutboundError> {
        self.exchange(Method::GET, Bytes::new()).await
    }

    /// The answer to `json`. It is sent again only when a resting connection turns out closed before it was sent.
    ///
    /// # Errors
    /// See [`OutboundError`].
    pub async fn post(&self, json: Bytes) -> Result<Bytes, OutboundError> {
        self.exchange(Method::POST, json).await
    }

    async fn exchange(&self, method: Method, body: Bytes) -> Result<Bytes, OutboundError> {
        let patience = self.limits.patience;
        let exchange = async {
            if let Some(line) = self.rested() {
                match self.over(line, self.request(&method, &body)).await {
                    Err(Failure { unsent: true, .. }) => {}
                    done => return done.map_err(|failure| failure.error),
                }
            }
            let line = self.connect().await?;
            self.over(line, self.request(&method, &body)).await.map_err(|failure| failure.error)
        };
        timeout(patience, exchange).await.unwrap_or(Err(OutboundError::Late(patience)))
    }

    fn request(&self, method: &Method, body: &Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = method.clone();
        // HTTP/1.1 names the path in its first line and the host in a header.
        *request.uri_mut() = self.uri.path_and_query().map_or_else(Uri::default, |path| Uri::from(path.clone()));
        let headers = request.headers_mut();
        if let Some(host) = self.uri.authority().and_then(|authority| authority.as_str().parse().ok()) {
            headers.insert(HOST, host);
        }
        if *method == Method::POST {
            headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
        }
        request
    }

    /// One exchange over `line`, which rests afterwards if it can be used again.
    async fn over(&self, mut line: Line, request: Request<Full<Bytes>>) -> Result<Bytes, Failure> {
        let body = line.exchange(request, self.limits.max_bytes).await?;
        self.rest(line);
        Ok(body)
    }

    fn rested(&self) -> Option<Line> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn rest(&self, line: Line) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if !line.ended && idle.len() < self.limits.max_idle {
            idle.push(line);
        }
    }

    async fn connect(&self) -> Result<Line, OutboundError> {
        let socket = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(OutboundError::Connect)?;
        socket.set_nodelay(true).map_err(OutboundError::Connect)?;
        match &self.tls {
            None => Line::open(socket).await,
            Some((tls, name)) => {
                Line::open(tls.connect(name.clone(), socket).await.map_err(OutboundError::Connect)?).await
            }
        }
    }
}

impl Line {
    async fn open<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(socket: S) -> Result<Self, OutboundError> {
        let (sender, driver) = handshake(TokioIo::new(socket)).await.map_err(OutboundError::Broken)?;
        Ok(Self { sender, driver: Box::pin(driver), ended: false })
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>, max_bytes: usize) -> Result<Bytes, Failure> {
        let mut answer = pin!(answer(&mut self.sender, request, max_bytes));
        tokio::select! {
            biased;
            body = &mut answer => return body,
            _ = &mut self.driver => self.ended = true,
        }
        // The connection has ended; what it brought before is still to be read.
        answer.await
    }
}

async fn answer(
    sender: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
    max_bytes: usize,
) -> Result<Bytes, Failure> {
    let closed = |error| Failure { error: OutboundError::Broken(error), unsent: true };
    sender.ready().await.map_err(closed)?;
    let response = sender.try_send_request(request).await.map_err(|mut error| {
        let unsent = error.take_message().is_some();
        Failure { error: OutboundError::Broken(error.into_error()), unsent }
    })?;
    let seen = |error| Failure { error, unsent: false };
    if response.status() != 200 {
        return Err(seen(OutboundError::Status(response.status().as_u16())));
    }
    let body = Limited::new(response.into_body(), max_bytes).collect().await;
    Ok(body.map_err(|error| seen(OutboundError::Body(error)))?.to_bytes())
}

/// TLS by ring, with the certificates of the system and those of `ca_file`.
fn trust(ca_file: Option<&Path>) -> Result<ClientConfig, ConfigError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(file) = ca_file {
        let wrong = |why: String| ConfigError(format!("subscriber_bridge.ca_file = {:?}: {why}", file.display()));
        let certificates = CertificateDer::pem_file_iter(file).map_err(|error| wrong(error.to_string()))?;
        let before = roots.len();
        for certificate in certificates {
            roots
                .add(certificate.map_err(|error| wrong(error.to_string()))?)
                .map_err(|error| wrong(error.to_string()))?;
        }
        if roots.len() == before {
            return Err(wrong("holds no certificate in PEM (`-----BEGIN CERTIFICATE-----`)".into()));
        }
    }
    if roots.is_empty() {
        return Err(ConfigError("https needs certificates to trust, and this system has none: give ca_file".into()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| ConfigError(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests;
