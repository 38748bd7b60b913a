//! What a person sees while a graph runs: lines that go by, and below them, in a terminal, a
//! table that stays.

/// Who writes what people see.
pub trait Output {
    /// Writes a line of data: what the graph serves.
    fn data(&self, line: &str);

    /// Writes text for people, as it is.
    fn say(&self, text: &str);
}

/// Lines with a table below.
pub struct Screen<'a> {
    output: &'a dyn Output,
    is_terminal: bool,
    width: usize,
    /// The table that stands there.
    drawn: Vec<String>,
}

impl std::fmt::Debug for Screen<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen")
            .field("drawn", &self.drawn.len())
            .finish_non_exhaustive()
    }
}

impl<'a> Screen<'a> {
    /// A screen without a table yet.
    pub fn new(output: &'a dyn Output, is_terminal: bool) -> Self {
        Self {
            output,
            is_terminal,
            width: terminal_width(),
            drawn: Vec::new(),
        }
    }

    /// Writes a line of data, which may go to the same terminal: the table makes room.
    pub fn data(&mut self, line: &str) {
        let room = self.without_table();
        if !room.is_empty() {
            self.output.say(&room);
        }
        self.output.data(line);
    }

    /// What takes the table away: up to its first line, and all below.
    fn without_table(&mut self) -> String {
        match std::mem::take(&mut self.drawn).len() {
            0 => String::new(),
            lines => format!("\x1b[{lines}F\x1b[J"),
        }
    }

    /// Writes lines, and the table below them.
    pub fn show(&mut self, lines: &[String], table: &[String]) {
        // What has not changed is not drawn anew: it would flicker.
        if lines.is_empty() && (!self.is_terminal || self.drawn == table) {
            return;
        }
        let mut text = self.without_table();
        for line in lines {
            text += line;
            text.push('\n');
        }
        if self.is_terminal {
            for line in table {
                // A line that wraps would be two, and the next table in the wrong place.
                text.extend(line.chars().take(self.width));
                text.push('\n');
            }
            self.drawn = table.to_vec();
        }
        self.output.say(&text);
    }
}

/// Columns of the terminal that standard error is; plenty if it is none.
fn terminal_width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr());
    let columns = size.map_or(0, |size| usize::from(size.ws_col));
    if columns == 0 { 200 } else { columns }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[derive(Default)]
    struct Paper(RefCell<String>);

    impl Output for Paper {
        fn data(&self, line: &str) {
            self.0.borrow_mut().push_str(&format!("{line}\n"));
        }

        fn say(&self, text: &str) {
            self.0.borrow_mut().push_str(text);
        }
    }

    #[test]
    fn the_table_is_drawn_anew_below_each_line_and_not_at_all_without_a_terminal() {
        let texts =
            |words: &[&str]| -> Vec<String> { words.iter().map(|it| (*it).to_owned()).collect() };
        let paper = Paper::default();
        let mut screen = Screen::new(&paper, true);
        screen.show(&texts(&["a"]), &texts(&["T1", "T2"]));
        screen.show(&[], &texts(&["T1", "T2"]));
        screen.show(&texts(&["b"]), &texts(&["T"]));
        screen.data("d");
        assert_eq!(
            *paper.0.borrow(),
            "a\nT1\nT2\n\x1b[2F\x1b[Jb\nT\n\x1b[1F\x1b[Jd\n"
        );

        let paper = Paper::default();
        let mut screen = Screen::new(&paper, false);
        screen.show(&texts(&["a"]), &texts(&["T"]));
        screen.show(&[], &texts(&["T"]));
        assert_eq!(*paper.0.borrow(), "a\n");
    }
}
