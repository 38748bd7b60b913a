//! What is declared about an option, and how a declaration is bound to the field it fills.
//!
//! [`Field`] is what a line of [`options!`](crate::options) becomes: each attribute of the line
//! is a method of it, so that the compiler checks attributes and their types.

use crate::choices::Choice;
use crate::value::{Kind, OptionValue, RawValue, Scalar, Shape, ValueError, is_unset, item_error};
use std::fmt;
use std::ops::RangeInclusive;

/// A struct of options, made by [`options!`](crate::options).
pub trait Options: Default + Clone + fmt::Debug + Send + Sync + 'static {
    /// Name of the group, in configuration files and in the reference.
    const GROUP: &'static str;
    /// What the options are about, as the lines of the struct's doc comment.
    const DOC: &'static [&'static str];

    /// Every option with the field it fills, in the order of declaration. The current value of
    /// the field is taken for the default.
    fn bindings(&mut self) -> Vec<Binding<'_>>;

    /// What is declared about every option.
    fn specs() -> Vec<OptionSpec> {
        let mut defaults = Self::default();
        let bindings = defaults.bindings();
        bindings.into_iter().map(|binding| binding.spec).collect()
    }
}

/// Everything that is declared about one option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionSpec {
    /// Name of the field, in snake case.
    pub key: &'static str,
    /// Name of the group the option belongs to.
    pub group: &'static str,
    /// The flag, with its dashes.
    pub flag: String,
    /// The one-letter flag, without its dash.
    pub short: Option<char>,
    /// Other flags for the same option, with their dashes.
    pub aliases: Vec<&'static str>,
    /// Flags that are still taken and no longer shown in help, with their dashes.
    pub deprecated_aliases: Vec<&'static str>,
    /// Environment variables: the first one that is set counts.
    pub env: Vec<&'static str>,
    /// What a scalar of the value is.
    pub kind: Kind,
    /// How many scalars the value holds.
    pub shape: Shape,
    /// The expected form in words, with an article.
    pub form: &'static str,
    /// The default, as it would be printed.
    pub default: RawValue,
    /// The words it can be, if it is a choice.
    pub choices: &'static [Choice],
    /// Smallest value, as text.
    pub min: Option<String>,
    /// Largest value, as text.
    pub max: Option<String>,
    /// What the option does: help text and reference text.
    pub doc: String,
    /// Whether the value is never shown.
    pub secret: bool,
    /// Whether some source has to give a value.
    pub required: bool,
}

impl OptionSpec {
    /// Whether the flag needs no value: `--x` and `--no-x`.
    pub fn is_switch(&self) -> bool {
        self.kind == Kind::Bool && self.shape != Shape::Many
    }

    /// Every flag of the option but the one-letter one, without dashes.
    pub(crate) fn long_flags(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.flag.as_str())
            .chain(self.aliases.iter().copied())
            .chain(self.deprecated_aliases.iter().copied())
            .map(|flag| flag.trim_start_matches('-'))
    }

    /// Whether a value, as printed, says that the option is without one.
    pub(crate) fn is_unset(&self, value: &RawValue) -> bool {
        match (self.shape, value) {
            (_, RawValue::Unset) => true,
            (Shape::Optional, RawValue::One(text)) => is_unset(text),
            _ => false,
        }
    }

    /// The bounds in words, such as `from 1 to 10`.
    pub(crate) fn bounds(&self) -> Option<String> {
        match (&self.min, &self.max) {
            (Some(min), Some(max)) => Some(format!("from {min} to {max}")),
            (Some(min), None) => Some(format!("at least {min}")),
            (None, Some(max)) => Some(format!("at most {max}")),
            (None, None) => None,
        }
    }
}

/// An option and the field that it fills.
#[derive(Debug)]
pub struct Binding<'a> {
    /// What is declared.
    pub spec: OptionSpec,
    /// The field.
    pub slot: Box<dyn Slot + 'a>,
}

/// A field that takes and gives values in their raw form.
pub trait Slot: fmt::Debug {
    /// Sets the field; it keeps its value on an error.
    fn set(&mut self, raw: &RawValue) -> Result<(), ValueError>;

    /// The field's value as it may be shown: a secret is masked.
    fn get(&self) -> RawValue;
}

/// Whether a scalar keeps a bound.
type Test<I> = Box<dyn Fn(&I) -> bool>;

/// A declaration under way: what [`options!`](crate::options) makes of one line.
pub struct Field<'a, T: OptionValue> {
    spec: OptionSpec,
    place: &'a mut T,
    within: Vec<Test<T::Item>>,
}

impl<T: OptionValue> fmt::Debug for Field<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Field")
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}

