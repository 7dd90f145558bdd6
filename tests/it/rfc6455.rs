//! RFC 6455 to the letter, over raw sockets: what is sent, which frames come back, how the connection ends. The cases are
//! those of Autobahn's fuzzing client (`just autobahn`), by its numbers, without compression.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use griot_tests::bridge::LoneBridge;
use griot_tests::process::{Launch, Worker};
use griot_tests::servers::shared;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(30);
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// First bytes of frames: whole ones, and those of which more follows.
const TEXT: u8 = 0x81;
const TEXT_PART: u8 = 0x01;
const BINARY: u8 = 0x82;
const BINARY_PART: u8 = 0x02;
const PART: u8 = 0x00;
const LAST: u8 = 0x80;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
/// "κόσμε", and bytes that no UTF-8 has.
const COSMOS: &[u8] = "κόσμε".as_bytes();
const SURROGATE: &[u8] = b"\xed\xa0\x80";

/// A client's frame.
fn frame(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut frame = head(first, payload.len());
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

fn head(first: u8, length: usize) -> Vec<u8> {
    let mut head = match length {
        0..=125 => vec![first, 0x80 | length as u8],
        126..=0xffff => [&[first, 0xfe], (length as u16).to_be_bytes().as_slice()].concat(),
        _ => [&[first, 0xff], (length as u64).to_be_bytes().as_slice()].concat(),
    };
    head.extend_from_slice(&MASK);
    head
}

fn close(code: u16) -> Vec<u8> {
    frame(CLOSE, code.to_be_bytes())
}

/// A frame of the server. Of a close only the code is kept, and nothing of one that has none.
type Frame = (u8, Vec<u8>);

struct Case {
    name: &'static str,
    send: Vec<u8>,
    frames: Vec<Frame>,
    /// The code of the server's close frame, after which the connection ends.
    code: Option<u16>,
}

/// What comes back, and with which code it ends, after the client has sent all of `frames` and waits.
fn case<const N: usize>(
    name: &'static str,
    frames: [Vec<u8>; N],
    back: &[(u8, &[u8])],
    code: impl Into<Option<u16>>,
) -> Case {
    let back = back.iter().map(|(first, payload)| (*first, payload.to_vec())).collect();
    Case { name, send: frames.concat(), frames: back, code: code.into() }
}

/// Opens a WebSocket; returns it with the head of the answer.
async fn open(addr: SocketAddr, headers: &str) -> Result<(TcpStream, String)> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET /connection/websocket HTTP/1.1\r\nHost: {addr}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(timeout(SOON, stream.read_u8()).await.context("no answer to the handshake")??);
    }
    Ok((stream, String::from_utf8(answer)?))
}

/// Everything that the server sends until it ends the connection, which it must do by itself.
async fn rest(stream: &mut TcpStream) -> Result<Vec<Frame>> {
    let mut bytes = Vec::new();
    timeout(SOON, stream.read_to_end(&mut bytes)).await.context("the server does not end the connection")??;
    let (mut frames, mut bytes) = (Vec::new(), bytes.as_slice());
    while let [first, length, more @ ..] = bytes {
        let (length, more) = match (*length, more) {
            (126, [a, b, more @ ..]) => (usize::from(u16::from_be_bytes([*a, *b])), more),
            (127, [a, b, c, d, e, f, g, h, more @ ..]) => {
                (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]) as usize, more)
            }
            (short, more) => (usize::from(short), more),
        };
        ensure!(length <= more.len(), "a torn frame: {first:x} of {length} bytes");
        frames.push((*first, more[..length].to_vec()));
        bytes = &more[length..];
    }
    ensure!(bytes.is_empty(), "a torn header: {bytes:x?}");
    Ok(frames)
}

/// Sends in pieces of so many bytes; whoever ends the connection early reads no more of them.
async fn play(addr: SocketAddr, case: &Case, piece: usize) -> Result<()> {
    let (mut stream, _) = open(addr, "").await?;
    for bytes in case.send.chunks(piece) {
        if stream.write_all(bytes).await.is_err() {
            break;
        }
    }
    let mut frames = rest(&mut stream).await.with_context(|| case.name)?;
    let last = frames.pop().with_context(|| format!("{}: no close frame", case.name))?;
    let code = last.1.first_chunk().map(|code| u16::from_be_bytes(*code));
    ensure!((last.0, code) == (CLOSE, case.code), "{}: it ended with {last:?}", case.name);
    ensure!(frames == case.frames, "{}: {frames:?}", case.name);
    Ok(())
}

