//! docs/signing-in.md, its Rust part.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::{HeaderMap, StatusCode, header};
use axum::{Router, routing::get};
use jsonwebtoken::{EncodingKey, Header, encode};

fn token(user: &str, seconds: u64) -> anyhow::Result<String> {
    let secret = std::env::var("GRIOT_TOKEN_SECRET")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let claims = serde_json::json!({ "sub": user, "exp": now + seconds });
    Ok(encode(&Header::default(), &claims, &EncodingKey::from_secret(secret.as_bytes()))?)
}

/// Yours: the session's user.
fn user_of(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::COOKIE)?.to_str().ok()?.strip_prefix("user=")
}

async fn griot_token(headers: HeaderMap) -> (StatusCode, [(header::HeaderName, &'static str); 1], String) {
    let uncached = [(header::CACHE_CONTROL, "no-store")];
    match user_of(&headers).map(|user| token(user, 600)) {
        Some(Ok(token)) => (StatusCode::OK, uncached, token),
        Some(Err(_)) => (StatusCode::INTERNAL_SERVER_ERROR, uncached, "no secret".into()),
        None => (StatusCode::FORBIDDEN, uncached, "sign in first".into()),
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", std::env::var("PORT")?.parse()?)).await?;
    Ok(axum::serve(listener, Router::new().route("/griot-token", get(griot_token))).await?)
}
