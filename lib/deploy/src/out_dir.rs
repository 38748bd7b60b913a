//! The folder with what a graph becomes. It lists what it holds, so that files of components that
//! are no more go away, and a folder of somebody else's is left alone.

use crate::DeployError;
use dynamo_graph::Rendered;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The list of files that were written.
const LIST: &str = ".dynamo-deploy";

/// Writes the files; gives back their paths.
pub fn write(folder: &Path, rendered: &Rendered) -> Result<Vec<PathBuf>, DeployError> {
    fs::create_dir_all(folder).map_err(DeployError::io("make", folder))?;
    let list = folder.join(LIST);
    let before = listed(folder, &list)?;
    let now: BTreeSet<&str> = rendered
        .files
        .iter()
        .map(|file| file.path.as_str())
        .collect();
    for gone in before.iter().filter(|path| !now.contains(path.as_str())) {
        remove(&folder.join(gone))?;
    }
    // First, so that files of a run that breaks off are known as ours.
    let all: BTreeSet<&str> = before
        .iter()
        .map(String::as_str)
        .chain(now.iter().copied())
        .collect();
    save(&list, &lines(&all), false)?;
    let mut paths = Vec::new();
    for file in &rendered.files {
        let path = folder.join(&file.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(DeployError::io("make", parent))?;
        }
        save(&path, &file.text, file.is_program)?;
        paths.push(path);
    }
    save(&list, &lines(&now), false)?;
    Ok(paths)
}

/// What was written there before. A folder with files and without a list is not ours.
fn listed(folder: &Path, list: &Path) -> Result<Vec<String>, DeployError> {
    match fs::read_to_string(list) {
        Ok(text) => Ok(text
            .lines()
            .filter(|path| is_below(path))
            .map(str::to_owned)
            .collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut entries = fs::read_dir(folder).map_err(DeployError::io("read", folder))?;
            match entries.next() {
                None => Ok(Vec::new()),
                Some(_) => Err(DeployError::ForeignFolder(folder.to_owned())),
            }
        }
        Err(error) => Err(DeployError::io("read", list)(error)),
    }
}

/// The list is a file that anybody may edit: nothing outside of the folder is removed.
fn is_below(path: &str) -> bool {
    !path.starts_with('/') && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

fn remove(path: &Path) -> Result<(), DeployError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(DeployError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

fn save(path: &Path, text: &str, is_program: bool) -> Result<(), DeployError> {
    fs::write(path, text).map_err(DeployError::io("write", path))?;
    if is_program {
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(path, mode).map_err(DeployError::io("make a program of", path))?;
    }
    Ok(())
}

fn lines(paths: &BTreeSet<&str>) -> String {
    paths.iter().map(|path| format!("{path}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_graph::RenderedFile;

    fn rendered(paths: &[&str]) -> Rendered {
        let file = |path: &&str| RenderedFile {
            path: (*path).to_owned(),
            text: format!("{path}\n"),
            is_program: path.ends_with(".sh"),
        };
        Rendered {
            files: paths.iter().map(file).collect(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn files_that_are_no_more_are_removed_and_others_stay() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("out");
        write(&folder, &rendered(&["a.yaml", "parts/b.sh"])).unwrap();
        fs::write(folder.join("mine.txt"), "mine").unwrap();
        write(&folder, &rendered(&["c.yaml", "parts/b.sh"])).unwrap();
        assert!(!folder.join("a.yaml").exists());
        assert!(folder.join("c.yaml").exists() && folder.join("mine.txt").exists());
        let mode = fs::metadata(folder.join("parts/b.sh"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o111, 0o111);
    }

    #[test]
    fn a_folder_of_somebody_elses_is_left_alone_and_the_list_leads_nowhere_else() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("mine.txt"), "mine").unwrap();
        let error = write(place.path(), &rendered(&["a"])).unwrap_err();
        assert!(error.to_string().contains("did not write"), "{error}");

        let folder = place.path().join("out");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(LIST), "../mine.txt\n").unwrap();
        write(&folder, &rendered(&["a"])).unwrap();
        assert!(place.path().join("mine.txt").exists());
    }
}
