use tokio::time::timeout;

use super::*;

const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(100);

/// Answers everything with itself, in upper case if `loud`.
async fn echo(tasks: &TaskTracker, loud: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let connections = tasks.clone();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut buffer = [0; 1024];
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    if loud {
                        buffer[..length].make_ascii_uppercase();
                    }
                    if stream.write_all(&buffer[..length]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    addr
}

async fn proxy() -> Proxy {
    Proxy::start(echo(&TaskTracker::new(), false).await).await.unwrap()
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.addr()).await.unwrap()
}

/// Sends a word and reads what comes back.
async fn say(stream: &mut TcpStream, word: &str) -> io::Result<String> {
    stream.write_all(word.as_bytes()).await?;
    let mut answer = vec![0; word.len()];
    stream.read_exact(&mut answer).await?;
    Ok(String::from_utf8(answer).unwrap())
}

#[tokio::test]
async fn bytes_and_the_end_of_the_stream_pass() {
    let proxy = proxy().await;
    let mut stream = connect(&proxy).await;
    assert_eq!(say(&mut stream, "mambo").await.unwrap(), "mambo");
    stream.shutdown().await.unwrap();
    assert_eq!(timeout(LONG, stream.read(&mut [0; 8])).await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn a_cut_link_closes_and_refuses_until_restored() {
    let proxy = proxy().await;
    let mut stream = connect(&proxy).await;
    say(&mut stream, "a").await.unwrap();
    proxy.cut().await;
    assert_eq!(timeout(LONG, stream.read(&mut [0; 8])).await.unwrap().unwrap(), 0);
    let refused = TcpStream::connect(proxy.addr()).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    proxy.cut().await;
    proxy.restore().await.unwrap();
    proxy.restore().await.unwrap();
    assert_eq!(say(&mut connect(&proxy).await, "b").await.unwrap(), "b");
}

#[tokio::test]
async fn a_stalled_link_holds_everything_back_and_keeps_the_order() {
    let proxy = proxy().await;
    let mut stream = connect(&proxy).await;
    say(&mut stream, "a").await.unwrap();
    proxy.stall();
    stream.write_all(b"bc").await.unwrap();
    let mut late = connect(&proxy).await;
    late.write_all(b"x").await.unwrap();
    assert!(timeout(SHORT, stream.read(&mut [0; 8])).await.is_err());
    assert!(timeout(SHORT, late.read(&mut [0; 8])).await.is_err());
    proxy.resume();
    let mut answer = [0; 2];
    timeout(LONG, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"bc");
    assert_eq!(timeout(LONG, late.read(&mut [0; 8])).await.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn a_stall_pushes_back_on_the_sender() {
    let proxy = proxy().await;
    let mut stream = connect(&proxy).await;
    say(&mut stream, "a").await.unwrap();
    proxy.stall();
    let much = vec![0; 64 * 1024 * 1024];
    assert!(timeout(Duration::from_secs(1), stream.write_all(&much)).await.is_err());
}

#[tokio::test]
async fn a_reset_reaches_the_client_and_spares_those_who_come_later() {
    let proxy = proxy().await;
    let mut stream = connect(&proxy).await;
    say(&mut stream, "a").await.unwrap();
    proxy.reset().await;
    let error = timeout(LONG, stream.read(&mut [0; 8])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(say(&mut connect(&proxy).await, "b").await.unwrap(), "b");
}

#[tokio::test]
async fn a_delay_counts_each_way_and_once_per_burst() {
    let proxy = proxy().await;
    let mut stream = connect(&proxy).await;
    say(&mut stream, "a").await.unwrap();
    proxy.delay(Duration::from_millis(50));
    let start = Instant::now();
    say(&mut stream, "b").await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(100), "{:?}", start.elapsed());
    let start = Instant::now();
    for word in ["c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t", "u", "v"] {
        stream.write_all(word.as_bytes()).await.unwrap();
        tokio::task::yield_now().await;
    }
    stream.read_exact(&mut [0; 20]).await.unwrap();
    // Twenty delays one after another would be two seconds.
    assert!(start.elapsed() < Duration::from_millis(1_000), "{:?}", start.elapsed());
}

#[tokio::test]
async fn new_connections_follow_a_new_target() {
    let tasks = TaskTracker::new();
    let proxy = Proxy::start(echo(&tasks, false).await).await.unwrap();
    let mut before = connect(&proxy).await;
    say(&mut before, "a").await.unwrap();
    proxy.retarget(echo(&tasks, true).await);
    assert_eq!(say(&mut connect(&proxy).await, "a").await.unwrap(), "A");
    assert_eq!(say(&mut before, "b").await.unwrap(), "b");
}

#[tokio::test]
async fn dropping_the_proxy_closes_its_connections() {
    let proxy = proxy().await;
    let addr = proxy.addr();
    let mut stream = connect(&proxy).await;
    say(&mut stream, "a").await.unwrap();
    drop(proxy);
    assert_eq!(timeout(LONG, stream.read(&mut [0; 8])).await.unwrap().unwrap(), 0);
    crate::eventually::eventually(LONG, "the port is closed", || async { TcpStream::connect(addr).await.is_err() })
        .await;
}
