//! What a graph file may hold, declared once in `tables`: the checker and its messages, the JSON
//! schema and the reference page all read them.

#[cfg(test)]
mod broken;
pub(crate) mod check;
pub(crate) mod form;
pub(crate) mod json;
pub(crate) mod page;
mod tables;

use form::Form;

pub(crate) use tables::{GRAPH, OBJECTS, PARAMETERS, VERSIONS};

/// What a value is.
#[derive(Debug)]
pub(crate) enum Kind {
    /// The version of the file's form.
    Version,
    /// A text of a form.
    Text(&'static Form),
    /// A text of a form that may be written as a number or a boolean; it is taken as written.
    Scalar(&'static Form),
    /// A whole number.
    Integer {
        /// The smallest.
        min: i64,
        /// The largest.
        max: i64,
    },
    /// One of a few words, each with what it means.
    Choice(&'static [(&'static str, &'static str)]),
    /// Values in order.
    List {
        /// What each is.
        of: &'static Self,
        /// The fewest.
        min: usize,
        /// The most.
        max: usize,
    },
    /// Names with values.
    Map {
        /// The form of the names.
        keys: &'static Form,
        /// What each value is.
        values: &'static Self,
    },
    /// Keys of their own.
    Object(&'static Object),
    /// The value of a flag: anything but nothing.
    Parameter,
}

/// A mapping with keys of its own.
#[derive(Debug)]
pub(crate) struct Object {
    /// Its name in the JSON schema and the reference.
    pub(crate) name: &'static str,
    /// What it is, with an article.
    pub(crate) words: &'static str,
    /// What it is about.
    pub(crate) doc: &'static str,
    /// Its keys.
    pub(crate) fields: &'static [Field],
    /// Whether any other key is a parameter; these are then as `PARAMETERS` says.
    pub(crate) takes_parameters: bool,
}

/// A key of an object.
#[derive(Debug)]
pub(crate) struct Field {
    /// The key.
    pub(crate) name: &'static str,
    /// What it says.
    pub(crate) doc: &'static str,
    /// What its value is.
    pub(crate) kind: Kind,
    /// A value, as YAML in one line.
    pub(crate) example: &'static str,
    /// What counts without it; nothing if that is plain.
    pub(crate) default: &'static str,
    /// Whether it has to be there.
    pub(crate) required: bool,
}

// === impl Object ===

impl Object {
    /// The field that a key names: its own, or that of parameters where those are taken.
    pub(crate) fn field(&self, key: &str) -> Option<&'static Field> {
        let own = self.fields.iter().find(|field| field.name == key);
        own.or_else(|| {
            let known = PARAMETERS.fields.iter();
            known
                .filter(|_| self.takes_parameters)
                .find(|field| field.name == key)
        })
    }
}

#[cfg(test)]
mod tests;
