//! Grammars in GBNF, the form of llama.cpp and of most servers' examples, rewritten in Lark's.
//!
//! A literal becomes one terminal per character: the matcher's lexer takes the longest terminal
//! that it can, and `"a" "bc" | "ab" "d"` would lose the text `abc` to that.
//!
//! What it does not do: check that rules are there or used; the compiler of Lark's form does.

use std::fmt::Write;
use std::iter::Peekable;
use std::str::CharIndices;

/// Deepest nesting of groups; the compiler allows about as many.
const MAX_DEPTH: usize = 64;

/// Whether a grammar is in this form: Lark has no such sign, except in a quoted text.
pub(super) fn is_gbnf(text: &str) -> bool {
    text.lines().any(|line| {
        let name = line.split("::=").next().unwrap_or_default().trim();
        line.contains("::=") && !name.is_empty() && name.chars().all(is_name)
    })
}

/// The same grammar in Lark's form.
pub(super) fn to_lark(text: &str) -> Result<String, String> {
    let mut translator = Translator {
        text,
        rest: text.char_indices().peekable(),
        lark: String::with_capacity(text.len() * 2),
    };
    translator.grammar()?;
    Ok(translator.lark)
}

struct Translator<'a> {
    text: &'a str,
    rest: Peekable<CharIndices<'a>>,
    lark: String,
}

fn is_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '-' || character == '_'
}

/// A rule's name in Lark, where names are in lower case and `start` is the first rule. Each
/// character that is not a small letter or a digit is written out, so that names stay different.
fn rule_name(name: &str) -> String {
    if name == "root" {
        return "start".to_owned();
    }
    let mut lark = "r_".to_owned();
    for character in name.chars() {
        match character {
            'a'..='z' | '0'..='9' => lark.push(character),
            '-' => lark.push_str("_h"),
            '_' => lark.push_str("_u"),
            other => {
                lark.push_str("_c");
                lark.push(other.to_ascii_lowercase());
            }
        }
    }
    lark
}