/// All at once, and each in one piece, in small ones and byte by byte.
async fn play_all(addr: SocketAddr, cases: Vec<Case>) -> Result<()> {
    let plays = cases.iter().flat_map(|case| [usize::MAX, 7, 1].map(|piece| play(addr, case, piece)));
    try_join_all(plays).await.map(drop)
}

async fn echo() -> Result<(Worker, SocketAddr)> {
    let echo = Launch::new("echo").arg("0").start().await?;
    let line = echo.line("listening on ").await?;
    let addr = line.rsplit(' ').next().context("an address")?.parse()?;
    Ok((echo, addr))
}

/// What any server of ours answers to, whatever it does with messages.
fn everywhere() -> Vec<Case> {
    let ping = |payload: &[u8]| frame(PING, payload);
    let ten: Vec<u8> = (0..10).flat_map(|n| frame(PING, format!("payload-{n}"))).chain(close(1000)).collect();
    let pongs = (0..10).map(|n| (PONG, format!("payload-{n}").into_bytes())).collect();
    let mut cases = vec![
        case("2.1 empty ping", [ping(b""), close(1000)], &[(PONG, b"")], 1000),
        case("2.3 binary ping", [ping(b"\x00\xff\xfe"), close(1000)], &[(PONG, b"\x00\xff\xfe")], 1000),
        case("2.4 the longest ping", [ping(&[0xfe; 125]), close(1000)], &[(PONG, &[0xfe; 125])], 1000),
        case("2.5 ping of 126", [ping(&[0xfe; 126])], &[], 1002),
        case("2.7 pong unasked", [frame(PONG, ""), close(1000)], &[], 1000),
        case("2.9 pong, ping", [frame(PONG, "no"), ping(b"yes"), close(1000)], &[(PONG, b"yes")], 1000),
        Case { name: "2.10 ten pings", send: ten, frames: pongs, code: Some(1000) },
        case("3.5 RSV5 on binary", [frame(0xd2, "x"), ping(b"")], &[], 1002),
        case("3.6 RSV6 on ping", [frame(0xe9, "x")], &[], 1002),
        case("3.7 RSV7 on close", [frame(0xf8, "")], &[], 1002),
        case("4.1 reserved opcode", [frame(0x83, ""), ping(b"")], &[], 1002),
        case("4.1 reserved opcode 7", [frame(0x87, "x")], &[], 1002),
        case("4.2 reserved control opcode", [frame(0x8b, "")], &[], 1002),
        case("4.2 reserved control opcode 15", [frame(0x8f, "x")], &[], 1002),
        case("5.1 ping in two", [frame(0x09, "a"), frame(LAST, "b")], &[], 1002),
        case("5.2 pong in two", [frame(0x0a, "a"), frame(LAST, "b")], &[], 1002),
        case("5.9 nothing to continue", [frame(LAST, "a"), ping(b"")], &[], 1002),
        case("5.12 nothing to continue, more to come", [frame(PART, "a")], &[], 1002),
        case("5.18 two messages at once", [frame(TEXT_PART, "a"), frame(TEXT, "b")], &[], 1002),
        case("7.1.2 two closes", [close(1000), frame(CLOSE, "")], &[], 1000),
        case("7.1.3 ping after close", [close(1000), ping(b"")], &[], 1000),
        case("7.1.5 close within a message", [frame(TEXT_PART, "a"), close(1000), frame(LAST, "b")], &[], 1000),
        case("7.3.1 close without code", [frame(CLOSE, "")], &[], None),
        case("7.3.2 close with half a code", [frame(CLOSE, "a")], &[], 1002),
        case("7.3.5 the longest reason", [frame(CLOSE, [&b"\x03\xe8"[..], &[b'*'; 123]].concat())], &[], 1000),
        case("7.3.6 a longer one", [frame(CLOSE, [&b"\x03\xe8"[..], &[b'*'; 124]].concat())], &[], 1002),
        case("7.5.1 a reason not in UTF-8", [frame(CLOSE, [b"\x03\xe8", SURROGATE].concat())], &[], 1007),
        case("no mask", [b"\x81\x02{}".to_vec()], &[], 1002),
        case("a length not in its shortest form", [[b"\x81\xfe\x00\x02", &MASK[..], b"ab"].concat()], &[], 1002),
    ];
    let legal = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999];
    cases.extend(legal.map(|code| case("7.7 codes that may be sent", [close(code)], &[], code)));
    let illegal = [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535];
    cases.extend(illegal.map(|code| case("7.9 codes that must not", [close(code)], &[], 1002)));
    cases
}

