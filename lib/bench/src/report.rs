//! The result for people: a table for the terminal, and a page with plots.

mod html;
mod svg;
mod table;

pub use html::html;
pub use table::table;
