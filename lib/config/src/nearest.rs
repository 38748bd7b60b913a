//! The known name nearest to a mistyped one.

/// A name may differ from the nearest by one edit, or by one in this many characters.
const CHARACTERS_PER_EDIT: usize = 3;

/// The known name that `name` most likely means, if any is close: few edits away, or holding all
/// words of `name` among its own (`port` for `http_port`). Case and dashes do not count.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = folded(name);
    let limit = (name.chars().count() / CHARACTERS_PER_EDIT).max(1);
    known
        .into_iter()
        .filter_map(|candidate| {
            let other = folded(candidate);
            let edits = strsim::damerau_levenshtein(&name, &other);
            let is_close = edits <= limit || holds_words(&other, &name);
            is_close.then_some((edits, candidate))
        })
        // The name itself breaks ties, so that the answer does not depend on the order.
        .min()
        .map(|(_, candidate)| candidate)
}

fn folded(name: &str) -> String {
    name.to_lowercase().replace('-', "_")
}

fn holds_words(name: &str, words: &str) -> bool {
    !words.is_empty()
        && words
            .split('_')
            .all(|word| name.split('_').any(|part| part == word))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 4] = ["http_port", "http_host", "router_mode", "namespace"];

    #[test]
    fn typing_errors_find_the_name_they_meant() {
        for (typed, meant) in [
            ("http_prot", "http_port"),
            ("HTTP-PORT", "http_port"),
            ("htpp_host", "http_host"),
            ("routermode", "router_mode"),
            ("port", "http_port"),
            ("mode", "router_mode"),
        ] {
            assert_eq!(nearest(typed, KNOWN), Some(meant), "{typed}");
        }
    }

    #[test]
    fn a_name_like_nothing_known_finds_nothing() {
        for typed in ["", "zzz", "temperature", "_"] {
            assert_eq!(nearest(typed, KNOWN), None, "{typed:?}");
        }
    }
}
