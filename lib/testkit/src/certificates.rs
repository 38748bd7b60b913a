//! Certificates of a test's own, made by openssl.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Certificates that a server and its clients trust, made by the test.
#[derive(Debug)]
pub struct Certificates {
    folder: tempfile::TempDir,
}

// === impl Certificates ===

impl Certificates {
    /// An authority, a server's certificate for this machine, a client's.
    pub fn make() -> Self {
        let certificates = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        certificates.authority("ca");
        certificates.signed("server", "subjectAltName=IP:127.0.0.1,DNS:localhost");
        certificates.signed("client", "extendedKeyUsage=clientAuth");
        certificates
    }

    /// Another authority, which signed nothing here.
    pub fn authority(&self, name: &str) {
        self.openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
             -subj /CN={name} -keyout {name}.key -out {name}.pem"
        ));
    }

    /// A file of them, such as `server.pem`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn signed(&self, name: &str, extension: &str) {
        let extensions = format!("basicConstraints=CA:FALSE\n{extension}\n");
        fs::write(self.path("extensions"), extensions).unwrap();
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={name} \
             -keyout {name}.key -out {name}.csr"
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
             -extfile extensions -out {name}.pem"
        ));
    }

    fn openssl(&self, words: &str) {
        let output = run_in(self.folder.path(), "openssl", words);
        assert!(
            output.status.success(),
            "{words}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

fn run_in(folder: &Path, program: &str, words: &str) -> std::process::Output {
    Command::new(program)
        .args(words.split_whitespace())
        .current_dir(folder)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; apt-get install {program}"))
}
