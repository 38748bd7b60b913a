//! What an option's value is: one scalar, an optional one or a list, each with a form as text.
//!
//! Every source (flag, environment, file) delivers [`RawValue`]s, so that a value means the same
//! wherever it is written. Three rules hold in every source:
//!
//! - an optional value that is empty or reads `none` is unset
//! - empty items of a list are dropped, so that an empty text is an empty list
//! - a value that cannot be understood is an error that says what is expected, never a default

use crate::choices::Choice;

/// The word that leaves an optional value unset, in any case.
const UNSET: &str = "none";

/// What a scalar is, for help, reference and schemas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// True or false.
    Bool,
    /// A whole number.
    Integer,
    /// A number with a fraction.
    Number,
    /// Any text.
    Text,
    /// A path in the file system.
    Path,
    /// A span of time in human form.
    Duration,
    /// A number of bytes in human form.
    Size,
    /// One of a fixed set of words.
    Choice,
    /// A text that is never shown.
    Secret,
}

impl Kind {
    /// The word used in the reference and in schemas.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bool => "boolean",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Text => "text",
            Self::Path => "path",
            Self::Duration => "duration",
            Self::Size => "size",
            Self::Choice => "choice",
            Self::Secret => "secret",
        }
    }

    /// Whether a value of this kind stands without quotes in TOML and JSON.
    pub(crate) fn is_bare(self) -> bool {
        matches!(self, Self::Bool | Self::Integer | Self::Number)
    }
}

/// How many scalars an option holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Exactly one.
    One,
    /// One or none.
    Optional,
    /// Any number.
    Many,
}

/// A value as a source delivers it, before it has a type, and as it is printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RawValue {
    /// Written down as having no value, such as `null` in YAML.
    Unset,
    /// One text.
    One(String),
    /// Several texts.
    Many(Vec<String>),
}

/// Why a value was refused. The text completes a sentence that starts with the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// The text is not of the expected form.
    #[error("is not {expected}{}{}", after(", such as ", .example), after("; ", .hint))]
    Form {
        /// The expected form, as a noun with its article.
        expected: String,
        /// A text of that form, or nothing where the form says it all.
        example: String,
        /// How to mend this very value, or nothing.
        hint: String,
    },
    /// The value is of the expected form and outside the bounds.
    #[error("is out of bounds, it must be {bounds}")]
    Bounds {
        /// The bounds, such as `from 1 to 10`.
        bounds: String,
    },
    /// Several values were given for an option that holds one.
    #[error("is a list, one value is expected: {expected}")]
    List {
        /// The expected form, as a noun with its article.
        expected: String,
    },
    /// No value was given for an option that needs one.
    #[error("is no value; give {expected}, or leave the option out to use its default")]
    Missing {
        /// The expected form, as a noun with its article.
        expected: String,
    },
    /// One item of a list was refused.
    #[error("has an item {item:?} that {error}")]
    Item {
        /// The item.
        item: String,
        /// What is wrong with it.
        #[source]
        error: Box<Self>,
    },
    /// One item of a list of secrets was refused.
    #[error("has an item that {error}")]
    SecretItem {
        /// What is wrong with it.
        #[source]
        error: Box<Self>,
    },
}

fn after(separator: &str, text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    format!("{separator}{text}")
}

/// A type whose values have a form as text.
pub trait Scalar: Sized + Clone + Send + Sync + 'static {
    /// What it is.
    const KIND: Kind;
    /// Its form in words, with an article: completes "is not ...".
    const FORM: &'static str;
    /// A text of that form; empty where the form says it all.
    const EXAMPLE: &'static str;

    /// Reads a text, with or without a hint on how to mend it.
    fn parse(text: &str) -> Result<Self, Option<String>>;

    /// The canonical text, which parses to the same value (but for secrets).
    fn print(&self) -> String;

    /// The words it can be, if it is a choice.
    fn choices() -> &'static [Choice] {
        &[]
    }

    /// Reads a text; the error says what is expected.
    fn read(text: &str) -> Result<Self, ValueError> {
        Self::parse(text).map_err(|hint| ValueError::Form {
            expected: Self::FORM.to_owned(),
            example: Self::EXAMPLE.to_owned(),
            hint: hint.unwrap_or_default(),
        })
    }
}

/// The type of an option: a [`Scalar`], an `Option` or a `Vec` of one.
pub trait OptionValue: Sized + Send + Sync + 'static {
    /// The scalar it is made of.
    type Item: Scalar;
    /// How many it holds.
    const SHAPE: Shape;

    /// Reads what a source delivered.
    fn from_raw(raw: &RawValue) -> Result<Self, ValueError>;

    /// The scalars it holds.
    fn items(&self) -> &[Self::Item];

    /// The canonical form, which reads back to the same value (but for secrets).
    fn to_raw(&self) -> RawValue {
        let mut texts = self.items().iter().map(Scalar::print);
        match Self::SHAPE {
            Shape::One | Shape::Optional => texts.next().map_or(RawValue::Unset, RawValue::One),
            Shape::Many => RawValue::Many(texts.collect()),
        }
    }
}

