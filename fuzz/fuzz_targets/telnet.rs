//! Lines of a Telnet client and the answers to it, against a parser that has the whole input at once.
#![no_main]

use std::io::{self, Read};

use libfuzzer_sys::fuzz_target;
use socketserver::services::Telnet;
use socketserver::{Connection, Error};

fuzz_target!(|data: &[u8]| {
    let Some((&[limit, offset], input)) = data.split_first_chunk() else { return };
    let model = Model::of(input);
    // The connection's buffer has 512 bytes at first, and the input lies across its end.
    let filler = vec![b'-'; 512 - usize::from(offset)];
    for limit in [usize::MAX, usize::from(limit).max(1)] {
        let mut in_memory = Connection::in_memory([&filler, input].concat());
        let connection = in_memory.as_mut();
        connection.read_exact(&mut vec![0; filler.len()]).unwrap();
        connection.set_max_line_length(limit);

        let (mut telnet, mut expected) = (Telnet::new(), model.lines.iter());
        let error = loop {
            let mut line = b"before".to_vec();
            let read = telnet.read_line(connection, &mut line);
            let read_line = line.strip_prefix(b"before").expect("earlier content is kept");
            match read {
                Ok(0) => break None,
                Ok(length) => {
                    assert_eq!((read_line, length), (&**expected.next().unwrap(), length))
                }
                Err(error) => {
                    assert!(read_line.is_empty());
                    break Some(error);
                }
            }
            assert!(read_line.len() <= limit);
        };
        match error {
            None => {
                assert_eq!(expected.next(), None);
                assert_eq!(in_memory.output(), model.answers);
            }
            Some(error) => {
                assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                assert!(matches!(Error::of(&error), Some(Error::LineTooLong { .. })), "{error}");
                assert!(model.longest > limit);
                assert!(model.answers.starts_with(&in_memory.output()));
            }
        }
    }
});

/// What is to be read from an input.
#[derive(Default)]
struct Model {
    lines: Vec<Vec<u8>>,
    answers: Vec<u8>,
    /// The length of the longest line, before anything in it was erased, or of a subnegotiation.
    longest: usize,
}

impl Model {
    fn of(mut rest: &[u8]) -> Model {
        let (mut model, mut line) = (Model::default(), Vec::new());
        let mut after_cr = false;
        while !rest.is_empty() {
            let data;
            (data, rest) = match rest {
                [255, 255, rest @ ..] => (Some(255), rest),
                [255, 250, rest @ ..] => {
                    let length = subnegotiation(rest);
                    let rest = &rest[length..];
                    model.longest = model.longest.max(length);
                    (None, rest.strip_prefix(&[255, 240]).unwrap_or(rest))
                }
                [255, 253, 6, rest @ ..] => (None, model.answers(&[255, 251, 6], rest)),
                [255, 253, option, rest @ ..] => (None, model.answers(&[255, 252, *option], rest)),
                [255, 251, option, rest @ ..] => (None, model.answers(&[255, 254, *option], rest)),
                [255, 252 | 254, _, rest @ ..] => (None, rest),
                [255, 246, rest @ ..] => (None, model.answers(b"\r\n[Yes]\r\n", rest)),
                [255, command @ (247 | 248 | 244 | 243 | 238), rest @ ..] => {
                    after_cr = false;
                    let left = if *command == 247 { without_last_character(&line) } else { 0 };
                    line.truncate(left);
                    (None, rest)
                }
                [255, 251..=254] | [255] => (None, &[][..]),
                [255, 236..=250, rest @ ..] => (None, rest),
                [255, byte, rest @ ..] => (Some(*byte), rest),
                [byte, rest @ ..] => (Some(*byte), rest),
                [] => unreachable!(),
            };
            let Some(byte) = data else { continue };
            let ends = byte == b'\n' || (byte == 0 && after_cr);
            line.push(if ends { b'\n' } else { byte });
            after_cr = byte == b'\r';
            model.longest = model.longest.max(line.len());
            if ends {
                model.lines.push(std::mem::take(&mut line));
            }
        }
        model.lines.extend(Some(line).filter(|line| !line.is_empty()));
        model
    }

    fn answers<'a>(&mut self, answer: &[u8], rest: &'a [u8]) -> &'a [u8] {
        self.answers.extend_from_slice(answer);
        rest
    }
}

/// The length up to the command that ends it.
fn subnegotiation(rest: &[u8]) -> usize {
    let mut length = 0;
    loop {
        length += match &rest[length..] {
            [255, 255, ..] => 2,
            [255, ..] | [] => return length,
            _ => 1,
        };
    }
}

fn without_last_character(line: &[u8]) -> usize {
    let mut length = line.len();
    while length > 0 {
        length -= 1;
        if !(0x80..0xc0).contains(&line[length]) {
            break;
        }
    }
    length
}
