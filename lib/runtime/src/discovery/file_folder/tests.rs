//! Whose folder and whose id it is, with real files, locks and threads.

use super::*;
use crate::discovery::{EndpointId, InstanceRecord};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

const NOW: Duration = Duration::ZERO;

fn folder() -> (TempDir, Folder) {
    let temp = tempfile::tempdir().unwrap();
    let folder = Folder::open(&temp.path().join("discovery")).unwrap();
    (temp, folder)
}

fn id(id: u64) -> ProcessId {
    ProcessId::new(id).unwrap()
}

fn record(port: u16) -> ProcessRecord {
    ProcessRecord {
        instances: vec![InstanceRecord {
            endpoint: EndpointId::new("ns", "comp", "ep").unwrap(),
            address: format!("tcp://127.0.0.1:{port}"),
            metadata: BTreeMap::new(),
        }],
        ..ProcessRecord::default()
    }
}

fn names(folder: &Folder) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

/// What the kernel does on any death: the lock goes, the files stay.
fn die(claim: Claim) {
    drop(claim);
}

#[test]
fn a_new_folder_is_closed_to_others() {
    let (_temp, folder) = folder();
    let mode = fs::metadata(folder.path()).unwrap().mode();
    assert_eq!(mode & 0o777, 0o700);
    Folder::open(folder.path()).unwrap();
}

#[test]
fn a_folder_that_others_can_reach_is_refused_with_the_way_to_mend_it() {
    let temp = tempfile::tempdir().unwrap();
    let open = temp.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o750)).unwrap();
    let error = Folder::open(&open).unwrap_err().to_string();
    assert!(error.contains("mode 750"), "{error}");
    assert!(error.contains("chmod 700"), "{error}");

    let link = temp.path().join("link");
    std::os::unix::fs::symlink(temp.path(), &link).unwrap();
    let error = Folder::open(&link).unwrap_err();
    assert!(matches!(error, FolderError::NotAFolder(_)), "{error}");

    let metadata = fs::symlink_metadata(temp.path()).unwrap();
    let error = check(temp.path(), &metadata, metadata.uid() + 1).unwrap_err();
    assert!(matches!(error, FolderError::NotOurs { .. }), "{error}");
}

#[test]
fn the_default_folder_is_the_users_own() {
    let temp = Path::new("/tmp");
    let runtime = default_folder(Some(Path::new("/run/user/7")), temp);
    assert_eq!(runtime, Path::new("/run/user/7/dynamo"));
    let fallback = default_folder(None, temp);
    assert_eq!(fallback, temp.join(format!("dynamo-{}", own_user())));
}

#[test]
fn an_id_is_held_by_one_process() {
    let (_temp, folder) = folder();
    let held = folder.claim(id(7)).unwrap().unwrap();
    assert!(folder.claim(id(7)).unwrap().is_none());
    held.release().unwrap();
    assert!(folder.claim(id(7)).unwrap().is_some());
}

#[test]
fn the_living_are_seen_and_the_dead_are_swept() {
    let (_temp, folder) = folder();
    let mut cache = ScanCache::default();
    let (one, two) = (folder.claim(id(1)), folder.claim(id(2)));
    let (one, two) = (one.unwrap().unwrap(), two.unwrap().unwrap());
    one.write(&record(1)).unwrap();
    two.write(&record(2)).unwrap();
    assert_eq!(folder.scan(&mut cache, NOW).unwrap().len(), 2);
    die(one);
    let living = folder.scan(&mut cache, NOW).unwrap();
    assert_eq!(living.keys().copied().collect::<Vec<_>>(), [id(2)]);
    assert_eq!(names(&folder), ["2.json", "2.lock"]);
}

#[test]
fn a_process_without_record_is_not_shown_and_not_swept() {
    let (_temp, folder) = folder();
    let mut cache = ScanCache::default();
    let claim = folder.claim(id(1)).unwrap().unwrap();
    claim.write(&record(1)).unwrap();
    assert_eq!(folder.scan(&mut cache, NOW).unwrap().len(), 1);
    claim.clear().unwrap();
    assert!(folder.scan(&mut cache, NOW).unwrap().is_empty());
    assert!(claim.is_held().unwrap());
}

#[test]
fn leftovers_of_a_writer_that_died_half_way_are_swept() {
    let (_temp, folder) = folder();
    fs::write(folder.file(id(9), "json"), "{\"format\": 1, \"rec").unwrap();
    let claim = folder.claim(id(8)).unwrap().unwrap();
    fs::write(folder.file(id(8), "tmp"), "{\"form").unwrap();
    // A half-written file beside does not keep its owner from writing again.
    claim.write(&record(1)).unwrap();
    fs::write(folder.file(id(8), "tmp"), "{\"form").unwrap();
    die(claim);
    fs::write(folder.path().join("notes.txt"), "not ours").unwrap();
    let living = folder.scan(&mut ScanCache::default(), NOW).unwrap();
    assert!(living.is_empty());
    assert_eq!(names(&folder), ["notes.txt"]);
}

#[test]
fn a_record_of_a_newer_version_is_left_alone() {
    let (_temp, folder) = folder();
    let claim = folder.claim(id(1)).unwrap().unwrap();
    let newer = r#"{"format": 2, "record": "in another form"}"#;
    fs::write(folder.file(id(1), "json"), newer).unwrap();
    let living = folder.scan(&mut ScanCache::default(), NOW).unwrap();
    assert!(living.is_empty());
    assert!(claim.has_record().unwrap());
}

#[test]
fn many_sweepers_and_writers_do_not_harm_each_other() {
    const ROUNDS: u64 = 200;
    let (_temp, folder) = folder();
    let living = folder.claim(id(1)).unwrap().unwrap();
    living.write(&record(1)).unwrap();
    std::thread::scope(|scope| {
        for sweeper in 0..4 {
            let folder = &folder;
            scope.spawn(move || {
                let mut cache = ScanCache::default();
                for _ in 0..ROUNDS {
                    let seen = folder.scan(&mut cache, NOW).unwrap();
                    assert!(seen.contains_key(&id(1)), "sweeper {sweeper}");
                }
            });
        }
        scope.spawn(|| {
            for round in 0..ROUNDS {
                // An id between creation and lock may be swept: the owner tries another.
                if let Some(claim) = folder.claim(id(100 + round)).unwrap() {
                    claim.write(&record(2)).unwrap();
                    die(claim);
                }
                living.write(&record(3)).unwrap();
            }
        });
    });
    folder.scan(&mut ScanCache::default(), NOW).unwrap();
    assert_eq!(names(&folder), ["1.json", "1.lock"]);
}
