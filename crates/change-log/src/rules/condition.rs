//! `[rules.NAME.when]`: for which rows a rule applies, asked of the values before and after the change.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use crate::entry::RowChange;

use super::Place;
use super::render::FaultReason;
use super::values::{Version, value};

/// Tests that must all hold; without any, the rule applies to every row.
#[derive(Debug, Default)]
pub(super) struct Condition {
    tests: Vec<Test>,
}

#[derive(Debug)]
struct Test {
    version: Version,
    column: String,
    place: Place,
    expected: Expected,
}

/// What a column's text must be. Values are compared as PostgreSQL writes them.
#[derive(Debug)]
pub(super) enum Expected {
    OneOf(Vec<String>),
    /// NULL is none of them.
    NoneOf(Vec<String>),
    Null(bool),
}

impl Condition {
    pub(super) fn is_empty(&self) -> bool {
        self.tests.is_empty()
    }

    /// The columns that are compared, and where they stand in the file.
    pub(super) fn columns(&self) -> impl Iterator<Item = (&str, Place)> {
        self.tests.iter().map(|test| (test.column.as_str(), test.place))
    }

    /// Whether the rule applies. An insert's old values and a delete's new ones are NULL.
    pub(super) fn holds(&self, change: &RowChange) -> Result<bool, FaultReason> {
        for test in &self.tests {
            if !test.expected.is_met(value(change, test.version, &test.column)?) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What people read: `new.status is "paid" and old.status is not "paid"`.
    pub(super) fn sentence(&self) -> String {
        let tests = self.tests.iter().map(|test| {
            let version = if test.version == Version::Old { "old" } else { "new" };
            format!("{version}.{} {}", test.column, test.expected.sentence())
        });
        tests.collect::<Vec<_>>().join(" and ")
    }
}

impl Expected {
    fn is_met(&self, value: Option<&str>) -> bool {
        let listed = |values: &[String]| value.is_some_and(|value| values.iter().any(|v| v == value));
        match self {
            Self::OneOf(values) => listed(values),
            Self::NoneOf(values) => !listed(values),
            Self::Null(null) => value.is_none() == *null,
        }
    }

    fn sentence(&self) -> String {
        let list = |values: &[String]| values.iter().map(|v| format!("{v:?}")).collect::<Vec<_>>().join(" or ");
        match self {
            Self::OneOf(values) => format!("is {}", list(values)),
            Self::NoneOf(values) => format!("is not {}", list(values)),
            Self::Null(true) => "is null".to_owned(),
            Self::Null(false) => "is not null".to_owned(),
        }
    }
}

/// The table as it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConditionFile {
    #[serde(default)]
    old: BTreeMap<Spanned<String>, Spanned<ExpectedFile>>,
    #[serde(default)]
    new: BTreeMap<Spanned<String>, Spanned<ExpectedFile>>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a column is compared with a text, an integer or a boolean, a list of them, { not = … } or { null = … }"
)]
enum ExpectedFile {
    OneOf(Values),
    Other(Other),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Other {
    Not(Values),
    Null(bool),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    One(Scalar),
    Many(Vec<Scalar>),
}

/// No fractions: `1.50` of a `numeric` and `1.5` are different texts, so they are written as texts.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Text(String),
    Integer(i64),
    Boolean(bool),
}

impl ConditionFile {
    /// Reads the tests; `problem` is told what is wrong, and at which byte.
    pub(super) fn read(
        self,
        place: impl Fn(usize) -> Place,
        mut problem: impl FnMut(Place, &'static str),
    ) -> Condition {
        let versions = [(Version::Old, self.old), (Version::New, self.new)];
        let mut tests = Vec::new();
        for (version, columns) in versions {
            for (column, expected) in columns {
                let expected_at = place(expected.span().start);
                let expected = Expected::from(expected.into_inner());
                if matches!(&expected, Expected::OneOf(values) | Expected::NoneOf(values) if values.is_empty()) {
                    problem(expected_at, "an empty list compares with nothing");
                }
                let at = place(column.span().start);
                tests.push(Test { version, column: column.into_inner(), place: at, expected });
            }
        }
        Condition { tests }
    }
}

impl From<ExpectedFile> for Expected {
    fn from(file: ExpectedFile) -> Self {
        match file {
            ExpectedFile::OneOf(values) => Self::OneOf(values.texts()),
            ExpectedFile::Other(Other::Not(values)) => Self::NoneOf(values.texts()),
            ExpectedFile::Other(Other::Null(null)) => Self::Null(null),
        }
    }
}

impl Values {
    fn texts(self) -> Vec<String> {
        let scalars = match self {
            Self::One(value) => vec![value],
            Self::Many(values) => values,
        };
        scalars
            .into_iter()
            .map(|value| match value {
                Scalar::Text(text) => text,
                Scalar::Integer(number) => number.to_string(),
                Scalar::Boolean(flag) => flag.to_string(),
            })
            .collect()
    }
}
