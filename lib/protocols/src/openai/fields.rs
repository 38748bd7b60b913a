//! Request objects put together from parts, each of which knows its own fields.
//!
//! Two requests share most of their fields, and `serde`'s way to share them (flattening) buffers
//! the whole body and forgets where in it an error was. Here a request is a list of parts; each
//! key is offered to them in turn, and its value is read straight into the part that knows it.
//!
//! Invariants
//! - `null` is the same as leaving the field out.
//! - A key that no part knows, or that comes twice, is an error in the words that `serde` uses
//!   for its own derived types, so that [`parse`](super::parse) treats both alike.

use serde::de::{Deserialize, Deserializer, Error, MapAccess};

/// Some fields of a request.
pub(crate) trait Part: Default {
    /// Their names.
    const FIELDS: &'static [&'static str];

    /// Reads the value of `key` if it is one of this part's fields; answers its name.
    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        key: &str,
        map: &mut A,
    ) -> Result<Option<&'static str>, A::Error>;
}

/// A field of the API that is not served: any value but `null` is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unserved {}

/// The words by which `parse` recognises an unserved field.
pub(crate) const UNSERVED: &str = "field is not served";

impl<'de> Deserialize<'de> for Unserved {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(D::Error::custom(UNSERVED))
    }
}

/// The error for a key that no part knows.
pub(crate) fn unknown<E: Error>(key: &str, parts: &[&[&'static str]]) -> E {
    let known: Vec<String> = parts
        .iter()
        .flat_map(|names| names.iter().map(|name| format!("`{name}`")))
        .collect();
    E::custom(format!(
        "unknown field `{key}`, expected one of {}",
        known.join(", ")
    ))
}

/// Declares a part: a struct whose fields are all optional.
macro_rules! fields {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $($(#[$field_meta:meta])* $field:ident: $ty:ty,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: Option<$ty>,)+
        }

        impl $crate::openai::fields::Part for $name {
            const FIELDS: &'static [&'static str] = &[$(stringify!($field)),+];

            fn read<'de, A: serde::de::MapAccess<'de>>(
                &mut self,
                key: &str,
                map: &mut A,
            ) -> Result<Option<&'static str>, A::Error> {
                match key {
                    $(stringify!($field) => {
                        self.$field = map.next_value()?;
                        Ok(Some(stringify!($field)))
                    })+
                    _ => Ok(None),
                }
            }
        }
    };
}

/// Declares a request: required fields of its own, and parts.
macro_rules! request {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $($(#[$field_meta:meta])* $field:ident: $ty:ty,)+
            ..
            $($(#[$part_meta:meta])* $part:ident: $part_ty:ty,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $ty,)+
            $($(#[$part_meta])* pub $part: $part_ty,)+
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                struct Visitor;

                impl<'de> serde::de::Visitor<'de> for Visitor {
                    type Value = $name;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<A>(self, mut map: A) -> Result<Self::Value, A::Error>
                    where
                        A: serde::de::MapAccess<'de>,
                    {
                        use serde::de::Error as _;
                        use $crate::openai::fields::{Part, unknown};

                        $(let mut $field: Option<$ty> = None;)+
                        $(let mut $part = <$part_ty>::default();)+
                        let mut seen: Vec<&'static str> = Vec::new();
                        while let Some(key) = map.next_key::<String>()? {
                            let name = match key.as_str() {
                                $(stringify!($field) => {
                                    $field = map.next_value()?;
                                    stringify!($field)
                                })+
                                key => {
                                    let mut name = None;
                                    $(if name.is_none() {
                                        name = $part.read(key, &mut map)?;
                                    })+
                                    name.ok_or_else(|| unknown(key, &[
                                        &[$(stringify!($field)),+],
                                        $(<$part_ty>::FIELDS,)+
                                    ]))?
                                }
                            };
                            if seen.contains(&name) {
                                return Err(A::Error::duplicate_field(name));
                            }
                            seen.push(name);
                        }
                        Ok($name {
                            $($field: $field
                                .ok_or_else(|| A::Error::missing_field(stringify!($field)))?,)+
                            $($part,)+
                        })
                    }
                }

                input.deserialize_map(Visitor)
            }
        }
    };
}
