//! What the metadata holds.

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufValue {
    /// An integer without sign, of any width.
    Unsigned(u64),
    /// An integer with sign, of any width.
    Signed(i64),
    /// A float, of any width.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A string; bytes that are not UTF-8 replaced.
    String(String),
    /// An array.
    Array(GgufArray),
}

/// An array in the metadata.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufArray {
    /// Number of elements.
    pub len: u64,
    /// The elements, if there are few enough to keep; otherwise they stay in the file.
    pub elements: Option<Vec<GgufValue>>,
    /// Where the elements begin in the file.
    pub(crate) offset: u64,
    /// Whether they are strings.
    pub(crate) strings: bool,
}
