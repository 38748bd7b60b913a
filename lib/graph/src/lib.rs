//! Deployment graphs: one description of components, checked, and what it becomes on each target.

pub mod command;
mod document;
mod flags;
mod graph;
pub mod kubernetes;
pub mod local;
mod names;
mod problem;
mod quantity;
mod read;
mod rendered;
mod schema;
mod secret_text;
pub mod slurm;
pub mod yaml;

pub use flags::{AnyFlags, KnownFlags};
pub use graph::{
    Component, Graph, Nodes, Parameter, ParameterValue, Placement, Resources, Role, Toleration,
    Volume,
};
pub use problem::{GraphError, Mark, Problem};
pub use quantity::{Cpu, Memory};
pub use read::parse;
pub use rendered::{Carried, MAX_CARRIED_BYTES, RenderError, Rendered, RenderedFile};
pub use secret_text::{Piece, SecretText};

/// The JSON schema (draft 2020-12) of graph files.
pub fn json_schema() -> serde_json::Value {
    schema::json::schema()
}

/// The reference page of graph files, in Markdown.
pub fn reference_page() -> String {
    schema::page::page()
}