impl<'a, T: OptionValue> Field<'a, T> {
    /// Starts the declaration of the field `key`; its current value is the default.
    pub fn new(
        group: &'static str,
        key: &'static str,
        doc: &[&'static str],
        place: &'a mut T,
    ) -> Self {
        let spec = OptionSpec {
            key,
            group,
            flag: format!("--{}", key.replace('_', "-")),
            short: None,
            aliases: Vec::new(),
            deprecated_aliases: Vec::new(),
            env: Vec::new(),
            kind: T::Item::KIND,
            shape: T::SHAPE,
            form: T::Item::FORM,
            default: place.to_raw(),
            choices: T::Item::choices(),
            min: None,
            max: None,
            doc: prose(doc),
            secret: T::Item::KIND == Kind::Secret,
            required: false,
        };
        Self {
            spec,
            place,
            within: Vec::new(),
        }
    }

    /// Sets another flag than the one made from the field's name.
    #[must_use]
    pub fn flag(mut self, flag: &'static str) -> Self {
        flag.clone_into(&mut self.spec.flag);
        self
    }

    /// Adds a one-letter flag.
    #[must_use]
    pub fn short(mut self, letter: char) -> Self {
        self.spec.short = Some(letter);
        self
    }

    /// Adds another flag for the same option.
    #[must_use]
    pub fn alias(mut self, flag: &'static str) -> Self {
        self.spec.aliases.push(flag);
        self
    }

    /// Adds a flag that is still taken and no longer shown in help.
    #[must_use]
    pub fn deprecated(mut self, flag: &'static str) -> Self {
        self.spec.deprecated_aliases.push(flag);
        self
    }

    /// Adds an environment variable; of several, the first one that is set counts.
    #[must_use]
    pub fn env(mut self, name: &'static str) -> Self {
        self.spec.env.push(name);
        self
    }

    /// Makes it an error if no source gives a value.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.spec.required = true;
        self
    }

    /// The smallest value.
    #[must_use]
    pub fn min(mut self, min: T::Item) -> Self
    where
        T::Item: PartialOrd,
    {
        self.spec.min = Some(min.print());
        self.within.push(Box::new(move |item| *item >= min));
        self
    }

    /// The largest value.
    #[must_use]
    pub fn max(mut self, max: T::Item) -> Self
    where
        T::Item: PartialOrd,
    {
        self.spec.max = Some(max.print());
        self.within.push(Box::new(move |item| *item <= max));
        self
    }

    /// The smallest and the largest value.
    #[must_use]
    pub fn range(self, range: RangeInclusive<T::Item>) -> Self
    where
        T::Item: PartialOrd,
    {
        let (min, max) = range.into_inner();
        self.min(min).max(max)
    }

    /// Ends the declaration.
    pub fn bind(self) -> Binding<'a> {
        Binding {
            spec: self.spec.clone(),
            slot: Box::new(self),
        }
    }

    fn check_bounds(&self, value: &T) -> Result<(), ValueError> {
        let Some(bounds) = self.spec.bounds() else {
            return Ok(());
        };
        let is_outside = |item: &&T::Item| self.within.iter().any(|within| !within(item));
        let Some(item) = value.items().iter().find(is_outside) else {
            return Ok(());
        };
        let error = ValueError::Bounds { bounds };
        Err(match T::SHAPE {
            Shape::One | Shape::Optional => error,
            Shape::Many => item_error::<T::Item>(&item.print(), error),
        })
    }
}

impl<T: OptionValue<Item = crate::Secret>> Field<'_, T> {
    /// Says in the declaration that the value is never shown. It compiles for [`Secret`] alone,
    /// whose type sees to it.
    ///
    /// [`Secret`]: crate::Secret
    #[must_use]
    pub fn secret(self) -> Self {
        self
    }
}

impl<T: OptionValue> Slot for Field<'_, T> {
    fn set(&mut self, raw: &RawValue) -> Result<(), ValueError> {
        let value = T::from_raw(raw)?;
        self.check_bounds(&value)?;
        *self.place = value;
        Ok(())
    }

    fn get(&self) -> RawValue {
        self.place.to_raw()
    }
}

/// Lines of a doc comment as text: lines of a paragraph are joined, empty lines part paragraphs.
pub(crate) fn prose(lines: &[&str]) -> String {
    let mut text = String::new();
    for line in lines {
        let line = line.trim();
        if line.is_empty() {
            text.push_str("\n\n");
            continue;
        }
        if !text.is_empty() && !text.ends_with('\n') {
            text.push(' ');
        }
        text.push_str(line);
    }
    text.trim().to_owned()
}

