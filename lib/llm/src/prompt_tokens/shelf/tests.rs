//! The shelf against a list in the order of use.

use super::*;
use proptest::prelude::*;

fn piece(text: &str) -> Arc<Piece> {
    Arc::new(Piece {
        text: text.into(),
        ids: text.bytes().map(TokenId::from).collect(),
    })
}

/// Eight hashes, so that texts collide.
fn hash(text: &str) -> u64 {
    text.bytes().map(u64::from).sum::<u64>() % 8
}

fn chain(texts: &[String]) -> Vec<Hashed> {
    texts.iter().map(|text| (hash(text), piece(text))).collect()
}

/// Whole beginnings instead of chains: the newest last.
#[derive(Default)]
struct Naive {
    kept: Vec<(u64, Vec<String>)>,
}

impl Naive {
    fn bytes(&self) -> usize {
        let last = |texts: &Vec<String>| piece(&texts[texts.len() - 1]).size();
        self.kept.iter().map(|(_, texts)| last(texts)).sum()
    }

    /// How many pieces there are behind the root that look like these.
    fn looks_kept(&self, root: u64, texts: &[String]) -> Vec<String> {
        let mut known: Vec<String> = Vec::new();
        for text in texts {
            let next = self.kept.iter().find(|(of, it)| {
                *of == root
                    && it.len() == known.len() + 1
                    && it.starts_with(&known)
                    && hash(&it[known.len()]) == hash(text)
            });
            let Some((_, next)) = next else { break };
            known = next.clone();
        }
        known
    }

    fn touch(&mut self, root: u64, texts: &[String]) {
        for len in (1..=texts.len()).rev() {
            let entry = (root, texts[..len].to_vec());
            self.kept.retain(|it| *it != entry);
            self.kept.push(entry);
        }
    }

    fn find(&mut self, root: u64, texts: &[String]) -> Vec<String> {
        let known = self.looks_kept(root, texts);
        self.touch(root, &known);
        known
    }

    fn keep(&mut self, root: u64, texts: &[String], bound: usize) {
        let known = self.looks_kept(root, texts);
        if !texts.starts_with(&known) {
            return;
        }
        let mut share = bound / LARGEST_SHARE;
        let mut fits = 0;
        for (at, text) in texts.iter().enumerate() {
            let size = piece(text).size();
            if at >= known.len() && size > share {
                break;
            }
            share = share.saturating_sub(size);
            fits = at + 1;
        }
        self.touch(root, &known);
        self.touch(root, &texts[..fits]);
        while self.bytes() > bound {
            self.kept.remove(0);
        }
    }
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[a-d]{1,3}", 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn keeps_what_a_list_in_the_order_of_use_keeps(
        bound in 0_usize..9_000,
        steps in prop::collection::vec((any::<bool>(), 0_usize..2, texts()), 0..80),
    ) {
        let mut shelf = Shelf::new(bound);
        let roots = [shelf.root(), shelf.root()];
        let mut naive = Naive::default();
        for (keeps, root, texts) in steps {
            let root = roots[root];
            if keeps {
                shelf.keep(root, &chain(&texts));
                naive.keep(root, &texts, bound);
            } else {
                let found = shelf.find(root, texts.iter().map(|text| hash(text)));
                let found: Vec<String> = found.iter().map(|it| it.text.to_string()).collect();
                prop_assert_eq!(found, naive.find(root, &texts));
            }
            prop_assert_eq!(shelf.bytes(), naive.bytes());
            prop_assert!(shelf.bytes() <= bound);
            prop_assert_eq!(shelf.slots.len(), shelf.places.len());
        }
    }
}
