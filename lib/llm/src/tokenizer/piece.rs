//! A token's bytes from its vocabulary entry.
//!
//! A vocabulary writes bytes in one of a few ways: the byte-level alphabet of GPT-2, sentencepiece
//! (`▁` for a space, `<0x0A>` for a byte), or word pieces. Which one, the file's decoder tells. Only
//! decoders are taken that work token by token, apart from one rule for the beginning of the text.

use dynamo_protocols::tokenizer::TokenizerError;
use tokenizers::decoders::DecoderRuntime;
use tokenizers::utils::byte_level::char_to_byte;
use tokenizers::utils::search::ReplacePattern;

/// How vocabulary entries become bytes.
#[derive(Debug, Default)]
pub(super) struct PieceForm {
    /// Entries are in the byte-level alphabet.
    pub(super) byte_level: bool,
    /// `<0x0A>` stands for a byte.
    byte_fallback: bool,
    /// Replaced in every entry.
    replacements: Vec<(String, String)>,
    /// Entries without this prefix begin a word and get a space before them.
    continuing_prefix: Option<String>,
    /// Spaces that the first text of a sequence loses, at most.
    pub(super) leading_spaces: usize,
}

impl PieceForm {
    /// What a file's decoder does to entries.
    pub(super) fn of(decoder: Option<&DecoderRuntime>) -> Result<Self, TokenizerError> {
        let mut form = Self::default();
        match decoder {
            Some(decoder) => form.add(decoder)?,
            // Without a decoder, entries are words.
            None => {
                form.continuing_prefix = Some(String::new());
                form.leading_spaces = 1;
            }
        }
        Ok(form)
    }

    fn add(&mut self, decoder: &DecoderRuntime) -> Result<(), TokenizerError> {
        let unsupported = |what: &str| {
            Err(TokenizerError::Load(format!(
                "the decoder {what} cannot decode token by token"
            )))
        };
        match decoder {
            DecoderRuntime::ByteLevel(_) => self.byte_level = true,
            DecoderRuntime::ByteFallback(_) => self.byte_fallback = true,
            DecoderRuntime::Fuse(_) => {}
            DecoderRuntime::Metaspace(metaspace) => {
                self.replacements
                    .push((metaspace.get_replacement().to_string(), " ".to_owned()));
                let scheme = metaspace.prepend_scheme;
                if scheme != tokenizers::decoders::metaspace::PrependScheme::Never {
                    self.leading_spaces = usize::MAX;
                }
            }
            DecoderRuntime::Replace(replace) => match replace.pattern() {
                ReplacePattern::String(pattern) => {
                    self.replacements
                        .push((pattern.clone(), replace.content().to_owned()));
                }
                ReplacePattern::Regex(_) => return unsupported("Replace with a pattern"),
            },
            DecoderRuntime::Strip(strip) => {
                if strip.content != ' ' || strip.stop != 0 {
                    return unsupported("Strip of anything but leading spaces");
                }
                self.leading_spaces = strip.start;
            }
            DecoderRuntime::WordPiece(pieces) => {
                self.continuing_prefix = Some(pieces.prefix.clone());
                self.leading_spaces = 1;
            }
            DecoderRuntime::Sequence(members) => {
                for member in members {
                    self.add(member)?;
                }
            }
            DecoderRuntime::BPE(_) => return unsupported("BPEDecoder"),
            DecoderRuntime::CTC(_) => return unsupported("CTC"),
        }
        Ok(())
    }

    /// The bytes of a vocabulary entry.
    pub(super) fn bytes(&self, entry: &str) -> Vec<u8> {
        if self.byte_level {
            let bytes: Option<Vec<u8>> = entry.chars().map(char_to_byte).collect();
            return bytes.unwrap_or_else(|| entry.into());
        }
        if self.byte_fallback
            && let Some(byte) = written_byte(entry)
        {
            return vec![byte];
        }
        let mut text = entry.to_owned();
        if let Some(prefix) = &self.continuing_prefix {
            text = match entry.strip_prefix(prefix.as_str()) {
                Some(rest) if !prefix.is_empty() => rest.to_owned(),
                _ => format!(" {entry}"),
            };
        }
        for (from, to) in &self.replacements {
            if text.contains(from.as_str()) {
                text = text.replace(from.as_str(), to);
            }
        }
        text.into_bytes()
    }

    /// How many bytes the first token of a sequence loses.
    pub(super) fn dropped_from_first(&self, bytes: &[u8]) -> usize {
        bytes
            .iter()
            .take(self.leading_spaces)
            .take_while(|&&byte| byte == b' ')
            .count()
    }
}

/// The byte that an entry such as `<0x0A>` writes out.
fn written_byte(entry: &str) -> Option<u8> {
    let digits = entry.strip_prefix("<0x")?.strip_suffix('>')?;
    let written = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    written
        .then(|| u8::from_str_radix(digits, 16).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::decoders::byte_fallback::ByteFallback;
    use tokenizers::decoders::byte_level::ByteLevelDecoder;
    use tokenizers::decoders::metaspace::MetaspaceDecoder;
    use tokenizers::decoders::replace::ReplaceDecoder;
    use tokenizers::decoders::strip::Strip;
    use tokenizers::decoders::wordpiece::WordPiece;

    fn form(members: Vec<DecoderRuntime>) -> PieceForm {
        PieceForm::of(Some(&DecoderRuntime::Sequence(members))).unwrap()
    }

    #[test]
    fn byte_level_entries_are_bytes_and_foreign_ones_are_text() {
        let form = form(vec![DecoderRuntime::ByteLevel(ByteLevelDecoder::new())]);
        assert_eq!(form.bytes("Ġhi"), b" hi");
        assert_eq!(form.bytes("ðŁ"), [0xf0, 0x9f]);
        assert_eq!(form.bytes("<｜end｜>"), "<｜end｜>".as_bytes());
        assert_eq!(form.dropped_from_first(b" hi"), 0);
    }

    #[test]
    fn sentencepiece_entries_write_spaces_and_bytes() {
        let form = form(vec![
            DecoderRuntime::Replace(ReplaceDecoder::new("▁".to_owned(), " ").unwrap()),
            DecoderRuntime::ByteFallback(ByteFallback::new()),
            DecoderRuntime::Strip(Strip::new(' ', 1, 0)),
        ]);
        assert_eq!(form.bytes("▁hi▁you"), b" hi you");
        assert_eq!(form.bytes("<0xE2>"), [0xe2]);
        assert_eq!(form.bytes("<0xE2"), b"<0xE2");
        assert_eq!(form.bytes("<0x+2>"), b"<0x+2>");
        assert_eq!(form.dropped_from_first(b"  hi"), 1);
    }

    #[test]
    fn metaspace_loses_every_leading_space() {
        let form = form(vec![DecoderRuntime::Metaspace(MetaspaceDecoder::default())]);
        assert_eq!(form.bytes("▁▁hi"), b"  hi");
        assert_eq!(form.dropped_from_first(b"  hi"), 2);
    }

    #[test]
    fn word_pieces_are_parted_by_spaces() {
        let form = form(vec![DecoderRuntime::WordPiece(WordPiece::default())]);
        assert_eq!(form.bytes("play"), b" play");
        assert_eq!(form.bytes("##ing"), b"ing");
    }
}
