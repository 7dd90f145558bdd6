//! Where the database may be: one address or several, as operators write them.

use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

use crate::error::Error;

/// Whatever is at the other end: notice when it has vanished, and end what a cancelled call left behind.
const SESSION: [(&str, &str); 5] = [
    ("tcp_keepalives_idle", "20"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    ("statement_timeout", "30s"),
    ("idle_in_transaction_session_timeout", "30s"),
];

/// Parses `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, several of them with commas between, or one with several
/// `HOST:PORT`, as libpq takes it.
pub(crate) fn parse(list: &str, application_name: &str) -> Result<Vec<PgConnectOptions>, Error> {
    let parsed = |address: String| {
        let options = PgConnectOptions::from_str(&address).map_err(|error| Error::Address(error.to_string()))?;
        Ok(options.application_name(application_name).options(SESSION))
    };
    addresses(list).iter().flat_map(|address| hosts(address)).map(parsed).collect()
}

/// A server as errors name it, without user and password.
pub(crate) fn name(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or(options.get_username());
    match options.get_socket() {
        Some(folder) => format!("{}:{}/{database}", folder.display(), options.get_port()),
        None => format!("{}:{}/{database}", options.get_host(), options.get_port()),
    }
}

/// The addresses of a list. A comma also stands between hosts, and perhaps in a password: only before a scheme does it
/// begin another address.
fn addresses(list: &str) -> Vec<String> {
    let mut addresses: Vec<String> = Vec::new();
    for piece in list.trim_matches(|c: char| c == ',' || c.is_whitespace()).split(',') {
        let begins = ["postgres://", "postgresql://"].iter().any(|scheme| piece.trim_start().starts_with(scheme));
        match addresses.last_mut() {
            Some(last) if !begins => {
                last.push(',');
                last.push_str(piece);
            }
            _ => addresses.push(piece.trim_start().to_owned()),
        }
    }
    addresses
}

/// One address per host.
fn hosts(address: &str) -> Vec<String> {
    let Some((scheme, rest)) = address.split_once("://") else { return vec![address.to_owned()] };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let at = authority.rfind('@').map_or(0, |at| at + 1);
    let (user, hosts) = authority.split_at(at);
    hosts.split(',').map(|host| format!("{scheme}://{user}{}{path}", host.trim())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &str) -> Vec<String> {
        parse(list, "test").expect("addresses").iter().map(name).collect()
    }

    #[test]
    fn one_address_several_and_several_hosts() {
        assert_eq!(names("postgres://u:p@a:1/shop"), ["a:1/shop"]);
        assert_eq!(names("postgres://a/shop, postgresql://b:2/shop?sslmode=disable,\n"), ["a:5432/shop", "b:2/shop"]);
        assert_eq!(
            names("postgres://u:p@a:1,b,[::1]:3/shop?sslmode=disable"),
            ["a:1/shop", "b:5432/shop", "[::1]:3/shop"]
        );
        assert_eq!(names("postgres://u:p@a,b/x,postgres://c/x"), ["a:5432/x", "b:5432/x", "c:5432/x"]);
        assert_eq!(names("postgres://u@%2Frun%2Fpg/shop"), ["/run/pg:5432/shop"]);
    }

    #[test]
    fn each_host_is_given_the_user_and_the_password() {
        let servers = parse("postgres://u:p%2C,w@a,b/shop", "test").expect("addresses");
        assert_eq!(servers.len(), 2);
        assert!(servers.iter().all(|server| server.get_username() == "u"));
        let options = servers[1].get_options().expect("options");
        assert!(options.contains("-c statement_timeout=30s"), "{options}");
    }

    #[test]
    fn what_is_no_address_is_refused_without_showing_the_password() {
        for list in ["", "localhost/shop", "postgres://u:secret@a:port/shop", "postgres://u:secret@a:1,b:x/shop"] {
            let error = parse(list, "test").expect_err(list);
            assert!(matches!(error, Error::Address(_)) && !error.to_string().contains("secret"), "{error}");
        }
    }
}
