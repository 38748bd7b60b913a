//! The graph file, and the files beside it that its components read.

use crate::DeployError;
use dynamo_graph::{Carried, Graph, KnownFlags, MAX_CARRIED_BYTES};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Longest graph file that is read at all; the parser says what is too long.
const MAX_GRAPH_BYTES: u64 = 2 << 20;

/// A graph with where it came from.
#[derive(Debug)]
pub struct Source {
    /// The graph.
    pub graph: Graph,
    /// Its folder.
    pub folder: PathBuf,
    /// The files of its components that are there.
    pub carried: Carried,
}

/// Reads a graph and what it names.
pub fn read(file: &Path, flags: &dyn KnownFlags) -> Result<Source, DeployError> {
    let text = text(file, MAX_GRAPH_BYTES).map_err(DeployError::io("read", file))?;
    let graph = dynamo_graph::parse(&file.display().to_string(), &text, flags)?;
    let folder = match file.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut carried = Carried::new();
    for name in graph.components.iter().flat_map(|it| &it.files) {
        let path = folder.join(name);
        if path.is_file() {
            // One byte more than is borne tells the renderers that it is too much.
            let text = self::text(&path, MAX_CARRIED_BYTES as u64 + 1);
            carried.insert(
                name.clone(),
                text.map_err(DeployError::io("carry along", &path))?,
            );
        }
    }
    Ok(Source {
        graph,
        folder,
        carried,
    })
}

fn text(path: &Path, longest: u64) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(longest).read_to_string(&mut text)?;
    Ok(text)
}