#[tokio::test]
async fn the_echo_keeps_to_the_rfc() -> Result<()> {
    let (_echo, addr) = echo().await?;
    let star = [b'*'; 65_536];
    let mut cases = everywhere();
    for length in [0, 125, 126, 127, 128, 65_535, 65_536] {
        let data = &star[..length];
        cases.push(case("1.1 text", [frame(TEXT, data), close(1000)], &[(TEXT, data)], 1000));
        cases.push(case("1.2 binary", [frame(BINARY, data), close(1000)], &[(BINARY, data)], 1000));
    }
    let ping = || frame(PING, "between");
    cases.extend([
        case("3.2 RSV2 after a text", [frame(TEXT, "a"), frame(0xa1, "b"), ping()], &[(TEXT, b"a")], 1002),
        case("4.1.3 opcode 5 after a text", [frame(TEXT, "a"), frame(0x85, ""), ping()], &[(TEXT, b"a")], 1002),
        case("5.3 two fragments", [frame(TEXT_PART, "a"), frame(LAST, "b"), close(1000)], &[(TEXT, b"ab")], 1000),
        case(
            "5.6 ping between two fragments",
            [frame(BINARY_PART, "a"), ping(), frame(LAST, "b"), close(1000)],
            &[(PONG, b"between"), (BINARY, b"ab")],
            1000,
        ),
        case(
            "5.15 a message, then nothing to continue",
            [frame(TEXT_PART, "a"), frame(LAST, "b"), frame(PART, "c"), frame(TEXT, "d")],
            &[(TEXT, b"ab")],
            1002,
        ),
        case(
            "6.1.3 empty fragments around",
            [frame(TEXT_PART, ""), frame(PART, "middle"), frame(LAST, ""), close(1000)],
            &[(TEXT, b"middle")],
            1000,
        ),
        case(
            "6.2.3 characters over fragments",
            [frame(TEXT_PART, &COSMOS[..3]), frame(PART, &COSMOS[3..4]), frame(LAST, &COSMOS[4..]), close(1000)],
            &[(TEXT, COSMOS)],
            1000,
        ),
        case("6.3.1 a surrogate", [frame(TEXT, [COSMOS, SURROGATE, b"edited"].concat())], &[], 1007),
        case("6.4.1 fails in the fragment", [frame(TEXT_PART, COSMOS), frame(PART, b"\xf4\x90\x80\x80")], &[], 1007),
        case("6.6 half a character at the end", [frame(TEXT, &COSMOS[..1])], &[], 1007),
        case("7.1.1 a text, then close", [frame(TEXT, "a"), close(1000), frame(TEXT, "b")], &[(TEXT, b"a")], 1000),
    ]);
    // Of the frame only its first bytes are sent: it fails before it is whole.
    let part = frame(TEXT, [COSMOS, b"\xf4\x90\x80\x80edited"].concat());
    cases.push(case("6.4.3 fails within the frame", [part[..6 + COSMOS.len() + 2].to_vec()], &[], 1007));
    cases.push(case("9.1 over 64 MiB, of which nothing came", [head(BINARY, 64 * 1024 * 1024 + 1)], &[], 1009));
    play_all(addr, cases).await
}

