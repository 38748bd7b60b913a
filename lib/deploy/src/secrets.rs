//! Secrets of a graph on this machine: from a file, from files per Secret, from the caller's
//! environment. Missing ones are told all at once, by component and key, and never by value.

use crate::DeployError;
use dynamo_config::Secret;
use dynamo_graph::Graph;
use dynamo_graph::local::plan::PlannedProcess;
use dynamo_graph::{Piece, SecretText};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Where secrets are looked for.
#[derive(Debug, Clone)]
pub struct SecretSources<'a> {
    /// A file of `KEY=VALUE` lines.
    pub file: Option<&'a Path>,
    /// A folder of such files, one per Secret.
    pub folder: PathBuf,
    /// The caller's environment.
    pub environment: &'a [(String, String)],
}

/// Every secret that a graph needs.
#[derive(Debug, Default)]
pub struct Secrets {
    keys: BTreeMap<String, Secret>,
    whole: BTreeMap<String, Vec<(String, Secret)>>,
}

impl Secrets {
    /// Finds them, or says which are missing.
    pub fn find(graph: &Graph, sources: &SecretSources<'_>) -> Result<Self, DeployError> {
        let mut known: BTreeMap<String, Secret> = BTreeMap::new();
        let own = sources.folder.join(format!("{}.env", graph.secret_name()));
        if own.is_file() {
            known.extend(read(&own)?);
        }
        if let Some(file) = sources.file {
            known.extend(read(file)?);
        }
        let mut secrets = Self::default();
        let mut missing = Vec::new();
        for component in &graph.components {
            for key in component.secret_keys() {
                let variable = sources
                    .environment
                    .iter()
                    .find(|(name, value)| name == key && !value.is_empty());
                let variable = variable.map(|(_, value)| Secret::new(value.as_str()));
                match known.get(key).cloned().or(variable) {
                    Some(secret) => drop(secrets.keys.insert(key.to_owned(), secret)),
                    None => missing.push(format!(
                        "{}: the secret {key} is missing; set the variable {key}, or write {key}=... to a file and name it with --secrets-file",
                        component.name
                    )),
                }
            }
            for name in &component.secrets {
                let path = sources.folder.join(format!("{name}.env"));
                if path.is_file() {
                    secrets.whole.insert(name.clone(), read(&path)?);
                } else {
                    missing.push(format!(
                        "{}: the Secret {name} is missing; write its KEY=VALUE lines to {}",
                        component.name,
                        path.display()
                    ));
                }
            }
        }
        missing.dedup();
        match missing.is_empty() {
            true => Ok(secrets),
            false => Err(DeployError::Missing(missing)),
        }
    }

    /// What is added to a process's environment: whole Secrets, then its variables.
    pub fn environment(&self, process: &PlannedProcess) -> Vec<(String, Secret)> {
        let whole = process
            .secrets
            .iter()
            .filter_map(|name| self.whole.get(name));
        let whole = whole.flatten().cloned();
        let own = process.environment.iter();
        let own = own.map(|(name, value)| (name.clone(), Secret::new(self.written(value))));
        whole.chain(own).collect()
    }

    fn written(&self, text: &SecretText) -> String {
        text.written(|piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Secret(key) => self.keys.get(key).map_or("", Secret::expose).to_owned(),
        })
    }
}

/// Reads `KEY=VALUE` lines.
fn read(path: &Path) -> Result<Vec<(String, Secret)>, DeployError> {
    let text = fs::read_to_string(path).map_err(DeployError::io("read the secrets of", path))?;
    let mut secrets = Vec::new();
    for (index, line) in text.lines().enumerate() {
        match parse(line) {
            Line::Nothing => {}
            Line::Secret(key, value) => secrets.push((key, value)),
            Line::Wrong => {
                let place = format!("{}:{}", path.display(), index + 1);
                let message = format!(
                    "{place}: the line is not KEY=VALUE with a KEY of letters, digits and _"
                );
                return Err(DeployError::Missing(vec![message]));
            }
        }
    }
    Ok(secrets)
}

enum Line {
    Nothing,
    Secret(String, Secret),
    Wrong,
}

/// One line: `KEY=VALUE`, with `export` before it or not. Values are taken as they are, without
/// the quotes around them.
fn parse(line: &str) -> Line {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Line::Nothing;
    }
    let line = line.strip_prefix("export ").unwrap_or(line);
    let Some((key, value)) = line.split_once('=') else {
        return Line::Wrong;
    };
    let is_name = |char: char| char.is_ascii_alphanumeric() || char == '_';
    if key.is_empty()
        || !key.chars().all(is_name)
        || key.starts_with(|first: char| first.is_ascii_digit())
    {
        return Line::Wrong;
    }
    let quoted = ['"', '\'']
        .into_iter()
        .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
    Line::Secret(key.to_owned(), Secret::new(quoted.unwrap_or(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_graph::local::plan::{Machine, plan};
    use dynamo_graph::{AnyFlags, parse as parse_graph};

    const GRAPH: &str = "\
version: 1
name: g
components:
- name: w
  environment: {TOKEN: \"${{ secrets.TOKEN }}\", URL: \"https://u:${{ secrets.PASSWORD }}@h\"}
  secrets: [whole]
";

    fn found(place: &Path, environment: &[(String, String)]) -> Result<Vec<String>, String> {
        let graph = parse_graph("g.yaml", GRAPH, &AnyFlags).unwrap();
        let file = place.join("file.env");
        let sources = SecretSources {
            file: file.is_file().then_some(file.as_path()),
            folder: place.join("secrets"),
            environment,
        };
        let secrets = Secrets::find(&graph, &sources).map_err(|error| error.to_string())?;
        assert!(!format!("{secrets:?}").contains("hunter2"));
        let processes = plan(&graph, &Machine::default()).unwrap();
        let variables = secrets.environment(&processes[0]);
        Ok(variables
            .iter()
            .map(|(name, value)| format!("{name}={}", value.expose()))
            .collect())
    }

    #[test]
    fn secrets_come_from_files_and_the_environment_and_missing_ones_are_named() {
        let place = tempfile::tempdir().unwrap();
        let error = found(place.path(), &[]).unwrap_err();
        assert_eq!(error.lines().count(), 3, "{error}");
        for said in [
            "w: the secret TOKEN is missing",
            "w: the secret PASSWORD",
            "secrets/whole.env",
        ] {
            assert!(error.contains(said), "{error}");
        }
        fs::create_dir(place.path().join("secrets")).unwrap();
        fs::write(
            place.path().join("secrets/whole.env"),
            "# note\nexport A=1\nB='two words'\n\n",
        )
        .unwrap();
        fs::write(place.path().join("file.env"), "PASSWORD=\"hunter2\"\n").unwrap();
        let environment = [("TOKEN".to_owned(), "from-the-caller".to_owned())];
        let all = found(place.path(), &environment).unwrap();
        assert_eq!(
            all,
            [
                "A=1",
                "B=two words",
                "TOKEN=from-the-caller",
                "URL=https://u:hunter2@h"
            ]
        );
    }

    #[test]
    fn a_line_that_is_none_is_named_by_its_place_and_not_by_its_text() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("file.env"), "A=1\nhunter2\n").unwrap();
        let error = found(place.path(), &[]).unwrap_err();
        assert!(
            error.contains("file.env:2: ") && !error.contains("hunter2"),
            "{error}"
        );
    }
}
