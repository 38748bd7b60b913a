//! Servers that are not what they should be: they list a model like any other, and answer requests
//! with whatever bytes a test gives them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

/// Requests that are kept for the test to look at.
const KEPT: usize = 16;

/// What a server does with the connection of a request.
pub(crate) type Behaviour = fn(&mut TcpStream);

/// A server. Its threads end with the test's process.
pub(crate) struct Fake {
    pub(crate) address: String,
    /// Requests that it got.
    pub(crate) asked: Arc<AtomicUsize>,
    /// Heads and bodies of them.
    pub(crate) seen: Receiver<(String, Vec<u8>)>,
    /// Whether it lists its models.
    pub(crate) lists: Arc<AtomicBool>,
}

impl Fake {
    pub(crate) fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (sender, seen) = sync_channel(KEPT);
        let fake = Self {
            address: format!("http://{}", listener.local_addr().unwrap()),
            asked: Arc::default(),
            seen,
            lists: Arc::new(AtomicBool::new(true)),
        };
        let asked = Arc::clone(&fake.asked);
        let lists = Arc::clone(&fake.lists);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (asked, sender) = (Arc::clone(&asked), sender.clone());
                let lists = Arc::clone(&lists);
                thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let Some((head, body)) = read(&stream) else {
                        return;
                    };
                    if head.starts_with("GET /v1/models ") {
                        let list = match lists.load(Ordering::Relaxed) {
                            true => r#"{"object":"list","data":[{"id":"echo"}]}"#,
                            false => "<html>no models here</html>",
                        };
                        say(&mut stream, &json(200, list));
                        return;
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                    // A test that looks at them sends few.
                    drop(sender.try_send((head, body)));
                    behaviour(&mut stream);
                });
            }
        });
        fake
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

/// A whole answer.
pub(crate) fn json(status: u16, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The head of a stream of events, and its first two events.
pub(crate) const EVENTS: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
    transfer-encoding: chunked\r\n\r\n\
    39\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n\
    data: {\"x\"\r\n";

/// Writes; whoever asked may be gone.
pub(crate) fn say(stream: &mut TcpStream, text: &str) {
    drop(stream.write_all(text.as_bytes()));
}

/// Keeps the connection open until the other side closes it.
pub(crate) fn hold(stream: &mut TcpStream) {
    let mut buffer = [0; 64];
    while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
}

fn read(stream: &TcpStream) -> Option<(String, Vec<u8>)> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim_end().is_empty() {
            break;
        }
        head.push_str(&line);
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse().ok())?
    });
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some((head, body))
}
