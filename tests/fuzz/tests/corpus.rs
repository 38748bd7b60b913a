//! Every input of the corpora, and each of its cuts and single changed bytes, goes through its
//! target.

use std::fs;
use std::path::Path;

/// Changed bytes per input: corpora are searched ones, and this is a test.
const CHANGES: usize = 200;

#[test]
fn what_was_found_is_borne() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in dynamo_fuzz::TARGETS {
        let mut inputs = 0;
        for entry in fs::read_dir(corpora.join(name)).unwrap() {
            let bytes = fs::read(entry.unwrap().path()).unwrap();
            target(&bytes);
            let step = bytes.len() / CHANGES + 1;
            for at in (0..bytes.len()).step_by(step) {
                target(&bytes[..at]);
                let mut changed = bytes.clone();
                changed[at] ^= 1 << (at % 8);
                target(&changed);
            }
            inputs += 1;
        }
        assert!(inputs > 0, "the corpus of {name} is empty");
    }
}
