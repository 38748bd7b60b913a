//! Configuration files: YAML or TOML text becomes a tree of texts with their lines.
//!
//! Scalars keep the text they were written as (`1.10` stays `1.10`): the option they belong to
//! knows its type, the file does not. This crate reads no files; the caller hands it the text.

mod toml;
mod yaml;

use crate::value::RawValue;
use std::fmt;

/// Deepest nesting of a file: a table of groups of lists needs three.
const MAX_DEPTH: usize = 16;

/// The form of a configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// YAML 1.2, one document, without anchors and tags.
    Yaml,
    /// TOML 1.
    Toml,
}

impl Format {
    /// The format that a file's name tells: `.yaml`, `.yml` or `.toml`.
    pub fn from_name(name: &str) -> Option<Self> {
        let (_, extension) = name.rsplit_once('.')?;
        match extension.to_ascii_lowercase().as_str() {
            "yaml" | "yml" => Some(Self::Yaml),
            "toml" => Some(Self::Toml),
            _ => None,
        }
    }
}

/// The text of a configuration file.
#[derive(Clone)]
pub struct ConfigFile {
    /// The name that messages use: the path as the user gave it.
    pub name: String,
    /// The whole text.
    pub text: String,
    /// The form of the text.
    pub format: Format,
}

impl fmt::Debug for ConfigFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The text may hold secrets.
        f.debug_struct("ConfigFile")
            .field("name", &self.name)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

impl ConfigFile {
    /// A file by the name that messages are to use.
    pub fn new(name: impl Into<String>, text: impl Into<String>, format: Format) -> Self {
        Self {
            name: name.into(),
            text: text.into(),
            format,
        }
    }

    /// The file's entries, in the order of their lines.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>, SyntaxError> {
        match self.format {
            Format::Yaml => yaml::parse(&self.text),
            Format::Toml => toml::parse(&self.text),
        }
    }
}

/// Why a file could not be read at all. Neither message nor type carries text of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) line: usize,
    pub(crate) message: String,
}

impl SyntaxError {
    fn new(line: usize, message: impl Into<String>) -> Self {
        Self {
            line,
            message: message.into(),
        }
    }
}

/// A key with what stands below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The key, in snake case.
    pub(crate) key: String,
    /// Line of the key, from 1.
    pub(crate) line: usize,
    /// What stands below it.
    pub(crate) content: Content,
}

impl Entry {
    fn new(key: &str, line: usize, content: Content) -> Self {
        Self {
            key: key.replace('-', "_"),
            line,
            content,
        }
    }
}

/// What stands below a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// A text, a list of texts, or nothing.
    Value(RawValue),
    /// Keys of their own.
    Table(Vec<Entry>),
    /// A list that holds more than texts.
    Nested,
}

impl Content {
    /// A list of what its items are.
    fn list(items: Vec<Self>) -> Self {
        let texts: Option<Vec<String>> = items
            .into_iter()
            .map(|item| match item {
                Self::Value(RawValue::One(text)) => Some(text),
                Self::Value(_) | Self::Table(_) | Self::Nested => None,
            })
            .collect();
        texts.map_or(Self::Nested, |texts| Self::Value(RawValue::Many(texts)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entries(format: Format, text: &str) -> Vec<Entry> {
        ConfigFile::new("f", text, format).entries().unwrap()
    }

    fn one(text: &str) -> Content {
        Content::Value(RawValue::One(text.to_owned()))
    }

    fn many(texts: &[&str]) -> Content {
        let texts = texts.iter().map(|text| (*text).to_owned()).collect();
        Content::Value(RawValue::Many(texts))
    }

    #[test]
    fn the_name_tells_the_format() {
        assert_eq!(Format::from_name("a/serve.yaml"), Some(Format::Yaml));
        assert_eq!(Format::from_name("serve.YML"), Some(Format::Yaml));
        assert_eq!(Format::from_name("serve.toml"), Some(Format::Toml));
        assert_eq!(Format::from_name("serve.json"), None);
        assert_eq!(Format::from_name("yaml"), None);
    }

    #[test]
    fn yaml_and_toml_read_alike_and_keep_texts_and_lines() {
        let expected = vec![
            Entry::new("port", 1, one("8000")),
            Entry::new("version", 2, one("1.10")),
            Entry::new("events", 3, one("true")),
            Entry::new("models", 4, many(&["a", "b"])),
            Entry::new(
                "frontend",
                5,
                Content::Table(vec![Entry::new("http_host", 6, one("::1"))]),
            ),
        ];
        let yaml = "port: 8000\nversion: 1.10\nevents: true\nmodels: [a, b]\nfrontend:\n  http-host: '::1'\n";
        let toml = "port = 8000\nversion = 1.10\nevents = true\nmodels = ['a', 'b']\n[frontend]\nhttp-host = '::1'\n";
        assert_eq!(entries(Format::Yaml, yaml), expected);
        assert_eq!(entries(Format::Toml, toml), expected);
    }

    #[test]
    fn a_file_never_shows_its_text() {
        let file = ConfigFile::new("f.yaml", "api_key: hunter2", Format::Yaml);
        assert!(!format!("{file:?}").contains("hunter2"));
        for (format, text) in [
            (Format::Yaml, "api_key: \"hunter2\n"),
            (Format::Yaml, "api_key: {hunter2\n"),
            (Format::Toml, "api_key = hunter2\n"),
            (Format::Toml, "api_key = \"hunter2\n"),
        ] {
            let error = ConfigFile::new("f", text, format).entries().unwrap_err();
            assert!(!error.message.contains("hunter2"), "{error:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_entries_or_an_error(text in "[-a-c0:=\\[\\]{}'\"&*!|>#%,. \n\u{e9}]{0,60}") {
            for format in [Format::Yaml, Format::Toml] {
                let lines = text.split('\n').count();
                match ConfigFile::new("f", text.as_str(), format).entries() {
                    Ok(entries) => prop_assert!(entries.iter().all(|e| e.line <= lines)),
                    Err(error) => prop_assert!(!error.message.is_empty()),
                }
            }
        }
    }
}
