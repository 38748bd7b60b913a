//! Where requests go: a server's address, with or without the path of its interface.

use super::BenchError;
use crate::prompt::Api;
use hyper::Uri;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};

/// A server, and what every request to it has in its head.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where to connect.
    pub origin: Uri,
    base: String,
    headers: HeaderMap,
}

impl Target {
    /// Reads an address such as `http://host:8000`, also with `/v1` behind it.
    pub fn new(url: &str, api_key: Option<&str>, headers: &[String]) -> Result<Self, BenchError> {
        let wrong = || BenchError::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.query().is_some() {
            return Err(wrong());
        }
        let mut all = HeaderMap::new();
        let host = authority.host().to_owned()
            + &authority
                .port()
                .map_or(String::new(), |port| format!(":{port}"));
        all.insert(HOST, HeaderValue::try_from(host).map_err(|_| wrong())?);
        all.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = api_key {
            let bearer = HeaderValue::try_from(format!("Bearer {}", key.trim()));
            let mut bearer = bearer.map_err(|_| BenchError::ApiKey)?;
            bearer.set_sensitive(true);
            all.insert(AUTHORIZATION, bearer);
        }
        for header in headers {
            let wrong = || BenchError::Header(header.clone());
            let (name, value) = header.split_once(':').ok_or_else(wrong)?;
            let name = HeaderName::try_from(name.trim()).map_err(|_| wrong())?;
            all.insert(
                name,
                HeaderValue::try_from(value.trim()).map_err(|_| wrong())?,
            );
        }
        let path = uri.path().trim_end_matches('/');
        Ok(Self {
            base: match path.ends_with("/v1") {
                true => path.to_owned(),
                false => format!("{path}/v1"),
            },
            origin: uri,
            headers: all,
        })
    }

    /// The path of an interface.
    pub fn path(&self, api: Api) -> String {
        match api {
            Api::Chat => format!("{}/chat/completions", self.base),
            Api::Completions => format!("{}/completions", self.base),
        }
    }

    /// The path of the list of models.
    pub fn models_path(&self) -> String {
        format!("{}/models", self.base)
    }

    /// What every head has.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_with_and_without_its_path() {
        for (url, path) in [
            ("http://h:1", "/v1/chat/completions"),
            ("http://h:1/", "/v1/chat/completions"),
            ("https://h/v1", "/v1/chat/completions"),
            ("https://h/proxy/v1/", "/proxy/v1/chat/completions"),
            ("https://h/proxy", "/proxy/v1/chat/completions"),
        ] {
            assert_eq!(Target::new(url, None, &[]).unwrap().path(Api::Chat), path);
        }
        for url in ["", "h:1", "ftp://h", "/v1", "http://h/?a=b"] {
            assert!(Target::new(url, None, &[]).is_err(), "{url}");
        }
    }

    #[test]
    fn the_key_and_further_headers_are_sent_and_the_key_is_not_shown() {
        let headers = ["x-tenant: one".to_owned()];
        let target = Target::new("http://h:1", Some("sesame"), &headers).unwrap();
        assert_eq!(target.headers()["x-tenant"], "one");
        assert_eq!(target.headers()[AUTHORIZATION], "Bearer sesame");
        assert!(!format!("{target:?}").contains("sesame"));
        assert!(Target::new("http://h:1", None, &["nothing".to_owned()]).is_err());
    }
}
