//! Text with placeholders: `product:{id}`. A placeholder is a column's name, with `old.` or `new.` before it where only
//! that version of the row is meant; literal braces are written twice.

use crate::entry::RowChange;

use super::Place;
use super::render::FaultReason;
use super::values::{ColumnName, Version, value};

/// A parsed template.
#[derive(Debug)]
pub(super) struct Template {
    text: String,
    pieces: Vec<Piece>,
    /// Where it stands in the file.
    pub(super) place: Place,
}

/// A part of a template. Two literals never follow each other.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Literal(String),
    Column(ColumnName),
}

impl Template {
    /// Reads `text`, or says in a sentence what is wrong with it.
    pub(super) fn parse(text: &str, place: Place) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '{' | '}' if rest.next_if_eq(&c).is_some() => literal.push(c),
                '}' => return Err("a } stands alone; a literal one is written }}".to_owned()),
                '{' => {
                    let mut column = String::new();
                    loop {
                        match rest.next() {
                            Some('}') => break,
                            Some('{') | None => {
                                return Err("a { is not closed; a literal one is written {{".to_owned());
                            }
                            Some(c) => column.push(c),
                        }
                    }
                    let column = ColumnName::parse(&column);
                    if column.name.is_empty() {
                        return Err("a placeholder names no column".to_owned());
                    }
                    if !literal.is_empty() {
                        pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                    }
                    pieces.push(Piece::Column(column));
                }
                c => literal.push(c),
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        if pieces.is_empty() {
            return Err("it is empty".to_owned());
        }
        Ok(Self { text: text.to_owned(), pieces, place })
    }

    /// As it stands in the file.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The columns that the template names, as often as it does.
    pub(super) fn columns(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Column(column) => Some(column.name.as_str()),
            Piece::Literal(_) => None,
        })
    }

    /// What stands before the first placeholder.
    pub(super) fn prefix(&self) -> &str {
        match self.pieces.first() {
            Some(Piece::Literal(literal)) => literal,
            _ => "",
        }
    }

    /// The parts in order.
    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Whether the template has no placeholder.
    pub(super) fn is_literal(&self) -> bool {
        self.columns().next().is_none()
    }

    /// Whether a placeholder is of this version only.
    pub(super) fn names(&self, version: Version) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Column(column) if column.version == Some(version)))
    }

    /// Puts the values of `version` of the row in place of the placeholders; `push` appends one value to the text so far, escaped or checked
    /// as the place demands. `None` when a value is NULL.
    pub(super) fn render(
        &self,
        change: &RowChange,
        version: Version,
        mut push: impl FnMut(&mut String, &str) -> Result<(), FaultReason>,
    ) -> Result<Option<String>, FaultReason> {
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(literal) => text.push_str(literal),
                Piece::Column(column) => match value(change, column.version.unwrap_or(version), &column.name)? {
                    Some(value) => push(&mut text, value)?,
                    None => return Ok(None),
                },
            }
        }
        Ok(Some(text))
    }

    /// The pattern that matches whatever the template can render: each placeholder becomes `*`.
    pub(super) fn widened(&self, escape_literals: bool) -> String {
        let mut pattern = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(literal) if escape_literals => push_escaped(&mut pattern, literal),
                Piece::Literal(literal) => pattern.push_str(literal),
                Piece::Column(_) if pattern.ends_with('*') && !pattern.ends_with("\\*") => {}
                Piece::Column(_) => pattern.push('*'),
            }
        }
        pattern
    }
}

/// Appends `value` so that it matches nothing but itself in Redis's glob.
pub(super) fn push_escaped(pattern: &mut String, value: &str) {
    for c in value.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
}
