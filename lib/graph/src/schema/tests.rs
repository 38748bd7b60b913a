//! The schema against files that break it, and against what is written down of it.

use super::{OBJECTS, broken};
use crate::{AnyFlags, parse};
use std::path::Path;

fn problems(text: &str) -> String {
    match parse("graph.yaml", text, &AnyFlags) {
        Ok(_) => "accepted".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// A file may be long where a list or a text is: its start tells what it is.
fn cut(text: &str) -> String {
    const MOST: usize = 240;
    match text.len() {
        length if length > MOST => format!("{}... ({length} bytes)\n", &text[..MOST].trim_end()),
        _ => text.to_owned(),
    }
}

#[test]
fn every_rule_has_a_message_that_mends_what_breaks_it() {
    let mut told = String::new();
    for file in broken::files().into_iter().chain(broken::parameters()) {
        let said = problems(&file.text);
        assert_ne!(said, "accepted", "{}:\n{}", file.rule, file.text);
        told += &format!("# {}\n{}=> {said}\n\n", file.rule, cut(&file.text));
    }
    insta::assert_snapshot!(told);
}

#[test]
fn every_example_of_the_reference_is_accepted() {
    for object in OBJECTS {
        for field in object.fields {
            let line = format!("{}: {}", field.name, field.example);
            let text = match object.name {
                "graph" if field.required => continue,
                "graph" => format!("{line}\nversion: 1\nname: g\ncomponents: [{{name: c}}]\n"),
                "component" if field.name == "name" => continue,
                "component" => format!("version: 1\nname: g\ncomponents: [{{name: c, {line}}}]\n"),
                "volume" => format!(
                    "version: 1\nname: g\ncomponents: [{{name: c, volumes: [{{claim: c, mount_path: /m}}, {{{line}, {}}}]}}]\n",
                    if field.name == "claim" {
                        "mount_path: /n"
                    } else {
                        "claim: d"
                    }
                ),
                "toleration" => format!(
                    "version: 1\nname: g\ncomponents: [{{name: c, tolerations: [{{{line}}}]}}]\n"
                ),
                name => {
                    format!("version: 1\nname: g\ncomponents: [{{name: c, {name}: {{{line}}}}}]\n")
                }
            };
            assert_eq!(problems(&text), "accepted", "{text}");
        }
    }
}

/// `make reference` writes them.
#[test]
fn what_is_published_is_what_the_tables_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference");
    let schema = serde_json::to_string_pretty(&crate::json_schema()).unwrap() + "\n";
    for (name, text) in [
        ("graph.md", crate::reference_page()),
        ("graph.schema.json", schema),
    ] {
        let path = folder.join(name);
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == text,
            "{} is out of date: run make reference",
            path.display()
        );
    }
}
