//! Defects of declarations that the compiler cannot see.

use crate::schema::{Group, Schema};
use crate::spec::OptionSpec;
use crate::value::{Kind, RawValue, Shape, is_unset};
use std::any::TypeId;
use std::collections::BTreeMap;

/// Flags that every command has.
const RESERVED_FLAGS: [&str; 2] = ["--help", "--version"];

/// One-letter flags that every command has.
const RESERVED_SHORTS: [&str; 2] = ["-h", "-V"];

/// Everything wrong with a schema, in the order of declaration.
pub(crate) fn defects(schema: &Schema) -> Vec<String> {
    let mut defects = Vec::new();
    let mut names = Names::default();
    let reserved = RESERVED_FLAGS.iter().chain(&RESERVED_SHORTS);
    for flag in reserved {
        names.claim("flag", (*flag).to_owned(), "every command", &mut defects);
    }
    let mut types: Vec<TypeId> = Vec::new();
    for group in &schema.groups {
        if types.contains(&group.type_id) {
            defects.push(format!("group {} is there twice", group.name));
            continue;
        }
        types.push(group.type_id);
        let owner = format!("group {}", group.name);
        let key = group.name.replace('-', "_");
        names.claim("key", key, &owner, &mut defects);
        check_group(group, &mut names, &mut defects);
    }
    defects
}

