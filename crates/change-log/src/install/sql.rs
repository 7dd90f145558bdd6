//! Quoting for generated SQL. DDL takes no parameters, so names and constants from the rules go through these two.

/// An identifier. The catalogue has no name with a NUL in it.
pub(super) fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string constant that means the same whatever `standard_conforming_strings` is.
pub(super) fn literal(value: &str) -> String {
    let quoted = value.replace('\'', "''");
    if quoted.contains('\\') { format!(" E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use super::{ident, literal};

    #[test]
    fn quotes_cannot_be_left() {
        assert_eq!(ident(r#"a"; drop table t; --"#), r#""a""; drop table t; --""#);
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"\'; drop"), r" E'\\''; drop'");
    }
}
