use super::*;

const LIMIT: usize = 1_000;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A client's frame, its length in the shortest form.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..=125 => frame.push(MASKED | short as u8),
        long => {
            frame.push(MASKED | 126);
            frame.extend_from_slice(&(long as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

type Outcome = (Vec<Received>, Option<Disconnect>);

/// What comes of pieces that arrive one after the other, and whether nothing is held afterwards.
fn read(pieces: &[&[u8]]) -> Outcome {
    let mut reader = Reader::new(LIMIT);
    let (mut received, mut failed) = (Vec::new(), None);
    for piece in pieces {
        let mut bytes = BytesMut::from(*piece);
        loop {
            match reader.read(&mut bytes) {
                Ok(Some(one)) => received.push(one),
                Ok(None) => break,
                Err(disconnect) => assert_eq!(failed.replace(disconnect), None, "it fails once"),
            }
        }
        assert!(bytes.is_empty(), "all is taken");
        assert!(failed.is_none() || reader.has_ended());
    }
    (received, failed)
}

fn text(text: &str) -> Received {
    Received::Text(Bytes::copy_from_slice(text.as_bytes()))
}

/// What a client sends, and what comes of it.
fn cases() -> Vec<(Vec<u8>, Outcome)> {
    let good = |frames: &[Vec<u8>], received: Vec<Received>| (frames.concat(), (received, None));
    let bad = |frames: &[Vec<u8>], received: Vec<Received>, error| (frames.concat(), (received, Some(error)));
    let long = "ä€😀x".repeat(30);
    let ping = |payload: &'static [u8]| Received::Ping(Bytes::from_static(payload));
    vec![
        good(&[frame(0x81, b"{}"), frame(0x81, b"")], vec![text("{}"), text("")]),
        good(&[frame(0x82, &[0xff; 126])], vec![Received::Binary(vec![0xff; 126].into())]),
        good(&[frame(0x81, long.as_bytes())], vec![text(&long)]),
        good(
            &[frame(0x01, b"\xe2\x82"), frame(0x89, b"a"), frame(0x00, b""), frame(0x8a, b"b"), frame(0x80, b"\xac.")],
            vec![ping(b"a"), Received::Pong(Bytes::from_static(b"b")), text("€.")],
        ),
        good(&[frame(0x02, b"\xff"), frame(0x80, b"\xfe")], vec![Received::Binary(Bytes::from_static(b"\xff\xfe"))]),
        good(&[frame(0x89, &[b'p'; 125])], vec![ping(&[b'p'; 125])]),
        good(&[frame(0x88, b""), frame(0x89, b"late"), vec![0xff]], vec![Received::Close(None)]),
        good(&[frame(0x01, b"half"), frame(0x88, b"\x03\xe8bye")], vec![Received::Close(Some(1000))]),
        bad(&[frame(0x81, b"ok"), frame(0xc1, b"{}"), frame(0x89, b"")], vec![text("ok")], RESERVED_BIT),
        bad(&[frame(0x91, b"{}")], vec![], RESERVED_BIT),
        bad(&[frame(0x83, b"")], vec![], UNKNOWN_OPCODE),
        bad(&[frame(0x8b, b"")], vec![], UNKNOWN_OPCODE),
        bad(&[frame(0x09, b"")], vec![], FRAGMENTED_CONTROL),
        bad(&[frame(0x89, &[b'x'; 126])], vec![], LONG_CONTROL),
        bad(&[frame(0x80, b"")], vec![], NOT_STARTED),
        bad(&[frame(0x01, b"a"), frame(0x80, b"b"), frame(0x00, b"c")], vec![text("ab")], NOT_STARTED),
        bad(&[frame(0x01, b"a"), frame(0x81, b"b")], vec![], NOT_FINISHED),
        bad(&[b"\x81\x02{}".to_vec()], vec![], NOT_MASKED),
        bad(&[[b"\x81\xfe\x00\x02".as_slice(), &MASK, b"ab"].concat()], vec![], LENGTH_FORM),
        bad(&[[b"\x81\xff\x00\x00\x00\x00\x00\x00\xff\xff".as_slice(), &MASK].concat()], vec![], LENGTH_FORM),
        bad(&[[b"\x81\xff\x80\x00\x00\x00\x00\x01\x00\x00".as_slice(), &MASK].concat()], vec![], LENGTH_FORM),
        bad(&[frame(0x81, b"\xce\xba\xed\xa0\x80")], vec![], NOT_UTF8),
        bad(&[frame(0x01, b"\xe2\x82"), frame(0x80, b"")], vec![], NOT_UTF8),
        bad(&[frame(0x01, b"\xf4"), frame(0x00, b"\x90"), frame(0x80, b"\x80\x80")], vec![], NOT_UTF8),
        bad(&[frame(0x88, b"\x03")], vec![], CLOSE_LENGTH),
        bad(&[frame(0x88, b"\x03\xe8\xff")], vec![], NOT_UTF8),
        bad(&[frame(0x82, &[0; LIMIT + 1])], vec![], TOO_BIG),
        bad(&[frame(0x02, &[0; LIMIT]), frame(0x80, &[0])], vec![], TOO_BIG),
        good(&[frame(0x02, &[0; LIMIT]), frame(0x80, b"")], vec![Received::Binary(vec![0; LIMIT].into())]),
    ]
}

#[test]
fn split_at_every_byte_it_is_the_same() {
    for (bytes, outcome) in cases() {
        assert_eq!(read(&[&bytes]), outcome, "{bytes:x?}");
        for at in 0..=bytes.len() {
            let (one, other) = bytes.split_at(at);
            assert_eq!(read(&[one, other]), outcome, "{bytes:x?} split at {at}");
        }
        assert_eq!(read(&bytes.chunks(1).collect::<Vec<_>>()), outcome, "{bytes:x?} byte by byte");
    }
}

#[test]
fn cases_after_one_another_do_not_disturb_each_other() {
    let (bytes, outcomes): (Vec<_>, Vec<_>) =
        cases().into_iter().filter(|(_, (received, failed))| failed.is_none() && !closes(received)).unzip();
    let received: Vec<_> = outcomes.into_iter().flat_map(|(received, _)| received).collect();
    let bytes = bytes.concat();
    for size in 1..=64 {
        assert_eq!(read(&bytes.chunks(size).collect::<Vec<_>>()), (received.clone(), None), "pieces of {size}");
    }
}

fn closes(received: &[Received]) -> bool {
    received.iter().any(|received| matches!(received, Received::Close(_)))
}

#[test]
fn the_first_wrong_byte_is_enough() {
    let mut head = frame(0x81, &[b'x'; 900]);
    head.truncate(100);
    // Byte by byte, so that the number of bytes it took is known.
    let needed = |bytes: &[u8]| {
        let mut reader = Reader::new(LIMIT);
        bytes.iter().position(|byte| reader.read(&mut BytesMut::from([*byte].as_slice())).is_err()).map(|at| at + 1)
    };
    assert_eq!(needed(&head), None);
    assert_eq!(needed(&[0xc1]), Some(1), "a reserved bit");
    assert_eq!(needed(&[0x81, 0x05]), Some(2), "no mask");
    assert_eq!(needed(&frame(0x82, &[0; LIMIT + 1])), Some(8), "too long, of which nothing has come yet");
    let mut long = "κόσμε".as_bytes().to_vec();
    let wrong = long.len();
    long.extend_from_slice(b"\xf4\x90\x80\x80edited, and so on until the frame is long");
    assert_eq!(needed(&frame(0x81, &long)), Some(6 + wrong + 2), "the 0x90, of which no character can come");
}

#[test]
fn codes_that_may_be_sent() {
    for code in 0..=u16::MAX {
        let legal = match code {
            0..1000 | 1004..=1006 | 1015..3000 | 5000.. => Err(CLOSE_CODE),
            _ => Ok(Received::Close(Some(code))),
        };
        assert_eq!(close(&code.to_be_bytes()), legal);
    }
}

#[test]
fn nothing_is_held_between_messages_and_after_the_end() {
    let held = |reader: &Reader| reader.data.capacity() + reader.control.capacity();
    let mut reader = Reader::new(LIMIT);
    let mut bytes = BytesMut::from([frame(0x01, b"a"), frame(0x89, b"b"), frame(0x80, b"c")].concat().as_slice());
    while let Ok(Some(_)) = reader.read(&mut bytes) {}
    assert_eq!(held(&reader), 0);
    let mut bytes = BytesMut::from([frame(0x01, b"a"), frame(0x81, b"b")].concat().as_slice());
    assert!(reader.read(&mut bytes).is_err());
    assert_eq!(held(&reader), 0);
}
