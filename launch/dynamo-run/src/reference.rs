//! The generated reference pages under `docs/reference/`, one per command.

use crate::schemas::{REFERENCE, schema};
use anyhow::Context;
use std::path::Path;

/// Writes every page.
pub(crate) fn write(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let pages = REFERENCE
        .iter()
        .map(|(command, title)| (format!("{command}.md"), page(command, title)));
    let schema = format!("{:#}\n", dynamo_graph::json_schema());
    let graph = [
        ("graph.md", dynamo_graph::reference_page()),
        ("graph.schema.json", schema),
    ];
    let graph = graph.map(|(name, text)| (name.to_owned(), text));
    for (name, text) in pages.chain(graph) {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn page(command: &str, title: &str) -> String {
    schema(command).reference_markdown(title)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_in_the_tree_are_what_the_declarations_say() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference");
        for (command, title) in REFERENCE {
            let path = folder.join(format!("{command}.md"));
            let written = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                written == page(command, title),
                "{} is out of date: run make reference",
                path.display()
            );
        }
    }
}
