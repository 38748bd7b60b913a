//! Exact decimal numbers with a unit, for durations and sizes: `1.5` of a unit of 1000 is 1500,
//! and what is no whole number of the smallest unit is refused rather than rounded.

/// Splits `90s` into `90` and `s...`: the leading number and everything after it.
pub(crate) fn split_number(text: &str) -> (&str, &str) {
    let end = text
        .find(|char: char| !char.is_ascii_digit() && char != '.')
        .unwrap_or(text.len());
    text.split_at(end)
}

/// `number` times `unit`, if `number` is an unsigned decimal number and the product is whole.
pub(crate) fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let numerator: u128 = format!("{whole}{fraction}").parse().ok()?;
    let product = numerator.checked_mul(unit)?;
    product.is_multiple_of(scale).then(|| product / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_exact_or_refused() {
        assert_eq!(scaled("1.5", 1000), Some(1500));
        assert_eq!(scaled("007", 1), Some(7));
        assert_eq!(scaled("0.001", 1000), Some(1));
        for text in ["", ".", "1.", ".5", "1.2.3", "-1", "0.0001"] {
            assert_eq!(scaled(text, 1000), None, "{text:?}");
        }
        assert_eq!(scaled(&"9".repeat(60), 1), None);
        assert_eq!(scaled(&format!("0.{}", "1".repeat(60)), 1000), None);
    }

    #[test]
    fn a_number_ends_where_its_unit_begins() {
        assert_eq!(split_number("90s"), ("90", "s"));
        assert_eq!(split_number("1.5 GiB"), ("1.5", " GiB"));
        assert_eq!(split_number("s"), ("", "s"));
        assert_eq!(split_number(""), ("", ""));
    }
}
