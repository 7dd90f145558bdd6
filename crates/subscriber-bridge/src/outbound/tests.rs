use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

const LIMITS: Limits = Limits { patience: Duration::from_secs(20), max_bytes: 1_000, max_idle: 2 };

fn key_file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/keys").join(name)
}

/// Answers each request of each connection in turn with one of `answers`, then closes. Counts connections.
async fn serve(listener: TcpListener, answers: &[&str], connections: &AtomicUsize) {
    loop {
        let (socket, _) = listener.accept().await.expect("a connection");
        connections.fetch_add(1, Ordering::Relaxed);
        converse(socket, answers).await;
    }
}

async fn converse(mut socket: impl AsyncRead + AsyncWrite + Unpin, answers: &[&str]) {
    for answer in answers {
        let mut request = [0; 4_096];
        match socket.read(&mut request).await {
            Ok(read) if read > 0 => drop(socket.write_all(answer.as_bytes()).await),
            _ => return,
        }
    }
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

fn outbound(url: &str, ca_file: Option<&Path>, limits: Limits) -> Outbound {
    Outbound::new("field", url, ca_file, limits).expect("an address")
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_connection_is_used_again_and_made_anew_when_it_has_closed() {
    let (listener, port) = listener().await;
    let (one, two, connections) = (ok("one"), ok("two"), AtomicUsize::new(0));
    let answers = [one.as_str(), two.as_str()];
    let outbound = outbound(&format!("http://127.0.0.1:{port}/a?b"), None, LIMITS);
    let exchange = async {
        let mut bodies = Vec::new();
        for _ in 0..3 {
            bodies.push(outbound.get().await.expect("an answer"));
        }
        assert_eq!(bodies, ["one", "two", "one"]);
        assert_eq!(connections.load(Ordering::Relaxed), 2, "the first was closed after two answers");
    };
    tokio::select! {
        () = exchange => {}
        () = serve(listener, &answers, &connections) => {}
    }
}

#[tokio::test]
async fn bad_answers_are_errors() {
    let (long, not_found) = (ok(&"x".repeat(1_001)), "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    let redirect = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx";
    for (answer, expected) in
        [(long.as_str(), "limit"), (not_found, "404"), (redirect, "302"), (cut, "read"), ("?", "no answer")]
    {
        let (listener, port) = listener().await;
        let (answers, connections) = ([answer], AtomicUsize::new(0));
        let outbound = outbound(&format!("http://127.0.0.1:{port}"), None, LIMITS);
        tokio::select! {
            got = outbound.post("{}".into()) => {
                let error = got.expect_err("refused").to_string();
                assert!(error.contains(expected), "{answer:?}: {error}");
            }
            () = serve(listener, &answers, &connections) => {}
        }
    }
}

#[tokio::test]
async fn silence_is_given_up() {
    let (_listener, port) = listener().await;
    let limits = Limits { patience: Duration::from_millis(50), ..LIMITS };
    let silent = outbound(&format!("http://127.0.0.1:{port}"), None, limits);
    assert!(matches!(silent.get().await, Err(OutboundError::Late(_))));
}

#[tokio::test]
async fn https_is_spoken_with_those_whom_a_trusted_certificate_names() {
    let certificates = CertificateDer::pem_file_iter(key_file("server.pem")).expect("a file");
    let certificates = certificates.collect::<Result<Vec<_>, _>>().expect("certificates");
    let key = PrivateKeyDer::from_pem_file(key_file("server-key.pem")).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let config = config.with_no_client_auth().with_single_cert(certificates, key).expect("a certificate");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (listener, port) = listener().await;
    let answer = ok("secret");
    let server = async {
        loop {
            let (socket, _) = listener.accept().await.expect("a connection");
            if let Ok(socket) = acceptor.accept(socket).await {
                converse(socket, &[&answer]).await;
            }
        }
    };
    let ca = key_file("ca.pem");
    let clients = async {
        let trusted = outbound(&format!("https://127.0.0.1:{port}/"), Some(&ca), LIMITS);
        assert_eq!(trusted.get().await.expect("an answer"), "secret");
        let other_name = outbound(&format!("https://127.0.0.2:{port}/"), Some(&ca), LIMITS);
        assert!(matches!(other_name.get().await, Err(OutboundError::Connect(_))));
        // Where the system trusts nobody, there is no client at all.
        if let Ok(untrusting) = Outbound::new("field", &format!("https://127.0.0.1:{port}/"), None, LIMITS) {
            assert!(matches!(untrusting.get().await, Err(OutboundError::Connect(_))));
        }
    };
    tokio::select! {
        () = clients => {}
        () = server => {}
    }
}