#[tokio::test]
async fn large_messages_and_many_fragments_come_back_whole() -> Result<()> {
    let (_echo, addr) = echo().await?;
    let data: Vec<u8> = (0..4 * 1024 * 1024_u32).map(|n| b'a' + (n % 23) as u8).collect();
    let fragmented = |first, size: usize| {
        let last = data.len().div_ceil(size) - 1;
        let parts = data.chunks(size).enumerate().map(move |(n, part)| {
            let opcode = if n == 0 { first } else { PART };
            frame(if n == last { opcode | LAST } else { opcode }, part)
        });
        parts.flatten().collect::<Vec<u8>>()
    };
    for (name, bytes, back) in [
        ("9.1.4 text of 4 MiB", frame(TEXT, &data), TEXT),
        ("9.3 text in fragments of 64", fragmented(TEXT_PART, 64), TEXT),
        ("10.1.1 binary in fragments of 1,300", fragmented(BINARY_PART, 1_300), BINARY),
    ] {
        let case = case(name, [bytes, close(1000)], &[(back, &data)], 1000);
        play(addr, &case, usize::MAX).await?;
        play(addr, &case, 997).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_bridge_keeps_to_the_rfc() -> Result<()> {
    let bridge = LoneBridge::start(&shared().await.redis.url(), "max_message_bytes = 65536").await?;
    const BAD_REQUEST: u16 = 3501;
    let (most, half) = (vec![b' '; 65_536], vec![b' '; 32_768]);
    let mut cases = everywhere();
    cases.extend([
        case("a command in one message of the greatest size", [frame(TEXT, &most)], &[], BAD_REQUEST),
        case("one byte more", [head(TEXT, 65_537)], &[], 1009),
        case("in fragments", [frame(TEXT_PART, &half), frame(LAST, &half)], &[], BAD_REQUEST),
        case("in fragments, one byte more", [frame(TEXT_PART, &most), frame(PART, "x")], &[], 1009),
        case("binary on a JSON connection", [frame(BINARY, "{}")], &[], 1003),
        case("text not in UTF-8", [frame(TEXT_PART, SURROGATE)], &[], 1007),
        case(
            "a ping between fragments",
            [frame(TEXT_PART, "no"), frame(PING, "p"), frame(LAST, "thing")],
            &[(PONG, b"p")],
            BAD_REQUEST,
        ),
    ]);
    play_all(bridge.addr(), cases).await
}

#[tokio::test]
async fn handshakes_lack_nothing_and_agree_on_no_extension() -> Result<()> {
    let bridge = LoneBridge::start(&shared().await.redis.url(), "").await?;
    let (_echo, echo) = echo().await?;
    for addr in [bridge.addr(), echo] {
        let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
        let (mut stream, answer) = open(addr, offer).await?;
        let answer = answer.to_lowercase();
        ensure!(answer.starts_with("http/1.1 101 ") && !answer.contains("sec-websocket-extensions"), "{answer}");
        ensure!(answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{answer}");
        // Compressed all the same: nobody has agreed to it.
        stream.write_all(&frame(TEXT | 0x40, "x")).await?;
        ensure!(rest(&mut stream).await?.last().is_some_and(|(_, close)| close.starts_with(&1002_u16.to_be_bytes())));
        let host = format!("Host: {addr}\r\n");
        let words = "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n";
        let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let version = "Sec-WebSocket-Version: 13\r\n";
        for (method, headers, status) in [
            ("GET", [&host, words, key, version], "101"),
            ("POST", [&host, words, key, version], "405"),
            ("GET", ["", words, key, version], "400"),
            ("GET", [&host, "", key, version], "426"),
            ("GET", [&host, words, "", version], "400"),
            ("GET", [&host, words, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j\r\n", version], "400"),
            ("GET", [&host, words, key, "Sec-WebSocket-Version: 8\r\n"], "426"),
        ] {
            let mut stream = TcpStream::connect(addr).await?;
            let request = format!("{method} /connection/websocket HTTP/1.1\r\n{}\r\n", headers.concat());
            stream.write_all(request.as_bytes()).await?;
            let mut answer = vec![0; 12];
            timeout(SOON, stream.read_exact(&mut answer)).await??;
            ensure!(answer == format!("HTTP/1.1 {status}").as_bytes(), "{request}{}", String::from_utf8_lossy(&answer));
        }
    }
    Ok(())
}
