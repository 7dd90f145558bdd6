//! Which pages may connect, and what browsers are told of it (CORS).

use fanout_core::control::glob;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Seconds for which a browser need not ask again.
const MAX_AGE: HeaderValue = HeaderValue::from_static("300");

/// Whether a page of `origin` may connect: it matches one of the patterns, in which `*` stands for any characters, in
/// whichever case. Browsers always send `Origin`; what sends none is no page, and holds no cookies of a visitor.
pub(crate) fn is_allowed(origin: Option<&HeaderValue>, patterns: &[String]) -> bool {
    let Some(origin) = origin else { return true };
    let Ok(origin) = origin.to_str().map(str::to_ascii_lowercase) else { return false };
    patterns.iter().any(|pattern| !pattern.is_empty() && glob(&pattern.to_ascii_lowercase(), &origin))
}

/// Lets the page that made a request with the headers `asked` read the answer.
pub(crate) fn expose(asked: &HeaderMap, answered: &mut HeaderMap) {
    answered.append(header::VARY, HeaderValue::from_static("Origin"));
    let Some(origin) = asked.get(header::ORIGIN) else { return };
    answered.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    answered.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
}

/// Answers what a browser asks before a request of another page: it may use `methods`, and the headers that it wants.
pub(crate) fn permit(asked: &HeaderMap, methods: &'static str, answered: &mut HeaderMap) {
    const WANTED: HeaderName = header::ACCESS_CONTROL_REQUEST_HEADERS;
    answered.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
    answered.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    if let Some(wanted) = asked.get(WANTED) {
        answered.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_match_patterns_in_whichever_case() {
        for (pattern, origin, allowed) in [
            ("https://shop.example", "https://shop.example", true),
            ("https://Shop.example", "https://shop.EXAMPLE", true),
            ("https://shop.example", "http://shop.example", false),
            ("https://shop.example", "https://shop.example.evil", false),
            ("https://shop.example", "https://shop.example:8443", false),
            ("https://*.shop.example", "https://eu.shop.example", true),
            ("https://*.shop.example", "https://shop.example", false),
            ("https://*.shop.example", "https://evilshop.example", false),
            ("https://*.shop.example", "https://eu.shop.example.evil", false),
            ("*", "null", true),
            ("", "https://shop.example", false),
        ] {
            let origin = HeaderValue::from_static(origin);
            assert_eq!(is_allowed(Some(&origin), &[pattern.to_owned()]), allowed, "{pattern:?} {origin:?}");
        }
        let odd = HeaderValue::from_bytes(b"https://\xff").expect("a header");
        assert!(!is_allowed(Some(&odd), &["https://shop.example".into()]) && is_allowed(None, &[]));
        assert!(!is_allowed(Some(&HeaderValue::from_static("https://shop.example")), &[]), "no pattern, no page");
    }
}
