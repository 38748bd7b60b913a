//! Finds the known name that a misspelt one was most likely meant to be.

/// Names longer than this are not compared: nobody misspells them, and the comparison is
/// quadratic.
const LONGEST_NAME: usize = 64;

/// The name among `known` nearest to `name`, if one is near enough to be worth suggesting: at
/// most a third of the letters differ. Of equally near names the first wins.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.is_empty() || name.len() > LONGEST_NAME {
        return None;
    }
    let lowered = name.to_ascii_lowercase();
    let mut best: Option<(usize, &str)> = None;
    for candidate in known {
        let distance = edit_distance(&lowered, candidate);
        if best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.filter(|(distance, candidate)| *distance * 3 <= candidate.len().max(name.len()))
        .map(|(_, candidate)| candidate)
}

/// The number of letters to insert, delete, replace, or swap with their neighbour.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 4] = ["temperature", "max_tokens", "min_tokens", "stop"];

    #[test]
    fn misspelt_names_find_their_neighbour() {
        assert_eq!(nearest("temprature", KNOWN), Some("temperature"));
        assert_eq!(nearest("maxTokens", KNOWN), Some("max_tokens"));
        assert_eq!(nearest("sotp", KNOWN), Some("stop"));
    }

    #[test]
    fn names_unlike_any_get_no_suggestion() {
        assert_eq!(nearest("colour", KNOWN), None);
        assert_eq!(nearest("", KNOWN), None);
        assert_eq!(nearest(&"x".repeat(10_000), KNOWN), None);
        assert_eq!(nearest("stop", []), None);
    }
}
