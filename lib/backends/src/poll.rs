//! Asks a server again and again what it serves.

use crate::fleet::{Backend, Fleet};
use crate::health::{Sign, Trouble};
use crate::listing::{self, ListedModel};
use crate::wire::Arrival;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST};
use http::{Method, Request};
use http_body_util::Full;
use std::sync::Arc;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Largest list of models: a thousand adapters with all that vLLM says of each.
const MAX_LISTING: usize = 2 * 1024 * 1024;

/// Polls a server until dropped.
pub(crate) async fn poll(fleet: Arc<Fleet>, backend: Arc<Backend>) {
    let mut ticks = interval(fleet.patience.poll_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let asked = timeout(fleet.patience.poll, ask(&fleet, &backend)).await;
        match asked.unwrap_or(Err(Trouble::Slow)) {
            Ok(models) => fleet.listed(&backend, models),
            Err(trouble) => {
                fleet.metrics.poll_failed(&backend.label, &trouble);
                fleet.see(&backend, Sign::PollFailed(trouble));
            }
        }
    }
}

async fn ask(fleet: &Fleet, backend: &Backend) -> Result<Vec<ListedModel>, Trouble> {
    let mut request = Request::new(Full::new(Bytes::new()));
    *request.method_mut() = Method::GET;
    let path = backend.address.path("/v1/models");
    *request.uri_mut() = path
        .parse()
        .map_err(|_| nonsense("its address has no path"))?;
    let headers = request.headers_mut();
    if let Ok(host) = backend.address.authority().parse() {
        headers.insert(HOST, host);
    }
    if let Some(bearer) = fleet.keys.bearer() {
        headers.insert(AUTHORIZATION, bearer);
    }
    // A new connection each time: a server that takes none is not there.
    let wire = backend.pool.open().await.map_err(|it| it.trouble())?;
    let arrived = wire.send(request).await.map_err(|it| it.trouble())?;
    let Arrival { response, mut wire } = arrived;
    let status = response.status();
    let announced = response.headers().get(CONTENT_LENGTH);
    if !status.is_success() {
        let hint = match status.as_u16() {
            401 | 403 => "; give it a key with --backend-api-key",
            _ => "",
        };
        return Err(nonsense(&format!(
            "it answers GET /v1/models with {status}{hint}"
        )));
    }
    let announced = announced.and_then(|it| it.to_str().ok()?.parse::<usize>().ok());
    let mut bytes = Vec::with_capacity(announced.unwrap_or(0).min(MAX_LISTING));
    let mut body = response.into_body();
    while let Some(piece) = std::future::poll_fn(|cx| wire.poll_body(cx, &mut body)).await {
        let piece = piece.map_err(|it| it.trouble())?;
        if bytes.len() + piece.len() > MAX_LISTING {
            return Err(nonsense("its list of models is too large"));
        }
        bytes.extend_from_slice(&piece);
    }
    listing::read(&bytes).map_err(|error| nonsense(&error.to_string()))
}

fn nonsense(what: &str) -> Trouble {
    Trouble::Nonsense(what.to_owned())
}
