//! Rounds as readers see them: the middle, the ends, and in so many digits as mean something.

/// The middle and the ends of some rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Summary {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Summary {
    /// Nothing where no round gave a number.
    pub(super) fn of(rounds: &[f64]) -> Option<Self> {
        let mut rounds: Vec<f64> = rounds.iter().copied().filter(|round| round.is_finite()).collect();
        rounds.sort_by(f64::total_cmp);
        let (min, max) = (*rounds.first()?, *rounds.last()?);
        let middle = rounds.len() / 2;
        let median =
            if rounds.len() % 2 == 1 { rounds[middle] } else { f64::midpoint(rounds[middle - 1], rounds[middle]) };
        Some(Self { median, min, max })
    }
}

/// Three digits that count, thousands apart: `0.012`, `4.57`, `12,346`.
pub(super) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".into();
    }
    let digits = match value.abs() {
        0.0 => 0,
        size if size >= 100.0 => 0,
        size => (2 - size.log10().floor() as i32).clamp(0, 6) as usize,
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_once('.').map_or((text.as_str(), None), |(whole, rest)| (whole, Some(rest)));
    let mut out = String::new();
    for (index, digit) in whole.chars().enumerate() {
        let left = whole.len() - index;
        if index > 0 && left % 3 == 0 && whole.as_bytes()[index - 1].is_ascii_digit() {
            out.push(',');
        }
        out.push(digit);
    }
    match rest {
        Some(rest) => out + "." + rest,
        None => out,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_of_odd_and_between_the_middles_of_even_counts() {
        assert_eq!(Summary::of(&[9.0, 1.0, 2.0]), Some(Summary { median: 2.0, min: 1.0, max: 9.0 }));
        assert_eq!(Summary::of(&[4.0, 1.0, 2.0, 9.0]), Some(Summary { median: 3.0, min: 1.0, max: 9.0 }));
        assert_eq!(Summary::of(&[5.0]), Some(Summary { median: 5.0, min: 5.0, max: 5.0 }));
    }

    #[test]
    fn rounds_without_a_number_do_not_count() {
        assert_eq!(Summary::of(&[f64::NAN, 3.0, f64::INFINITY]), Some(Summary { median: 3.0, min: 3.0, max: 3.0 }));
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[f64::NAN]), None);
    }

    #[test]
    fn numbers_have_three_digits_that_count() {
        let cases = [
            (0.0, "0"),
            (0.01234, "0.0123"),
            (1.0, "1.00"),
            (4.567, "4.57"),
            (45.67, "45.7"),
            (456.7, "457"),
            (12_345.6, "12,346"),
            (1_234_567.0, "1,234,567"),
            (-1234.0, "-1,234"),
            (-123.0, "-123"),
            (f64::NAN, "–"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text, "{value}");
        }
    }
}
