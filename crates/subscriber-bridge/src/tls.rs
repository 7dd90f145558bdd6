//! TLS for browsers, by a certificate that may be replaced while the bridge runs.

use std::future::pending;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use fanout_core::Shutdown;
use fanout_core::config::ConfigError;
use fanout_core::telemetry::ByReason;
use futures::FutureExt;
use futures::future::BoxFuture;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use crate::config::BridgeConfig;
use crate::incoming::Source;
use crate::outbox::Sink;

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(3);

/// A browser's socket: plain, or TLS.
pub(crate) type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// See the module.
pub struct Tls {
    files: Files,
    acceptor: TlsAcceptor,
    current: Arc<Current>,
    /// What the files held when they were last looked at.
    seen: Pems,
}

#[derive(Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

/// A certificate with those that lead to its issuer, and its key.
#[derive(Debug, PartialEq, Eq)]
struct Pems {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// What the next handshakes are made with. Open connections keep theirs.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Tls {
    /// TLS as it is configured; without files there is none.
    ///
    /// # Errors
    /// One file without the other, or files that hold no certificate with its key.
    pub fn new(config: &BridgeConfig) -> Result<Option<Self>, ConfigError> {
        let files = match (&config.tls_certificate_file, &config.tls_key_file) {
            (None, None) => return Ok(None),
            (Some(certificate), Some(key)) => Files { certificate: certificate.clone(), key: key.clone() },
            _ => {
                let text =
                    "subscriber_bridge.tls_certificate_file and tls_key_file belong together: give both, or none";
                return Err(ConfigError(text.into()));
            }
        };
        let seen = files.read()?;
        let current = Arc::new(Current(RwLock::new(Arc::new(files.certified(&seen)?))));
        let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| ConfigError(format!("no TLS: {error}")))?;
        let mut server = server.with_no_client_auth().with_cert_resolver(Arc::clone(&current) as Arc<_>);
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Some(Self { files, acceptor: Arc::new(server).into(), current, seen }))
    }

    /// What makes the handshakes, now and after the files were replaced.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }

    /// Takes over what the files hold whenever that changes; what cannot be used is counted in `changed`, and the old
    /// certificate stays. Until the ending is asked for.
    pub(crate) async fn watch(mut self, changed: ByReason, shutdown: Shutdown) {
        let mut complaint = None;
        while shutdown.pause(LOOK_INTERVAL).await {
            match self.look() {
                Ok(false) => {}
                Ok(true) => {
                    complaint = None;
                    changed.count("replaced");
                    tracing::info!("new connections get the certificate that tls_certificate_file holds now");
                }
                Err(error) => {
                    // The same trouble is told once.
                    if complaint.as_ref() != Some(&error.0) {
                        changed.count("refused");
                        tracing::warn!(%error, "the certificate stays as it was: what its files hold now cannot be used");
                    }
                    complaint = Some(error.0);
                }
            }
        }
    }

    /// Whether there is another certificate. Content is compared, because a replaced file may have the time of the old one.
    fn look(&mut self) -> Result<bool, ConfigError> {
        let pems = self.files.read()?;
        if pems == self.seen {
            return Ok(false);
        }
        let certified = Arc::new(self.files.certified(&pems)?);
        *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = certified;
        self.seen = pems;
        Ok(true)
    }
}

impl Files {
    fn read(&self) -> Result<Pems, ConfigError> {
        let read = |field, path: &PathBuf| {
            let cannot = |error| ConfigError(format!("subscriber_bridge.{field}: {}: {error}", path.display()));
            std::fs::read(path).map_err(cannot)
        };
        Ok(Pems {
            certificate: read("tls_certificate_file", &self.certificate)?,
            key: read("tls_key_file", &self.key)?,
        })
    }

    fn certified(&self, pems: &Pems) -> Result<CertifiedKey, ConfigError> {
        let (certificate, key) = (self.certificate.display(), self.key.display());
        let chain = CertificateDer::pem_slice_iter(&pems.certificate).collect::<Result<Vec<_>, _>>();
        let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(|| {
            ConfigError(format!("subscriber_bridge.tls_certificate_file: {certificate} holds no certificate in PEM"))
        })?;
        let private = PrivateKeyDer::from_pem_slice(&pems.key)
            .map_err(|_| ConfigError(format!("subscriber_bridge.tls_key_file: {key} holds no private key in PEM")))?;
        CertifiedKey::from_der(chain, private, &ring::default_provider()).map_err(|error| {
            ConfigError(format!(
                "subscriber_bridge.tls_key_file: {key} is not the key of the first certificate in {certificate}: {error}"
            ))
        })
    }
}

/// The halves of a browser's socket: where its outbox writes, where its connection reads, and of one with TLS what has
/// to run beside the connection, which does not end by itself.
pub(crate) fn halves(stream: Stream, early: Bytes) -> (Sink, Source, Option<BoxFuture<'static, ()>>) {
    match stream {
        Stream::Left(socket) => (Sink::Socket(socket), early.into(), None),
        secured => {
            let (reading, writing) = tokio::io::split(secured);
            let (taker, pieces) = mpsc::channel(1);
            // A peer that is gone is noticed by the outbox, whose pieces nobody takes any more.
            let writing = write(writing, pieces).then(|_| pending());
            (Sink::Queue(taker), Source::own(early, reading), Some(writing.boxed()))
        }
    }
}

/// Writes what an outbox hands on, until it hands on nothing more, or an empty piece as its last.
async fn write(mut to: WriteHalf<Stream>, mut pieces: mpsc::Receiver<Bytes>) -> io::Result<()> {
    while let Some(piece) = pieces.recv().await.filter(|piece| !piece.is_empty()) {
        to.write_all(&piece).await?;
        to.flush().await?;
    }
    to.shutdown().await
}
