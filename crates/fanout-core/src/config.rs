//! Configuration: one TOML file, shared by the workers, with the environment on top.
//!
//! Every field can be given as `GRIOT_SECTION__FIELD` (for example `GRIOT_PUBLISHER__LISTEN`); a few have the names
//! that operators already use: `REDIS_URL`, `REDIS_PASSWORD`, `DATABASE_URL`.

use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// Environment variables that name a field by another word than `GRIOT_…`.
const WELL_KNOWN: &[(&str, [&str; 2])] = &[
    ("REDIS_URL", ["redis", "url"]),
    ("REDIS_PASSWORD", ["redis", "password"]),
    ("DATABASE_URL", ["database", "url"]),
];

/// What the operators' other documents mention and this version cannot do. Silence would be worse than refusing.
const NOT_YET: &[&str] = &["REDIS_CLUSTER_NODES", "REDIS_TLS_ENABLED"];

/// Why a configuration was refused. The text says where and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// Reads a configuration from its text alone.
///
/// # Errors
/// As [`load`].
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| ConfigError(placed(&error, text)))
}

/// Line, column and sentence of an error. Not its own text, which shows the whole line: a secret may stand there.
fn placed(error: &toml::de::Error, text: &str) -> String {
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else {
        return error.message().to_owned();
    };
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}: {}", error.message())
}

/// Reads `file`, lays `environment` over it and checks the result against `T`.
///
/// # Errors
/// An unreadable file, a TOML error with its line, an unknown key, or a value of the wrong type.
pub fn load<T: DeserializeOwned>(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<T, ConfigError> {
    let in_file = |error: ConfigError| match file {
        Some(file) => ConfigError(format!("{}: {error}", file.display())),
        None => error,
    };
    let text = match file {
        Some(file) => std::fs::read_to_string(file).map_err(|error| in_file(ConfigError(error.to_string())))?,
        None => String::new(),
    };
    let overlaid = overlay(environment)?;
    if overlaid.is_empty() {
        return parse(&text).map_err(in_file);
    }
    let mut table: Table = parse(&text).map_err(in_file)?;
    let mut names = Vec::new();
    for (name, section, field, value) in overlaid {
        let entry = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(section) = entry {
            section.insert(field, value);
        }
        names.push(name);
    }
    T::deserialize(table).map_err(|error| {
        let error = in_file(ConfigError(error.message().to_owned()));
        ConfigError(format!("{error} (with {} from the environment)", names.join(", ")))
    })
}

type Overlaid = (String, String, String, Value);

fn overlay(environment: impl IntoIterator<Item = (String, String)>) -> Result<Vec<Overlaid>, ConfigError> {
    let mut fields = Vec::new();
    for (name, value) in environment {
        if NOT_YET.contains(&name.as_str()) && !matches!(value.as_str(), "" | "false" | "0") {
            return Err(ConfigError(format!(
                "{name} is set, but this version speaks to one Redis without TLS only: unset it and give REDIS_URL"
            )));
        }
        let (section, field) = if let Some((_, [section, field])) = WELL_KNOWN.iter().find(|(known, _)| *known == name)
        {
            ((*section).to_owned(), (*field).to_owned())
        } else if let Some(path) = name.strip_prefix("GRIOT_")
            && let Some((section, field)) = path.split_once("__")
        {
            (section.to_lowercase(), field.to_lowercase())
        } else {
            continue;
        };
        let value = typed(&field, value);
        fields.push((name, section, field, value));
    }
    Ok(fields)
}

/// A variable is text; where the field is not one that is always text, a number, a boolean or a list is taken as such.
fn typed(field: &str, value: String) -> Value {
    const ALWAYS_TEXT: [&str; 4] = ["url", "password", "secret", "key"];
    if ALWAYS_TEXT.iter().any(|suffix| field.ends_with(suffix)) {
        return Value::String(value);
    }
    match toml::from_str::<Table>(&format!("value = {value}")) {
        Ok(mut table) if table.len() == 1 => table.remove("value").unwrap_or(Value::String(value)),
        _ => Value::String(value),
    }
}

/// The secret itself, or what the file holds; the file wins nothing: giving both is refused.
///
/// # Errors
/// Both given, an unreadable file, an empty secret.
pub fn secret(
    field: &str,
    value: Option<&SecretString>,
    file: Option<&PathBuf>,
) -> Result<Option<SecretString>, ConfigError> {
    let secret = match (value, file) {
        (Some(_), Some(_)) => {
            return Err(ConfigError(format!("{field} and {field}_file are both given: keep one of them")));
        }
        (Some(value), None) => value.expose_secret().to_owned(),
        (None, Some(file)) => std::fs::read_to_string(file)
            .map_err(|error| ConfigError(format!("{field}_file = {:?}: {error}", file.display())))?
            .trim_end_matches(['\r', '\n'])
            .to_owned(),
        (None, None) => return Ok(None),
    };
    if secret.is_empty() {
        return Err(ConfigError(format!("{field} is empty")));
    }
    Ok(Some(secret.into()))
}

/// How the process writes its log.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// What is written, in the syntax of tracing's `EnvFilter`: `info`, `info,fred=warn`, …
    pub filter: String,
    /// `text` for people, `json` for machines.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { filter: "info,fred=error".into(), format: LogFormat::Text }
    }
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// One readable line per entry.
    Text,
    /// One JSON object per line.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        redis: Redis,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Redis {
        url: String,
        password: Option<String>,
        partitions: Option<u16>,
    }

    fn vars(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_environment_lies_over_the_file_and_keeps_text_as_text() {
        let environment = vars(&[
            ("REDIS_URL", "redis://h:1"),
            ("REDIS_PASSWORD", "123"),
            ("GRIOT_REDIS__PARTITIONS", "8"),
            ("HOME", "/"),
        ]);
        let example: Example = load(None, environment).expect("config");
        assert_eq!(example.redis.url, "redis://h:1");
        assert_eq!(example.redis.password.as_deref(), Some("123"));
        assert_eq!(example.redis.partitions, Some(8));
    }

    #[test]
    fn an_unknown_field_is_refused_with_its_name() {
        let error = load::<Example>(None, vars(&[("GRIOT_REDIS__PARTITION", "8")])).expect_err("typo").to_string();
        assert!(error.contains("partition") && error.contains("GRIOT_REDIS__PARTITION"), "{error}");
    }

    #[test]
    fn an_error_says_where_and_shows_no_secret() {
        let text = "[redis]\nurl = \"redis://h:1\"\n  password = hunter2\n";
        let error = parse::<Example>(text).expect_err("not quoted").to_string();
        assert!(error.starts_with("line 3, column ") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn what_this_version_cannot_do_is_said() {
        let error =
            load::<Example>(None, vars(&[("REDIS_CLUSTER_NODES", "a:1,b:2")])).expect_err("cluster").to_string();
        assert!(error.contains("REDIS_CLUSTER_NODES") && error.contains("REDIS_URL"), "{error}");
    }
}
