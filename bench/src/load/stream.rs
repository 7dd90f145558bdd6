//! The bytes of a connection, with TLS or without. Neither way ever blocks.

use std::io::{self, ErrorKind, Read, Write};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use mio::net::TcpStream;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// See the module.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<Tls>),
}

/// A socket and what is spoken over it.
pub(super) struct Tls {
    socket: TcpStream,
    session: ClientConnection,
}

/// Settings that trust the certificates in `issuers`. Each connection makes its whole handshake, as strangers do.
pub(super) fn trusting(issuers: &Path) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(issuers);
    roots.add(certificate.with_context(|| format!("reading the certificate {}", issuers.display()))?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

impl Stream {
    /// Over `socket`; by TLS where there is a `config`.
    pub(super) fn new(socket: TcpStream, to: IpAddr, config: Option<&Arc<ClientConfig>>) -> Result<Self> {
        let Some(config) = config else { return Ok(Self::Plain(socket)) };
        let session = ClientConnection::new(Arc::clone(config), ServerName::from(to))?;
        Ok(Self::Tls(Box::new(Tls { socket, session })))
    }
}

impl Read for Stream {
    /// Less than `buffer` holds is all that there is.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(tls) => {
                let taken = tls.session.writer().write(bytes)?;
                tls.send()?;
                Ok(taken)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(tls) => tls.send(),
        }
    }
}

impl Tls {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // What the socket did not take the last time, be it of the handshake.
        self.send()?;
        let mut filled = 0;
        while filled < buffer.len() {
            match self.session.reader().read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => match self.session.read_tls(&mut self.socket) {
                    Ok(_) => {
                        self.session.process_new_packets().map_err(io::Error::other)?;
                        self.send()?;
                    }
                    Err(_) if filled > 0 => break,
                    Err(error) => return Err(error),
                },
                Err(_) if filled > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Sends what is to be sent, as far as the socket takes it.
    fn send(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if is_not_yet(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Whether the same can be done later: the socket has nothing, takes nothing, or is not connected.
pub(super) fn is_not_yet(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected)
}
