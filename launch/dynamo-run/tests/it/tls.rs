//! Processes that speak TLS: with each other, with their clients, and with nobody who has no
//! certificate.

use crate::process::{Dynamo, Place, until};
use crate::workers::FRONTEND;
use dynamo_testkit::certificates::Certificates;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

const FLEET: &[&str] = &["mocker", "--num-workers", "2"];

/// Options for both sides of the request plane, and who may dial.
fn request_plane(certificates: &Certificates) -> Vec<String> {
    let files = [
        ("--tcp-tls-cert-path", "server.pem"),
        ("--tcp-tls-key-path", "server.key"),
        ("--tcp-tls-ca-cert-path", "ca.pem"),
        ("--tcp-tls-client-ca-cert-path", "ca.pem"),
        ("--tcp-tls-client-cert-path", "client.pem"),
        ("--tcp-tls-client-key-path", "client.key"),
    ];
    with_files(certificates, &files)
}

/// Options for the frontend's clients, who need a certificate too.
fn http(certificates: &Certificates) -> Vec<String> {
    let files = [
        ("--tls-cert-path", "server.pem"),
        ("--tls-key-path", "server.key"),
        ("--tls-client-ca-cert-path", "ca.pem"),
    ];
    with_files(certificates, &files)
}

fn with_files(certificates: &Certificates, files: &[(&str, &str)]) -> Vec<String> {
    let words = files.iter().flat_map(|(option, file)| {
        let path = certificates.path(file);
        [(*option).to_owned(), path.to_str().unwrap().to_owned()]
    });
    words.collect()
}

fn start(place: &Place, name: &str, command: &[&str], options: &[String]) -> Dynamo {
    let options = options.iter().map(String::as_str);
    let words: Vec<&str> = command.iter().copied().chain(options).collect();
    place.start(name, &words)
}

/// Asks over TLS with an independent client; what the server answered, or nothing.
fn ask(frontend: &Dynamo, certificates: &Certificates, identity: &[&str], request: &str) -> String {
    let address = frontend.address.strip_prefix("https://").unwrap();
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-verify_return_error", "-CAfile"])
        .arg(certificates.path("ca.pem"))
        .args(["-connect", address])
        .args(identity)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // One that is not let in ends before it has read this.
    client
        .stdin
        .as_mut()
        .unwrap()
        .write_all(request.as_bytes())
        .ok();
    let output = client.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn everybody_speaks_tls_and_shows_a_certificate() {
    let certificates = Certificates::make();
    let place = Place::new();
    let plane = request_plane(&certificates);
    let options = [plane.clone(), http(&certificates)].concat();
    let frontend = start(&place, "frontend", FRONTEND, &options);
    let _fleet = start(&place, "fleet", FLEET, &plane);
    let (certificate, key) = (
        certificates.path("client.pem"),
        certificates.path("client.key"),
    );
    let client = ["-cert", path(&certificate), "-key", path(&key)];
    let body = r#"{"model":"mock","prompt":"hello","max_tokens":3,"stream":true}"#;
    let request = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let listed = "GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    until("the model is listed", || {
        ask(&frontend, &certificates, &client, listed).contains("\"mock\"")
    });
    let answer = ask(&frontend, &certificates, &client, &request);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("data: [DONE]"), "{answer}");

    let nameless = ask(&frontend, &certificates, &[], listed);
    assert!(!nameless.contains("HTTP/1.1"), "{nameless}");
}

#[test]
fn who_does_not_speak_tls_is_told_what_to_start_with() {
    let certificates = Certificates::make();
    let place = Place::new();
    let _fleet = start(&place, "fleet", FLEET, &request_plane(&certificates));
    let short = ["--queue-timeout", "1s"];
    let frontend = place.start("frontend", &[FRONTEND, &short].concat());
    frontend.await_models(&["mock"]);
    let body = r#"{"model":"mock","prompt":"hello","max_tokens":3}"#;
    let answer = frontend.post("/v1/completions", body);
    assert_eq!(answer.status, 503);
    let said = answer.text();
    let expected = "start both with the same --request-plane and --tcp-tls options";
    assert!(said.contains(expected), "{said}");
}

#[test]
fn options_that_lack_their_other_half_are_refused_at_once() {
    let place = Place::new();
    let refused: &[(&[&str], &str)] = &[
        (&["--tls-cert-path", "/no/cert.pem"], "--tls-key-path"),
        (
            &["--tcp-tls-cert-path", "/no/cert.pem"],
            "--tcp-tls-key-path",
        ),
        (
            &[
                "--tls-cert-path",
                "/no/cert.pem",
                "--tls-key-path",
                "/no/key",
            ],
            "/no/cert.pem",
        ),
    ];
    for (words, said) in refused {
        let ended = place.run(&[FRONTEND, *words].concat());
        assert_eq!(ended.code, Some(1), "{words:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(said), "{words:?}: {}", ended.stderr);
    }
}
