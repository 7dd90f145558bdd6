use serde_json::json;

use super::*;

const NOW: u64 = 1_800_000_000;

fn identity(claims: Value) -> Result<Identity, TokenError> {
    super::identity(&claims.to_string(), None, NOW)
}

fn grant(claims: Value) -> Result<Grant, TokenError> {
    super::grant(&claims.to_string(), None, NOW)
}

fn user(id: &str) -> Option<UserId> {
    UserId::parse(id).ok()
}

fn data(json: &str) -> Option<Data> {
    Data::parse(json.to_owned()).ok()
}

#[test]
fn a_token_names_its_user_or_nobody() {
    assert_eq!(identity(json!({"sub": "42"})).map(|identity| identity.user), Ok(user("42")));
    for nobody in [json!({}), json!({"sub": ""}), json!({"sub": null})] {
        assert_eq!(identity(nobody).map(|identity| identity.user), Ok(None));
    }
    for claims in [
        json!({"sub": 42}),
        json!({"sub": "4,2"}),
        json!({"sub": "a#42"}),
        json!({"sub": "4 2"}),
        json!({"sub": "é"}),
        json!({"sub": "42", "channel": "orders:#42"}),
        json!({"sub": "42", "exp": "soon"}),
        json!({"sub": "42", "subs": {"not a channel": {}}}),
        json!({"sub": "42", "subs": {"orders": {"override": {"presence": true}}}}),
        json!({"sub": "42", "channels": "orders"}),
        json!(["42"]),
    ] {
        assert_eq!(identity(claims.clone()), Err(TokenError::Invalid), "{claims}");
    }
}

#[test]
fn another_claim_may_name_the_user() {
    let named = |claims: Value| super::identity(&claims.to_string(), Some("uid"), NOW).map(|identity| identity.user);
    assert_eq!(named(json!({"sub": "1", "uid": "42"})), Ok(user("42")));
    assert_eq!(named(json!({"sub": "1"})), Ok(None), "sub means nothing then");
    assert_eq!(named(json!({"uid": 42})), Err(TokenError::Invalid));
}

#[test]
fn times_limit_the_token_and_the_connection() {
    let expires_at = |claims| identity(claims).map(|identity| identity.expires_at);
    assert_eq!(expires_at(json!({"exp": NOW + 1})), Ok(Some(NOW + 1)));
    assert_eq!(expires_at(json!({"exp": NOW as f64 + 1.5})), Ok(Some(NOW + 1)));
    assert_eq!(expires_at(json!({"exp": NOW + 1, "expire_at": NOW + 9})), Ok(Some(NOW + 9)));
    assert_eq!(expires_at(json!({"exp": NOW + 1, "expire_at": 0})), Ok(None), "never");
    assert_eq!(expires_at(json!({"exp": NOW * 2})), Ok(Some(NOW + MAX_TTL)));
    for gone in [
        json!({"exp": NOW}),
        json!({"exp": -1}),
        json!({"nbf": NOW + 1}),
        json!({"exp": NOW, "expire_at": 0}),
        json!({"exp": NOW + 1, "expire_at": NOW}),
    ] {
        assert_eq!(expires_at(gone.clone()), Err(TokenError::Expired), "{gone}");
    }
}

#[test]
fn info_is_kept_as_it_was_written() {
    let info = |claims: &str| super::identity(claims, None, NOW).map(|identity| identity.info);
    assert_eq!(info(r#"{"info":{"n": 9007199254740993}}"#), Ok(data(r#"{"n": 9007199254740993}"#)));
    assert_eq!(info(r#"{"info":1,"b64info":"eyJhIjoxfQ=="}"#), Ok(data(r#"{"a":1}"#)));
    assert_eq!(info(r#"{"b64info":"eyJhIjoxfQ"}"#), Ok(data(r#"{"a":1}"#)), "without padding");
    for bad in [r#"{"b64info":"AAECAw=="}"#, r#"{"b64info":"%"}"#] {
        assert_eq!(info(bad), Err(TokenError::Invalid), "{bad}");
    }
}

#[test]
fn channels_are_granted_with_options_or_without() {
    let names = |claims| {
        identity(claims).map(|identity| identity.subs.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>())
    };
    assert_eq!(names(json!({"channels": ["orders", "orders:room"]})), Ok(vec!["orders".into(), "orders:room".into()]));
    assert_eq!(names(json!({"channels": ["orders"], "subs": {"news": {}}})), Ok(vec!["news".into()]));
    let subs = identity(json!({"subs": {"news": {
        "info": {"a": 1}, "data": [2], "override": {"presence": {"value": false}, "force_recovery": {"value": true}}
    }}}));
    let options = subs.expect("valid").subs.remove(0).1;
    assert_eq!((options.info, options.data), (data(r#"{"a":1}"#), data("[2]")));
    let expected = Overrides { presence: Some(false), force_recovery: Some(true), ..Overrides::default() };
    assert_eq!(options.overrides, expected);
    let many = |count| (0..count).map(|n| format!("orders:{n}")).collect::<Vec<_>>();
    assert!(identity(json!({"channels": many(MAX_TOKEN_CHANNELS)})).is_ok());
    assert_eq!(identity(json!({"channels": many(MAX_TOKEN_CHANNELS + 1)})), Err(TokenError::Invalid));
}

#[test]
fn a_grant_is_for_one_user_one_channel_and_perhaps_one_connection() {
    let room = Channel::parse("orders:room").expect("channel");
    let other = Channel::parse("orders:other").expect("channel");
    let given = grant(json!({"sub": "42", "channel": "orders:room", "exp": NOW + 9, "info": {"a": 1}})).expect("valid");
    assert_eq!((given.expires_at, &given.options.info), (Some(NOW + 9), &data(r#"{"a":1}"#)));
    assert!(given.fits(user("42").as_ref(), &room, "any"));
    assert!(!given.fits(user("43").as_ref(), &room, "any") && !given.fits(None, &room, "any"));
    assert!(!given.fits(user("42").as_ref(), &other, "any"));
    let anonymous = grant(json!({"channel": "orders:room", "client": "c1"})).expect("valid");
    assert!(anonymous.fits(None, &room, "c1") && !anonymous.fits(None, &room, "c2"));
    assert!(!anonymous.fits(user("42").as_ref(), &room, "c1"));
    assert_eq!(grant(json!({"sub": "42", "channel": "orders:room", "exp": NOW})), Err(TokenError::Expired));
    assert_eq!(grant(json!({"sub": "42"})), Err(TokenError::Invalid), "a connection token opens no channel");
    assert_eq!(grant(json!({"sub": "42", "channel": ""})), Err(TokenError::Invalid));
}