impl<T: Scalar> OptionValue for T {
    type Item = T;
    const SHAPE: Shape = Shape::One;

    fn from_raw(raw: &RawValue) -> Result<Self, ValueError> {
        match raw {
            RawValue::One(text) => T::read(text),
            RawValue::Unset => Err(ValueError::Missing {
                expected: T::FORM.to_owned(),
            }),
            RawValue::Many(_) => Err(list_error::<T>()),
        }
    }

    fn items(&self) -> &[T] {
        std::slice::from_ref(self)
    }
}

impl<T: Scalar> OptionValue for Option<T> {
    type Item = T;
    const SHAPE: Shape = Shape::Optional;

    fn from_raw(raw: &RawValue) -> Result<Self, ValueError> {
        match raw {
            RawValue::Unset => Ok(None),
            RawValue::One(text) if is_unset(text) => Ok(None),
            RawValue::One(text) => T::read(text).map(Some),
            RawValue::Many(_) => Err(list_error::<T>()),
        }
    }

    fn items(&self) -> &[T] {
        self.as_slice()
    }

    fn to_raw(&self) -> RawValue {
        RawValue::One(
            self.as_ref()
                .map_or_else(|| UNSET.to_owned(), Scalar::print),
        )
    }
}

impl<T: Scalar> OptionValue for Vec<T> {
    type Item = T;
    const SHAPE: Shape = Shape::Many;

    fn from_raw(raw: &RawValue) -> Result<Self, ValueError> {
        let texts = match raw {
            RawValue::Unset => &[],
            RawValue::One(text) => std::slice::from_ref(text),
            RawValue::Many(texts) => texts.as_slice(),
        };
        texts
            .iter()
            .filter(|text| !text.is_empty())
            .map(|text| T::read(text).map_err(|error| item_error::<T>(text, error)))
            .collect()
    }

    fn items(&self) -> &[T] {
        self
    }
}

/// Whether a text leaves an optional value unset.
pub(crate) fn is_unset(text: &str) -> bool {
    text.is_empty() || text.eq_ignore_ascii_case(UNSET)
}

/// An error about one item of a list, without the item if it is a secret.
pub(crate) fn item_error<T: Scalar>(item: &str, error: ValueError) -> ValueError {
    let error = Box::new(error);
    if T::KIND == Kind::Secret {
        return ValueError::SecretItem { error };
    }
    ValueError::Item {
        item: item.to_owned(),
        error,
    }
}

fn list_error<T: Scalar>() -> ValueError {
    ValueError::List {
        expected: T::FORM.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Secret;

    fn one(text: &str) -> RawValue {
        RawValue::One(text.to_owned())
    }

    fn many(texts: &[&str]) -> RawValue {
        RawValue::Many(texts.iter().map(|text| (*text).to_owned()).collect())
    }

    #[test]
    fn optional_values_are_unset_by_nothing_and_by_none() {
        for raw in [RawValue::Unset, one(""), one("none"), one("None")] {
            assert_eq!(Option::<u16>::from_raw(&raw), Ok(None), "{raw:?}");
        }
        assert_eq!(Option::<u16>::from_raw(&one("7")), Ok(Some(7)));
        assert_eq!(None::<u16>.to_raw(), one("none"));
        assert_eq!(Some(7_u16).to_raw(), one("7"));
    }

    #[test]
    fn lists_take_one_text_or_many_and_drop_empty_items() {
        assert_eq!(Vec::<u16>::from_raw(&RawValue::Unset), Ok(vec![]));
        assert_eq!(Vec::<u16>::from_raw(&one("")), Ok(vec![]));
        assert_eq!(Vec::<u16>::from_raw(&one("1")), Ok(vec![1]));
        assert_eq!(Vec::<u16>::from_raw(&many(&["1", "", "2"])), Ok(vec![1, 2]));
        assert_eq!(vec![1_u16, 2].to_raw(), many(&["1", "2"]));
    }

    #[test]
    fn a_bad_item_of_a_list_is_named_unless_it_is_a_secret() {
        let error = Vec::<u16>::from_raw(&many(&["1", "x"])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "has an item \"x\" that is not an integer from 0 to 65535, such as 8"
        );
        let error = Vec::<Secret>::from_raw(&many(&["<set>"])).unwrap_err();
        assert!(error.to_string().starts_with("has an item that is not "));
    }

    #[test]
    fn a_single_value_takes_neither_a_list_nor_nothing() {
        assert_eq!(
            u16::from_raw(&many(&["1", "2"])).unwrap_err().to_string(),
            "is a list, one value is expected: an integer from 0 to 65535"
        );
        assert!(Option::<u16>::from_raw(&many(&[])).is_err());
        assert_eq!(
            bool::from_raw(&RawValue::Unset).unwrap_err().to_string(),
            "is no value; give true or false, or leave the option out to use its default"
        );
    }
}
