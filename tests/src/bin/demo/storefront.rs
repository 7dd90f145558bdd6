//! The shop's own backend: serves the page, signs visitors in, and reads prices and balances through the cache.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use fanout_core::Shutdown;
use griot_tests::stage::Stage;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::caches::Caches;
use crate::shop::CUSTOMERS;

/// The address one likes to remember; another demo may have it already.
const PREFERRED: u16 = 8080;

const PRODUCT: &str = "
    select jsonb_build_object('id', id, 'name', name, 'price_cents', price_cents, 'stock', stock)::text
    from products where id = $1";
/// As a payment writes it through.
const BALANCE: &str = "
    select jsonb_build_object('balance_cents', balance_cents, 'version', version)::text from wallets where user_id = $1";

struct Shop {
    stage: Arc<Stage>,
    caches: Arc<Caches>,
    pages: PathBuf,
}

/// A listener and the origin of the pages that it serves.
pub(crate) async fn bind(any_port: bool) -> Result<(TcpListener, String)> {
    let at = |port| TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let listener = match at(if any_port { 0 } else { PREFERRED }).await {
        Ok(listener) => listener,
        Err(_) => at(0).await.context("no port for the storefront")?,
    };
    let origin = format!("http://{}", listener.local_addr()?);
    Ok((listener, origin))
}

/// Serves until the ending is asked for.
pub(crate) async fn serve(listener: TcpListener, stage: Arc<Stage>, caches: Arc<Caches>, shutdown: Shutdown) {
    let pages = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../web/dist"));
    let routes = Router::new()
        .route("/demo/users", get(users))
        .route("/demo/sign-in", post(sign_in))
        .route("/demo/snapshot", get(snapshot))
        .route("/demo/product/{id}", get(product))
        .fallback(page)
        .with_state(Arc::new(Shop { stage, caches, pages }));
    let served = axum::serve(listener, routes).with_graceful_shutdown(async move { shutdown.requested().await });
    if let Err(error) = served.await {
        eprintln!("demo: the storefront ended: {error}");
    }
}

/// Any failure, as the page gets it.
struct Failure(StatusCode, String);

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, format!("{:#}", error.into()))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

async fn users() -> Json<Value> {
    Json(CUSTOMERS.iter().map(|(id, name)| json!({"id": id, "name": name})).collect())
}

#[derive(Deserialize)]
struct User {
    user: String,
}

/// A demo asks for no password; that is the one thing not to copy from here.
async fn sign_in(State(shop): State<Arc<Shop>>, Json(User { user }): Json<User>) -> Result<Json<Value>, Failure> {
    if !CUSTOMERS.iter().any(|(id, _)| *id == user) {
        return Err(Failure(StatusCode::FORBIDDEN, "nobody of that id shops here".into()));
    }
    Ok(Json(json!({"token": shop.stage.token(&user), "socket": shop.stage.socket()})))
}

async fn snapshot(
    State(shop): State<Arc<Shop>>,
    Query(User { user }): Query<User>,
    headers: HeaderMap,
) -> Result<Json<Value>, Failure> {
    let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let config = subscriber_bridge::BridgeConfig {
        token_secret: Some(shop.stage.secret.clone().into()),
        ..subscriber_bridge::BridgeConfig::default()
    };
    let identity =
        subscriber_bridge::tokens(&config)?.connection(token.unwrap_or_default(), griot_tests::token::unix_seconds());
    if !identity.is_ok_and(|identity| identity.user.is_some_and(|signed_in| signed_in.as_str() == user)) {
        return Err(Failure(StatusCode::FORBIDDEN, "sign in first".into()));
    }
    let pool = shop.stage.database.pool();
    let orders: Vec<Value> = sqlx::query_scalar(
        "select jsonb_build_object(
             'id', id, 'status', status, 'total_cents', total_cents, 'committed_at_us', committed_at_us)
         from orders where user_id = $1 order by id desc limit 12",
    )
    .bind(&user)
    .fetch_all(pool)
    .await?;
    let (balances, key) = shop.caches.balance(&user);
    let load = async || sqlx::query_scalar::<_, String>(BALANCE).bind(&user).fetch_one(pool).await;
    let wallet: Value = serde_json::from_slice(&balances.read_through(&key, load).await?)?;
    Ok(Json(json!({"orders": orders, "wallet": wallet, "product": {"id": 1}})))
}

async fn product(State(shop): State<Arc<Shop>>, Path(id): Path<i64>) -> Result<Json<Value>, Failure> {
    let mut source = "cache";
    let load = async || {
        source = "database";
        sqlx::query_scalar::<_, String>(PRODUCT).bind(id).fetch_one(shop.stage.database.pool()).await
    };
    let (products, key) = shop.caches.product(id);
    let product = match products.read_through(&key, load).await {
        Err(cache::Error::Load(error)) if matches!(*error, sqlx::Error::RowNotFound) => {
            return Err(Failure(StatusCode::NOT_FOUND, format!("no product {id}")));
        }
        product => product?,
    };
    let mut product: Value = serde_json::from_slice(&product)?;
    product["source"] = source.into();
    Ok(Json(product))
}

/// The built page and its assets, and nothing beside them.
async fn page(State(shop): State<Arc<Shop>>, uri: Uri) -> Response {
    let path = uri.path().trim_start_matches('/');
    let path = if path.is_empty() { "index.html" } else { path };
    let plain = path.split('/').all(|part| !part.is_empty() && !part.starts_with('.'));
    let read = if plain { tokio::fs::read(shop.pages.join(path)).await.ok() } else { None };
    let Some(bytes) = read else {
        let missing =
            "nothing here. Was the page built? `./dev demo` does it, and so does `npm ci && npm run build` in web/\n";
        return (StatusCode::NOT_FOUND, missing).into_response();
    };
    let form = match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    };
    let keep = if path.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
    let policy = "default-src 'self'; connect-src 'self' ws:; img-src 'self' data:; frame-ancestors 'none'";
    let headers = [
        (header::CONTENT_TYPE, form),
        (header::CACHE_CONTROL, keep),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, bytes).into_response()
}