/// Who took each name, by what the name is of.
#[derive(Default)]
struct Names(BTreeMap<(&'static str, String), String>);

impl Names {
    fn claim(&mut self, of: &'static str, name: String, owner: &str, defects: &mut Vec<String>) {
        match self.0.entry((of, name)) {
            std::collections::btree_map::Entry::Occupied(taken) => {
                let (of, name) = taken.key();
                let first = taken.get();
                defects.push(format!("{of} {name} of {owner} belongs to {first} already"));
            }
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(owner.to_owned());
            }
        }
    }
}

fn check_group(group: &Group, names: &mut Names, defects: &mut Vec<String>) {
    defects.extend(group.bad_defaults.iter().cloned());
    for spec in &group.specs {
        let owner = format!("{}.{}", group.name, spec.key);
        names.claim("key", spec.key.to_owned(), &owner, defects);
        for flag in flags(spec) {
            names.claim("flag", flag, &owner, defects);
        }
        for name in &spec.env {
            names.claim("env", (*name).to_owned(), &owner, defects);
        }
        defects.extend(own_defects(spec).map(|defect| format!("{owner}: {defect}")));
    }
}

/// Every flag of an option, those that turn it off and the one-letter one included.
fn flags(spec: &OptionSpec) -> Vec<String> {
    let mut flags: Vec<String> = spec.long_flags().map(|flag| format!("--{flag}")).collect();
    if spec.is_switch() {
        flags.extend(spec.long_flags().map(|flag| format!("--no-{flag}")));
    }
    flags.extend(spec.short.map(|letter| format!("-{letter}")));
    flags
}

fn own_defects(spec: &OptionSpec) -> impl Iterator<Item = String> {
    let declared = std::iter::once(spec.flag.as_str())
        .chain(spec.aliases.iter().copied())
        .chain(spec.deprecated_aliases.iter().copied());
    let flags = declared
        .filter(|flag| !is_flag(flag))
        .map(|flag| format!("flag {flag} is not of the form --two-words"));
    let env = spec
        .env
        .iter()
        .filter(|name| !is_env(name))
        .map(|name| format!("env {name} is not of the form TWO_WORDS"));
    let swallows_none =
        spec.shape == Shape::Optional && spec.choices.iter().any(|choice| is_unset(choice.name));
    let none = swallows_none
        .then(|| "an optional choice cannot have the word none, which means unset".to_owned());
    let is_given = match &spec.default {
        RawValue::Unset => false,
        RawValue::One(_) => !spec.is_unset(&spec.default),
        RawValue::Many(texts) => !texts.is_empty(),
    };
    let secret = (spec.kind == Kind::Secret && is_given)
        .then(|| "a secret cannot have a default".to_owned());
    flags
        .chain(env)
        .chain(none)
        .chain(secret)
        .collect::<Vec<_>>()
        .into_iter()
}

fn is_flag(flag: &str) -> bool {
    flag.strip_prefix("--").is_some_and(|name| {
        name.starts_with(|char: char| char.is_ascii_lowercase())
            && !name.ends_with('-')
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    })
}

fn is_env(name: &str) -> bool {
    name.starts_with(|char: char| char.is_ascii_uppercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ByteSize, Secret, choices, options};

    choices! {
        /// A choice that an optional option cannot be.
        enum Cache {
            /// No cache.
            None = "none",
            /// Least recently used.
            Lru = "lru",
        }
    }

    options! {
        /// Sound options.
        struct Sound("sound") {
            /// A port.
            port: u16 = 8000, env = "DYN_PORT", short = 'p', alias = "--http-port";
            /// A key.
            key: Option<Secret> = None, secret;
            /// Something that has to be given.
            name: String = String::new(), required;
            /// A list.
            sizes: Vec<ByteSize> = Vec::new(), min = ByteSize::bytes(1);
        }
    }

    options! {
        /// Options whose names belong to others.
        struct Clashing("clashing") {
            /// Same key as above.
            port: u16 = 1, flag = "--other";
            /// Same flags and variable as above.
            another: u16 = 1, flag = "--http-port", short = 'p', env = "DYN_PORT";
            /// The negation of the next one.
            no_wait: u16 = 1;
            /// A switch.
            wait: bool = true;
            /// The key of a group.
            sound: u16 = 1, flag = "--help";
        }
    }

    options! {
        /// Options that are wrong in themselves.
        struct Malformed("malformed") {
            /// Default out of bounds.
            low: u16 = 0, min = 1;
            /// No flag, no variable.
            named: u16 = 1, flag = "-named", alias = "--Named", env = "dyn_named";
            /// A choice with an ambiguous word.
            cache: Option<Cache> = None;
            /// A secret for everyone to read.
            secret: Option<Secret> = Some(Secret::new("hunter2")), secret;
            /// A default that means unset.
            text: Option<String> = Some(String::new());
        }
    }

    #[test]
    fn sound_options_have_no_defects() {
        assert_eq!(Schema::new().with::<Sound>().check(), [""; 0]);
    }

    #[test]
    fn names_that_belong_to_others_are_defects() {
        let schema = Schema::new().with::<Sound>().with::<Clashing>();
        assert_eq!(
            schema.check(),
            [
                "key port of clashing.port belongs to sound.port already",
                "flag --http-port of clashing.another belongs to sound.port already",
                "flag -p of clashing.another belongs to sound.port already",
                "env DYN_PORT of clashing.another belongs to sound.port already",
                "flag --no-wait of clashing.wait belongs to clashing.no_wait already",
                "key sound of clashing.sound belongs to group sound already",
                "flag --help of clashing.sound belongs to every command already",
            ]
        );
    }

    #[test]
    fn a_struct_added_twice_is_one_defect() {
        let schema = Schema::new().with::<Sound>().with::<Sound>();
        assert_eq!(schema.check(), ["group sound is there twice"]);
    }

    #[test]
    fn malformed_declarations_are_defects() {
        assert_eq!(
            Schema::new().with::<Malformed>().check(),
            [
                "malformed.low: the default is out of bounds, it must be at least 1",
                "malformed.text: the default reads back as something else",
                "malformed.named: flag -named is not of the form --two-words",
                "malformed.named: flag --Named is not of the form --two-words",
                "malformed.named: env dyn_named is not of the form TWO_WORDS",
                "malformed.cache: an optional choice cannot have the word none, which means unset",
                "malformed.secret: a secret cannot have a default",
            ]
        );
    }
}
