//! Text of roughly so many tokens for any tokenizer: common English words, each of which is one
//! token with the space before it in every vocabulary of size. What a prompt really came to is
//! what the server says.

use crate::random::{Stream, bits};

/// The words. A power of two, so that a byte of random bits picks one.
#[rustfmt::skip]
const WORDS: [&str; 256] = [
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world",
    "school", "state", "family", "student", "group", "country", "problem", "hand", "part",
    "place", "case", "week", "company", "system", "program", "question", "work", "government",
    "number", "night", "point", "home", "water", "room", "mother", "area", "money", "story",
    "fact", "month", "lot", "right", "study", "book", "eye", "job", "word", "business", "issue",
    "side", "kind", "head", "house", "service", "friend", "father", "power", "hour", "game",
    "line", "end", "member", "law", "car", "city", "community", "name", "president", "team",
    "minute", "idea", "body", "information", "back", "parent", "face", "others", "level",
    "office", "door", "health", "person", "art", "history", "party", "result", "change",
    "morning", "reason", "research", "girl", "guy", "moment", "air", "teacher", "force",
    "education", "foot", "boy", "age", "policy", "music", "market", "sense", "nation", "plan",
    "college", "interest", "experience", "effect", "use", "class", "control", "field",
    "development", "role", "effort", "rate", "heart", "show", "leader", "light", "voice", "wife",
    "police", "mind", "price", "report", "decision", "son", "view", "relationship", "town",
    "road", "arm", "difference", "value", "building", "action", "season", "society", "tax",
    "director", "position", "player", "record", "paper", "space", "ground", "form", "event",
    "official", "matter", "center", "couple", "site", "project", "activity", "star", "table",
    "need", "court", "oil", "situation", "cost", "industry", "figure", "street", "image", "phone",
    "data", "picture", "practice", "piece", "land", "product", "doctor", "wall", "patient",
    "worker", "news", "test", "movie", "north", "love", "support", "technology", "step", "baby",
    "computer", "type", "attention", "film", "tree", "source", "hair", "window", "culture",
    "chance", "brother", "energy", "period", "course", "summer", "plant", "opportunity", "term",
    "letter", "condition", "choice", "rule", "south", "husband", "floor", "campaign", "material",
    "population", "call", "economy", "hospital", "church", "risk", "fire", "future", "bank",
    "act", "sport", "board", "subject", "officer", "rest", "behavior", "performance", "fight",
    "top", "goal", "bed", "order", "author", "agency", "nature", "color", "store", "sound",
    "movement", "page", "race", "concern", "series", "language", "response", "animal", "factor",
    "decade", "article",
];

/// Appends `count` words, each with a space before it. The first of them do not depend on
/// `count`: a shorter text is the start of a longer one.
pub fn write_words(text: &mut String, seed: u64, stream: Stream, major: u64, count: u64) {
    let mut left = count;
    let mut minor = 0;
    while left > 0 {
        let drawn = bits(seed, stream, major, minor).to_le_bytes();
        for index in drawn.iter().take(left.min(8) as usize) {
            text.push(' ');
            text.push_str(WORDS[usize::from(*index)]);
        }
        left = left.saturating_sub(8);
        minor += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(seed: u64, major: u64, count: u64) -> String {
        let mut text = String::new();
        write_words(&mut text, seed, Stream::Words, major, count);
        text
    }

    #[test]
    fn the_words_differ_and_need_no_escapes() {
        let mut sorted = WORDS.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), WORDS.len());
        let is_plain = |word: &&str| word.bytes().all(|byte| byte.is_ascii_lowercase());
        assert!(WORDS.iter().all(is_plain));
    }

    proptest! {
        #[test]
        fn a_shorter_text_is_the_start_of_a_longer_one(seed: u64, major: u64, count in 0..300_u64, more in 0..300_u64) {
            let (short, long) = (words(seed, major, count), words(seed, major, count + more));
            prop_assert!(long.starts_with(&short));
            prop_assert_eq!(short.split_whitespace().count() as u64, count);
        }

        #[test]
        fn texts_of_different_numbers_part_within_the_first_words(seed: u64, major in 0..1_u64 << 40) {
            prop_assert_ne!(words(seed, major, 16), words(seed, major + 1, 16));
        }
    }
}
