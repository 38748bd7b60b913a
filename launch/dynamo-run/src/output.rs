//! The only places that write to standard output and standard error by hand.

use std::io::{self, Write};

/// Writes data. A reader that went away is not our trouble.
pub(crate) fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    if stdout.write_all(text.as_bytes()).is_ok() {
        drop(stdout.flush());
    }
}

/// Writes one line of data.
pub(crate) fn print_line(line: &str) {
    print(&format!("{line}\n"));
}

/// Tells the user something that is no data.
pub(crate) fn complain(line: &str) {
    drop(writeln!(io::stderr().lock(), "{line}"));
}

/// Tells the user something as it is, such as what moves the cursor of a terminal.
pub(crate) fn tell(text: &str) {
    drop(io::stderr().lock().write_all(text.as_bytes()));
}
