//! `/openapi.json`: what is served, for people and generators.

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;

/// The document, kept by hand beside the types it describes.
const DOCUMENT: &str = include_str!("openapi.json");

pub(crate) async fn document() -> Response {
    let mut response = Response::new(Body::from(DOCUMENT));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::ROUTES;
    use serde_json::Value;

    #[test]
    fn document_and_router_have_the_same_routes() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        let mut documented: Vec<(&str, &str)> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, methods)| {
                methods
                    .as_object()
                    .unwrap()
                    .keys()
                    .map(move |method| (method.as_str(), path.as_str()))
            })
            .collect();
        documented.sort_by_key(|(method, path)| (*path, *method));
        let mut routes = ROUTES.to_vec();
        routes.sort_by_key(|(method, path)| (*path, *method));
        assert_eq!(documented, routes);
    }
}
