//! Text forms of the standard scalars: booleans, numbers, texts and paths.

use crate::value::{Kind, Scalar};
use std::num::{NonZeroU16, NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

impl Scalar for bool {
    const KIND: Kind = Kind::Bool;
    const FORM: &'static str = "true or false";
    const EXAMPLE: &'static str = "";

    fn parse(text: &str) -> Result<Self, Option<String>> {
        match text.trim().to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => Ok(true),
            "0" | "false" | "no" | "off" => Ok(false),
            _ => Err(None),
        }
    }

    fn print(&self) -> String {
        self.to_string()
    }
}

macro_rules! integers {
    ($($type:ty: $form:literal;)+) => {$(
        impl Scalar for $type {
            const KIND: Kind = Kind::Integer;
            const FORM: &'static str = $form;
            const EXAMPLE: &'static str = "8";

            fn parse(text: &str) -> Result<Self, Option<String>> {
                without_separators(text.trim()).parse().map_err(|_| None)
            }

            fn print(&self) -> String {
                self.to_string()
            }
        }
    )+};
}

integers! {
    u8: "an integer from 0 to 255";
    u16: "an integer from 0 to 65535";
    u32: "an integer from 0 to 4294967295";
    u64: "an integer of at least 0";
    usize: "an integer of at least 0";
    i32: "an integer from -2147483648 to 2147483647";
    i64: "an integer";
    NonZeroU16: "an integer from 1 to 65535";
    NonZeroU32: "an integer from 1 to 4294967295";
    NonZeroU64: "an integer of at least 1";
    NonZeroUsize: "an integer of at least 1";
}

/// Removes underscores between digits, as TOML allows them; any other underscore stays and makes
/// the text no number.
fn without_separators(text: &str) -> String {
    let bytes = text.as_bytes();
    let is_digit = |index: usize| bytes.get(index).is_some_and(u8::is_ascii_digit);
    text.char_indices()
        .filter(|&(index, char)| {
            let separates = char == '_' && index > 0 && is_digit(index - 1) && is_digit(index + 1);
            !separates
        })
        .map(|(_, char)| char)
        .collect()
}

macro_rules! numbers {
    ($($type:ty),+) => {$(
        impl Scalar for $type {
            const KIND: Kind = Kind::Number;
            const FORM: &'static str = "a finite number";
            const EXAMPLE: &'static str = "0.5";

            fn parse(text: &str) -> Result<Self, Option<String>> {
                without_separators(text.trim())
                    .parse()
                    .ok()
                    .filter(|number: &Self| number.is_finite())
                    .ok_or(None)
            }

            fn print(&self) -> String {
                // Debug keeps the fraction ("1.0"), so that it reads as a number with one.
                format!("{self:?}")
            }
        }
    )+};
}

numbers!(f32, f64);

impl Scalar for String {
    const KIND: Kind = Kind::Text;
    const FORM: &'static str = "a text";
    const EXAMPLE: &'static str = "name";

    fn parse(text: &str) -> Result<Self, Option<String>> {
        Ok(text.to_owned())
    }

    fn print(&self) -> String {
        self.clone()
    }
}

impl Scalar for PathBuf {
    const KIND: Kind = Kind::Path;
    const FORM: &'static str = "a path";
    const EXAMPLE: &'static str = "./models";

    fn parse(text: &str) -> Result<Self, Option<String>> {
        if text.is_empty() {
            return Err(Some("write . for the current folder".to_owned()));
        }
        Ok(Self::from(text))
    }

    fn print(&self) -> String {
        self.to_string_lossy().into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused<T: Scalar>(texts: &[&str]) {
        for text in texts {
            assert!(T::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn booleans_have_four_words_each_in_any_case() {
        for text in ["1", "true", "yes", "on", "TRUE", "Yes", " on "] {
            assert_eq!(bool::parse(text), Ok(true), "{text:?}");
        }
        for text in ["0", "false", "no", "off", "False", "OFF"] {
            assert_eq!(bool::parse(text), Ok(false), "{text:?}");
        }
        refused::<bool>(&["", "2", "y", "enabled", "none"]);
    }

    #[test]
    fn integers_stay_in_range_and_take_separators_between_digits() {
        assert_eq!(u16::parse("65535"), Ok(65535));
        assert_eq!(u32::parse("1_000_000"), Ok(1_000_000));
        assert_eq!(i64::parse(" -1 "), Ok(-1));
        assert_eq!(u64::parse("18446744073709551615"), Ok(u64::MAX));
        refused::<u16>(&[
            "", "65536", "-1", "1.0", "0x10", "1e3", "_1", "1_", "1__0", "8 0",
        ]);
        refused::<NonZeroU32>(&["0"]);
        assert_eq!(NonZeroU32::parse("1"), Ok(NonZeroU32::MIN));
    }

    #[test]
    fn numbers_are_finite_and_keep_their_fraction() {
        assert_eq!(f64::parse("0.75"), Ok(0.75));
        assert_eq!(f64::parse("-1e-3"), Ok(-0.001));
        assert_eq!(f64::parse("3"), Ok(3.0));
        assert_eq!(1.0_f32.print(), "1.0");
        assert_eq!(0.1_f32.print(), "0.1");
        refused::<f64>(&["", "nan", "inf", "1e999", "1,5"]);
    }

    #[test]
    fn texts_are_taken_as_they_are_and_paths_are_not_empty() {
        assert_eq!(String::parse(" a b "), Ok(" a b ".to_owned()));
        assert_eq!(String::parse(""), Ok(String::new()));
        assert_eq!(PathBuf::parse("a/b"), Ok(PathBuf::from("a/b")));
        refused::<PathBuf>(&[""]);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text: String, near in "[-+_.0-9a-zA-Z\u{e9} ]{0,12}") {
            for text in [text, near] {
                let _ = u16::parse(&text);
                let _ = f64::parse(&text);
                let _ = std::time::Duration::parse(&text);
                let _ = crate::ByteSize::parse(&text);
            }
        }

        #[test]
        fn printed_numbers_read_back(integer: i64, double in -1e300_f64..1e300, single in -1e30_f32..1e30) {
            prop_assert_eq!(i64::parse(&integer.print()), Ok(integer));
            prop_assert_eq!(f64::parse(&double.print()), Ok(double));
            prop_assert_eq!(f32::parse(&single.print()), Ok(single));
        }
    }
}
