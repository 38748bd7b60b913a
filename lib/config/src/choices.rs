//! Options that are one of a fixed set of words.

/// One word of a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The word.
    pub name: &'static str,
    /// Other words that mean the same.
    pub aliases: &'static [&'static str],
    /// What it does, as the lines of its doc comment.
    pub doc: &'static [&'static str],
}

/// Declares an enum whose variants are words of an option.
///
/// The text of a value is compared without regard to case, and `_` counts as `-`. Further words
/// for the same variant follow after `|`.
///
/// ```ignore
/// choices! {
///     /// How log lines look.
///     pub enum LogFormat {
///         /// For people.
///         Readable = "readable" | "pretty",
///         /// One JSON object per line.
///         Jsonl = "jsonl",
///     }
/// }
/// ```
#[macro_export]
macro_rules! choices {
    (
        $(#[doc = $doc:literal])+
        $visibility:vis enum $name:ident {
            $(
                $(#[doc = $variant_doc:literal])+
                $variant:ident = $word:literal $(| $alias:literal)*
            ),+ $(,)?
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        $visibility enum $name {
            $($(#[doc = $variant_doc])+ $variant,)+
        }

        impl $name {
            /// Every value, in the order of declaration.
            $visibility const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word that names the value.
            $visibility fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl $crate::Scalar for $name {
            const KIND: $crate::Kind = $crate::Kind::Choice;
            const FORM: &'static str =
                $crate::__joined!("one of ", $($word),+);
            const EXAMPLE: &'static str = "";

            fn parse(text: &str) -> ::std::result::Result<Self, ::std::option::Option<String>> {
                $crate::choice_index(text, <Self as $crate::Scalar>::choices())
                    .map(|index| Self::ALL[index])
            }

            fn print(&self) -> ::std::string::String {
                self.as_str().to_owned()
            }

            fn choices() -> &'static [$crate::Choice] {
                &[$($crate::Choice {
                    name: $word,
                    aliases: &[$($alias),*],
                    doc: &[$($variant_doc),+],
                }),+]
            }
        }
    };
}

/// The words of a choice as one text.
#[doc(hidden)]
#[macro_export]
macro_rules! __joined {
    ($start:literal, $first:literal $(, $rest:literal)*) => {
        concat!($start, $first $(, ", ", $rest)*)
    };
}

/// Which of `choices` a text names, or a hint on the one it may mean. Serves [`choices!`].
#[doc(hidden)]
pub fn choice_index(text: &str, choices: &[Choice]) -> Result<usize, Option<String>> {
    let word = text.trim().to_lowercase().replace('_', "-");
    let names = |choice: &Choice| {
        std::iter::once(choice.name)
            .chain(choice.aliases.iter().copied())
            .any(|name| name.to_lowercase().replace('_', "-") == word)
    };
    choices.iter().position(names).ok_or_else(|| {
        crate::nearest::nearest(&word, choices.iter().map(|choice| choice.name))
            .map(|name| format!("did you mean {name}"))
    })
}

#[cfg(test)]
mod tests {
    use crate::Scalar;

    choices! {
        /// A choice to test with.
        enum Mode {
            /// Turn by turn.
            RoundRobin = "round-robin" | "rr",
            /// By chance.
            Random = "random",
        }
    }

    #[test]
    fn words_and_their_aliases_name_the_variant() {
        for text in ["round-robin", "Round_Robin", "RR", " rr "] {
            assert_eq!(Mode::parse(text), Ok(Mode::RoundRobin), "{text:?}");
        }
        assert_eq!(Mode::Random.print(), "random");
        assert_eq!(Mode::ALL, [Mode::RoundRobin, Mode::Random]);
    }

    #[test]
    fn an_unknown_word_lists_the_known_ones_and_names_the_nearest() {
        assert_eq!(
            Mode::read("randon").unwrap_err().to_string(),
            "is not one of round-robin, random; did you mean random"
        );
        assert!(Mode::parse("").is_err());
    }
}
