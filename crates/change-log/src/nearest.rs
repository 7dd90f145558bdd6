//! Helps with names that are not there: the nearest one that is.

/// The candidate that takes the fewest edits, unless that would be most of the name.
pub(crate) fn nearest<'c>(name: &str, candidates: &'c [impl AsRef<str>]) -> Option<&'c str> {
    let limit = name.chars().count().div_ceil(2);
    candidates
        .iter()
        .map(|candidate| (distance(name, candidate.as_ref()), candidate.as_ref()))
        .min()
        .filter(|(edits, _)| *edits <= limit)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::{distance, nearest};

    #[test]
    fn the_nearest_name_is_offered_unless_it_is_far() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "ab"), 2);
        let names = ["user_id", "status", "total_cents"];
        assert_eq!(nearest("userid", &names), Some("user_id"));
        assert_eq!(nearest("colour", &names), None);
    }
}