/// Declares a struct of options: one line says everything about one option.
///
/// ```ignore
/// options! {
///     /// What the group is about.
///     pub struct FrontendOptions("frontend") {
///         /// What the option does: help and reference text.
///         http_port: u16 = 8000, env = "DYN_HTTP_PORT", min = 1;
///     }
/// }
/// ```
///
/// Its fields are as visible as the struct, which implements `Debug`, `Clone`, `Default` and [`Options`]. The
/// flag is made from the field's name (`--http-port`). Attributes, in any order, are the methods
/// of [`Field`]: `env = "X"` (again for further names), `flag = "--x"`, `short = 'x'`,
/// `alias = "--y"`, `deprecated = "--z"`, `min = 1`, `max = 9`, `range = 1..=9`, `required`,
/// `secret`.
#[macro_export]
macro_rules! options {
    (
        $(#[doc = $doc:literal])+
        $visibility:vis struct $name:ident($group:literal) {
            $(
                $(#[doc = $field_doc:literal])+
                $field:ident: $type:ty = $default:expr
                    $(, $attribute:ident $(= $argument:expr)?)*;
            )+
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone)]
        $visibility struct $name {
            $($(#[doc = $field_doc])+ $visibility $field: $type,)+
        }

        impl ::std::default::Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        impl $crate::Options for $name {
            const GROUP: &'static str = $group;
            const DOC: &'static [&'static str] = &[$($doc),+];

            fn bindings(&mut self) -> ::std::vec::Vec<$crate::Binding<'_>> {
                let Self { $($field),+ } = self;
                ::std::vec![$(
                    $crate::Field::new($group, stringify!($field), &[$($field_doc),+], $field)
                        $(.$attribute($($argument)?))*
                        .bind()
                ),+]
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ByteSize, Secret};

    options! {
        /// Options to test with.
        struct TestOptions("test") {
            /// A first line
            /// and a second one.
            ///
            /// Another paragraph.
            worker_count: u16 = 4, env = "DYN_WORKERS", env = "DYN_OLD_WORKERS",
                alias = "--workers", deprecated = "--num-workers", short = 'w', range = 1..=64;
            /// A share.
            share: Option<f64> = None, min = 0.0, max = 1.0;
            /// Sizes.
            sizes: Vec<ByteSize> = vec![ByteSize::kib(1)], flag = "--size", min = ByteSize::bytes(1);
            /// A key.
            key: Option<Secret> = None, secret, required;
        }
    }

    fn set(options: &mut TestOptions, key: &str, raw: &RawValue) -> Result<(), ValueError> {
        let mut bindings = options.bindings();
        let binding = bindings.iter_mut().find(|b| b.spec.key == key).unwrap();
        binding.slot.set(raw)
    }

    #[test]
    fn a_declaration_carries_everything_that_was_said() {
        let specs = TestOptions::specs();
        let workers = &specs[0];
        assert_eq!(workers.key, "worker_count");
        assert_eq!(workers.group, "test");
        assert_eq!(workers.flag, "--worker-count");
        assert_eq!(workers.short, Some('w'));
        assert_eq!(workers.aliases, ["--workers"]);
        assert_eq!(workers.deprecated_aliases, ["--num-workers"]);
        assert_eq!(workers.env, ["DYN_WORKERS", "DYN_OLD_WORKERS"]);
        assert_eq!((workers.kind, workers.shape), (Kind::Integer, Shape::One));
        assert_eq!(workers.default, RawValue::One("4".to_owned()));
        assert_eq!(workers.bounds().unwrap(), "from 1 to 64");
        assert_eq!(
            workers.doc,
            "A first line and a second one.\n\nAnother paragraph."
        );
        assert_eq!(specs[2].flag, "--size");
        assert!(specs[3].secret && specs[3].required);
    }

    #[test]
    fn fields_take_values_within_bounds_and_keep_theirs_otherwise() {
        let mut options = TestOptions::default();
        set(&mut options, "worker_count", &RawValue::One("64".into())).unwrap();
        assert_eq!(options.worker_count, 64);
        let error = set(&mut options, "worker_count", &RawValue::One("65".into())).unwrap_err();
        assert_eq!(
            error.to_string(),
            "is out of bounds, it must be from 1 to 64"
        );
        assert_eq!(options.worker_count, 64);

        assert!(set(&mut options, "share", &RawValue::One("1.5".into())).is_err());
        set(&mut options, "share", &RawValue::Unset).unwrap();
        let sizes = RawValue::Many(vec!["1KiB".into(), "0".into()]);
        assert_eq!(
            set(&mut options, "sizes", &sizes).unwrap_err().to_string(),
            "has an item \"0B\" that is out of bounds, it must be at least 1B"
        );
    }

    #[test]
    fn a_set_secret_shows_neither_in_debug_nor_as_a_value() {
        let mut options = TestOptions::default();
        set(&mut options, "key", &RawValue::One("hunter2".into())).unwrap();
        assert!(!format!("{options:?}").contains("hunter2"));
        let bindings = options.bindings();
        assert_eq!(bindings[3].slot.get(), RawValue::One("<set>".to_owned()));
        assert!(!format!("{bindings:?}").contains("hunter2"));
    }
}