impl Translator<'_> {
    fn grammar(&mut self) -> Result<(), String> {
        loop {
            self.skip(true);
            let Some(&(at, first)) = self.rest.peek() else {
                return Ok(());
            };
            if !is_name(first) {
                return Err(self.wrong(at, "a rule's name"));
            }
            let name = self.name();
            self.lark.push_str(&rule_name(&name));
            self.lark.push_str(": ");
            self.skip(true);
            for expected in "::=".chars() {
                self.expect(expected)?;
            }
            self.skip(true);
            self.alternatives(0)?;
            self.lark.push('\n');
        }
    }

    /// Alternatives up to the end of the rule or group.
    fn alternatives(&mut self, depth: usize) -> Result<(), String> {
        loop {
            self.sequence(depth)?;
            // An alternative may go on in the next line.
            let before = self.rest.clone();
            self.skip(true);
            if self.rest.next_if(|(_, next)| *next == '|').is_none() {
                if depth == 0 {
                    self.rest = before;
                }
                return Ok(());
            }
            self.skip(true);
            self.lark.push_str(" | ");
        }
    }

    fn sequence(&mut self, depth: usize) -> Result<(), String> {
        let mut items = 0;
        loop {
            // Within a group, lines may break anywhere.
            self.skip(depth > 0);
            match self.rest.peek().copied() {
                None | Some((_, '\n' | '\r' | '|' | ')')) => break,
                Some((at, next)) => self.item(at, next, depth)?,
            }
            items += 1;
            self.repetition()?;
            self.lark.push(' ');
        }
        if items == 0 {
            self.lark.push_str("\"\"");
        }
        Ok(())
    }

    fn item(&mut self, at: usize, first: char, depth: usize) -> Result<(), String> {
        match first {
            '"' => self.literal(at),
            '[' => self.class(at),
            '.' => {
                self.rest.next();
                self.lark.push_str("/(?s:.)/");
                Ok(())
            }
            '(' if depth >= MAX_DEPTH => Err(self.wrong(at, "fewer groups in groups")),
            '(' => {
                self.rest.next();
                self.lark.push('(');
                self.alternatives(depth + 1)?;
                self.skip(true);
                self.expect(')')?;
                self.lark.push(')');
                Ok(())
            }
            next if is_name(next) => {
                let name = self.name();
                self.lark.push_str(&rule_name(&name));
                Ok(())
            }
            _ => Err(self.wrong(at, "a text, a class, a group or a rule's name")),
        }
    }

    fn literal(&mut self, at: usize) -> Result<(), String> {
        self.rest.next();
        self.lark.push('(');
        let mut is_empty = true;
        loop {
            match self.rest.next() {
                Some((_, '"')) => break,
                Some((_, '\n')) | None => return Err(self.wrong(at, "a closing quote")),
                Some((_, '\\')) => {
                    let character = self.escape()?;
                    self.terminal(character, &mut is_empty);
                }
                Some((_, character)) => self.terminal(character, &mut is_empty),
            }
        }
        self.lark.push_str(if is_empty { "\"\")" } else { ")" });
        Ok(())
    }

    fn terminal(&mut self, character: char, is_empty: &mut bool) {
        if !std::mem::take(is_empty) {
            self.lark.push(' ');
        }
        // Writing to a string does not fail.
        let _ = match character {
            '"' | '\\' => write!(self.lark, "\"\\{character}\""),
            ' '..='~' => write!(self.lark, "\"{character}\""),
            other => write!(self.lark, "/\\x{{{:x}}}/", u32::from(other)),
        };
    }

    fn class(&mut self, at: usize) -> Result<(), String> {
        self.rest.next();
        self.lark.push_str("/[");
        if self.rest.next_if(|(_, next)| *next == '^').is_some() {
            self.lark.push('^');
        }
        let mut is_empty = true;
        loop {
            let character = match self.rest.next() {
                Some((_, ']')) => break,
                Some((_, '\n')) | None => return Err(self.wrong(at, "a closing bracket")),
                Some((_, '\\')) => self.escape()?,
                Some((_, '-')) if !is_empty && self.rest.peek().is_some_and(|it| it.1 != ']') => {
                    self.lark.push('-');
                    continue;
                }
                Some((_, character)) => character,
            };
            is_empty = false;
            let _ = write!(self.lark, "\\x{{{:x}}}", u32::from(character));
        }
        if is_empty {
            return Err(self.wrong(at, "a character in the class"));
        }
        self.lark.push_str("]/");
        Ok(())
    }

    /// The character behind a backslash.
    fn escape(&mut self) -> Result<char, String> {
        let Some((at, kind)) = self.rest.next() else {
            return Err(self.wrong(self.text.len(), "a character behind the backslash"));
        };
        let digits = match kind {
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            't' => return Ok('\t'),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            '"' | '\\' | '[' | ']' | '^' | '-' | '/' | '\'' => return Ok(kind),
            _ => return Err(self.wrong(at, "a known escape")),
        };
        let mut code = 0_u32;
        for _ in 0..digits {
            let digit = self.rest.next().and_then(|(_, digit)| digit.to_digit(16));
            let digit = digit.ok_or_else(|| self.wrong(at, "hexadecimal digits"))?;
            code = code << 4 | digit;
        }
        char::from_u32(code).ok_or_else(|| self.wrong(at, "the code of a character"))
    }

    fn repetition(&mut self) -> Result<(), String> {
        match self.rest.peek().copied() {
            Some((_, sign @ ('*' | '+' | '?'))) => {
                self.rest.next();
                self.lark.push(sign);
            }
            Some((at, '{')) => {
                let mut count = String::new();
                for (_, next) in self.rest.by_ref() {
                    count.push(next);
                    if next == '}' || count.len() > 32 {
                        break;
                    }
                }
                let inner = count.trim_start_matches('{').trim_end_matches('}');
                let is_count = |part: &str| part.trim().parse::<u16>().is_ok();
                let fits = match inner.split_once(',') {
                    None => is_count(inner),
                    Some((least, most)) => {
                        is_count(least) && (most.trim().is_empty() || is_count(most))
                    }
                };
                if !fits || !count.ends_with('}') {
                    return Err(self.wrong(at, "a count below 65536, as in {2} or {2,5}"));
                }
                let compact: String = count.split_whitespace().collect();
                self.lark.push_str(&compact);
            }
            _ => {}
        }
        Ok(())
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some((_, next)) = self.rest.next_if(|(_, next)| is_name(*next)) {
            name.push(next);
        }
        name
    }

    /// Skips white space and comments, over the ends of lines if asked to.
    fn skip(&mut self, lines: bool) {
        while let Some(&(_, next)) = self.rest.peek() {
            match next {
                ' ' | '\t' => {}
                '\n' | '\r' if lines => {}
                '#' => {
                    while self.rest.next_if(|(_, next)| *next != '\n').is_some() {}
                    continue;
                }
                _ => return,
            }
            self.rest.next();
        }
    }

    fn expect(&mut self, expected: char) -> Result<(), String> {
        match self.rest.next() {
            Some((_, next)) if next == expected => Ok(()),
            Some((at, _)) => Err(self.wrong(at, &format!("`{expected}`"))),
            None => Err(self.wrong(self.text.len(), &format!("`{expected}`"))),
        }
    }

    fn wrong(&self, at: usize, expected: &str) -> String {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.lines().count().max(1);
        let line = line + usize::from(before.ends_with('\n'));
        let column = before
            .rsplit('\n')
            .next()
            .unwrap_or_default()
            .chars()
            .count()
            + 1;
        format!("expected {expected} at line {line} column {column}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_rewritten_in_larks_form() {
        let gbnf = "# a comment\nroot ::= \"ab\" item-list? # more\n  | [a-z\\]^]{2, 3}\n\
                    item-list ::= (item\n \",\")* item\nitem::=[^\\n]+ | .\n";
        let lark = "start: (\"a\" \"b\") r_item_hlist?  | /[\\x{61}-\\x{7a}\\x{5d}\\x{5e}]/{2,3} \n\
                    r_item_hlist: (r_item (\",\") )* r_item \n\
                    r_item: /[^\\x{a}]/+  | /(?s:.)/ \n";
        assert_eq!(to_lark(gbnf).unwrap(), lark);
    }

    #[test]
    fn mistakes_say_where_they_are() {
        let rows = [
            ("root ::= \"a", "a closing quote at line 1 column 10"),
            ("root ::= \"a\"\nb = 1", "expected `:` at line 2 column 3"),
            ("root ::= (\"a\"", "expected `)` at line 1 column 14"),
            ("root ::= [a", "a closing bracket"),
            ("root ::= a{x}", "a count"),
            ("root ::= \"\\q\"", "a known escape"),
            ("root ::= \"\\ud800\"", "the code of a character"),
            ("root ::= *", "a text, a class"),
        ];
        for (gbnf, expected) in rows {
            let error = to_lark(gbnf).unwrap_err();
            assert!(error.contains(expected), "{gbnf}: {error}");
        }
        let deep = format!("root ::= {}\"a\"{}", "(".repeat(100), ")".repeat(100));
        assert!(to_lark(&deep).unwrap_err().contains("fewer groups"));
    }

    #[test]
    fn the_form_is_told_by_its_rules() {
        assert!(is_gbnf("root ::= \"a\""));
        assert!(is_gbnf("# c\n root::=\"a\""));
        assert!(!is_gbnf("start: \"::=\""));
        assert!(!is_gbnf("start: \"a\""));
    }
}
