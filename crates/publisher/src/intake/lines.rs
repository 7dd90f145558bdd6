//! Lines of any input, numbered, read ahead by a bounded number of bytes; a line over the limit is never held whole.

use std::io::{self, BufRead, BufReader, ErrorKind, Read};

use tokio::sync::mpsc;

/// Bytes that are read at once. Whole lines among them become one chunk.
const BUFFER: usize = 256 * 1024;
/// Most lines of a chunk.
const CHUNK: usize = 1_024;
/// Chunks that wait while one is published.
const AHEAD: usize = 2;

/// A line of the input.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// From 1.
    pub(super) number: u64,
    pub(super) text: Text,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Text {
    /// Without its line break, be it LF or CRLF.
    Whole(Vec<u8>),
    /// Over the limit, with its length in bytes.
    TooLong(u64),
}

/// Some lines that follow each other; at least one.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) lines: Vec<Line>,
    /// Bytes of the input up to here.
    pub(super) bytes: u64,
}

/// Reads `input` on a thread, because reading standard input cannot be cancelled: at Ctrl-C nobody waits for the thread,
/// and it ends with the process.
pub(super) fn read(input: impl Read + Send + 'static, limit: usize) -> mpsc::Receiver<io::Result<Chunk>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    std::thread::spawn(move || {
        let mut lines = Lines::new(input, limit, BUFFER);
        while let Some(chunk) = lines.chunk().transpose() {
            let failed = chunk.is_err();
            if sender.blocking_send(chunk).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

struct Lines<R> {
    reader: BufReader<R>,
    limit: usize,
    number: u64,
    bytes: u64,
}

impl<R: Read> Lines<R> {
    fn new(input: R, limit: usize, buffer: usize) -> Self {
        Self { reader: BufReader::with_capacity(buffer, input), limit, number: 0, bytes: 0 }
    }

    /// The next line, waiting for it, and those after it that need no waiting; none at the end.
    fn chunk(&mut self) -> io::Result<Option<Chunk>> {
        let mut lines: Vec<Line> = self.line()?.into_iter().collect();
        while !lines.is_empty() && lines.len() < CHUNK && self.reader.buffer().contains(&b'\n') {
            lines.extend(self.line()?);
        }
        Ok((!lines.is_empty()).then_some(Chunk { lines, bytes: self.bytes }))
    }

    fn line(&mut self) -> io::Result<Option<Line>> {
        let mut held = Vec::new();
        let mut length = 0;
        let mut ended = false;
        while !ended {
            let available = match self.reader.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if available.is_empty() {
                break;
            }
            let line_break = available.iter().position(|byte| *byte == b'\n');
            let part = &available[..line_break.unwrap_or(available.len())];
            ended = line_break.is_some();
            length += part.len() as u64;
            // One more than the limit: the last may be the CR of a line break.
            let room = (self.limit + 1).saturating_sub(held.len());
            held.extend_from_slice(&part[..part.len().min(room)]);
            let consumed = part.len() + usize::from(ended);
            self.bytes += consumed as u64;
            self.reader.consume(consumed);
        }
        if length == 0 && !ended {
            return Ok(None);
        }
        self.number += 1;
        if length == held.len() as u64 && held.last() == Some(&b'\r') {
            held.pop();
            length -= 1;
        }
        let text = if length > self.limit as u64 { Text::TooLong(length) } else { Text::Whole(held) };
        Ok(Some(Line { number: self.number, text }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(input: &[u8], limit: usize, buffer: usize) -> Vec<Text> {
        let mut lines = Lines::new(input, limit, buffer);
        let mut texts = Vec::new();
        while let Some(line) = lines.line().expect("a slice never fails") {
            assert_eq!(line.number, texts.len() as u64 + 1);
            texts.push(line.text);
        }
        assert_eq!(lines.bytes, input.len() as u64);
        texts
    }

    #[test]
    fn lines_are_the_same_however_they_come() {
        let whole = |text: &str| Text::Whole(text.into());
        let input = b"one\r\n\ntwo\n  \r\nsix666\r\nseven77\nlast";
        let expected =
            [whole("one"), whole(""), whole("two"), whole("  "), whole("six666"), Text::TooLong(7), whole("last")];
        for buffer in 1..=input.len() {
            assert_eq!(texts(input, 6, buffer), expected, "{buffer}");
        }
        assert_eq!(texts(b"", 6, 4), []);
        assert_eq!(texts(b"\r\n\xff\n", 6, 4), [whole(""), Text::Whole(vec![0xff])]);
    }

    #[test]
    fn of_a_line_over_the_limit_only_the_limit_is_held() {
        // An input without a line break that would not fit into memory.
        let mut lines = Lines::new(io::repeat(b'x').take(1 << 28), 10, 1 << 20);
        assert_eq!(lines.line().expect("reads"), Some(Line { number: 1, text: Text::TooLong(1 << 28) }));
    }

    #[test]
    fn a_chunk_has_the_lines_that_need_no_waiting() {
        let mut lines = Lines::new(&b"1\n2\n3\n4"[..], 10, 5);
        let numbers = |chunk: Chunk| chunk.lines.iter().map(|line| line.number).collect::<Vec<_>>();
        let mut next = || lines.chunk().expect("a slice never fails").map(numbers);
        assert_eq!(next(), Some(vec![1, 2]), "the buffer ends within the third");
        assert_eq!(next(), Some(vec![3]));
        assert_eq!(next(), Some(vec![4]));
        assert_eq!(next(), None);
    }
}
