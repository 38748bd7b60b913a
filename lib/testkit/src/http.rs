//! A blocking HTTP/1.1 client over a plain socket: one request per connection, bodies by length,
//! in chunks or to the end of the connection, and server-sent events out of them. A body that is
//! cut off is an error and never a short body.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Longest wait for the next byte: far above what it takes, far below what a person waits.
const SILENCE: Duration = Duration::from_secs(30);

/// An HTTP answer as it comes in.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    headers: Vec<(String, String)>,
    body: BufReader<Body>,
}

/// A streamed completion or chat, read to its end.
#[derive(Debug, Default)]
pub struct Streamed {
    /// The pieces of text, joined.
    pub text: String,
    /// The finish reason, if one came.
    pub finish: Option<String>,
    /// The code of the error event, if one came.
    pub error: Option<String>,
    /// Whether `[DONE]` came and the body ended as HTTP says.
    pub complete: bool,
}

#[derive(Debug)]
struct Body {
    reader: BufReader<TcpStream>,
    framing: Framing,
}

#[derive(Debug)]
enum Framing {
    /// Bytes left of the chunk; `None` before the next one's size.
    Chunks(Option<usize>),
    Length(usize),
    Ended,
}

/// Sends a request to `http://HOST:PORT` and reads the answer's head.
pub fn ask(
    address: &str,
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
    body: &str,
) -> io::Result<Answer> {
    ask_for(SILENCE, address, (method, path), headers, body)
}

/// The same with a longest wait for each next byte of one's own.
pub fn ask_for(
    silence: Duration,
    address: &str,
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
    body: &str,
) -> io::Result<Answer> {
    let host = address.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(silence))?;
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    write!(stream, "{head}\r\n{body}")?;
    Answer::read(BufReader::new(stream))
}

impl Answer {
    fn read(mut reader: BufReader<TcpStream>) -> io::Result<Self> {
        let first = line(&mut reader)?;
        let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| broken("no status line"))?;
        let mut headers = Vec::new();
        loop {
            let header = line(&mut reader)?;
            let Some((name, value)) = header.split_once(':') else {
                break;
            };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let find = |wanted: &str| headers.iter().find(|(name, _)| name == wanted);
        let framing = match (find("transfer-encoding"), find("content-length")) {
            (Some(_), _) => Framing::Chunks(None),
            (None, Some((_, length))) => {
                Framing::Length(length.parse().map_err(|_| broken("no length"))?)
            }
            (None, None) => Framing::Ended,
        };
        Ok(Self {
            status,
            headers,
            body: BufReader::new(Body { reader, framing }),
        })
    }

    /// A header's value; names are in small letters.
    pub fn header(&self, wanted: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.as_str())
    }

    /// The whole body.
    pub fn text(mut self) -> String {
        let mut text = String::new();
        self.body.read_to_string(&mut text).unwrap();
        text
    }

    /// The whole body, as JSON.
    pub fn json(self) -> serde_json::Value {
        let text = self.text();
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("not json: {text}"))
    }

    /// The data of the next server-sent event; `None` where the body ends as HTTP says.
    pub fn event(&mut self) -> io::Result<Option<String>> {
        let mut text = String::new();
        while self.body.read_line(&mut text)? > 0 {
            if let Some(data) = text.trim_end().strip_prefix("data: ") {
                return Ok(Some(data.to_owned()));
            }
            text.clear();
        }
        Ok(None)
    }

    /// Reads a streamed answer to its end, wherever that is.
    pub fn streamed(mut self) -> Streamed {
        let mut streamed = Streamed::default();
        let mut done = false;
        loop {
            match self.event() {
                Ok(Some(data)) if data == "[DONE]" => done = true,
                Ok(Some(data)) => streamed.add(&serde_json::from_str(&data).unwrap()),
                Ok(None) => {
                    streamed.complete = done;
                    return streamed;
                }
                // The process was ended in the middle: what came before counts.
                Err(_) => return streamed,
            }
        }
    }
}

impl Streamed {
    fn add(&mut self, event: &serde_json::Value) {
        if let Some(code) = event["error"]["code"].as_str() {
            self.error = Some(code.to_owned());
        }
        let choice = &event["choices"][0];
        let text = choice["text"].as_str();
        let text = text.or_else(|| choice["delta"]["content"].as_str());
        self.text.push_str(text.unwrap_or_default());
        if let Some(finish) = choice["finish_reason"].as_str() {
            self.finish = Some(finish.to_owned());
        }
    }
}

impl Read for Body {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if let Framing::Chunks(None) = self.framing {
            let size = line(&mut self.reader)?;
            let size = usize::from_str_radix(&size, 16).map_err(|_| broken("no chunk size"))?;
            self.framing = Framing::Chunks(Some(size));
            if size == 0 {
                line(&mut self.reader)?;
                self.framing = Framing::Ended;
            }
        }
        let left = match self.framing {
            Framing::Chunks(left) => left.unwrap_or_default(),
            Framing::Length(left) => left,
            Framing::Ended => 0,
        };
        if left == 0 || into.is_empty() {
            return Ok(0);
        }
        let most = left.min(into.len());
        let got = self.reader.read(&mut into[..most])?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match &mut self.framing {
            Framing::Chunks(Some(left)) if *left == got => {
                self.framing = Framing::Chunks(None);
                line(&mut self.reader)?;
            }
            Framing::Chunks(Some(left)) | Framing::Length(left) => *left -= got,
            Framing::Chunks(None) | Framing::Ended => {}
        }
        Ok(got)
    }
}

/// A line without its end.
fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
