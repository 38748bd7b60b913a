//! The service's options, each declared here and nowhere else.

use dynamo_config::options;
use std::time::Duration;

options! {
    /// The router as a component of its own.
    pub struct RouterServiceOptions("router_service") {
        /// The endpoint of the workers. What is missing of it is `--namespace`, `backend` and
        /// `generate`. Not given, every model's workers are routed to, over HTTP alone.
        endpoint: Option<String> = None, env = "DYN_ROUTER_ENDPOINT";
        /// The endpoint that frontends ask instead of the workers'.
        serve_endpoint: String = "dyn://router".to_owned(), env = "DYN_ROUTER_SERVE_ENDPOINT";
        /// Serve no endpoint: say where requests should go, and send none.
        route_only: bool = false, env = "DYN_ROUTER_ROUTE_ONLY";
        /// Address of the HTTP interface. Other machines reach only what does not listen on loopback.
        http_host: String = "127.0.0.1".to_owned(), env = "DYN_ROUTER_HTTP_HOST";
        /// Port of the HTTP interface; 0 takes a free one.
        http_port: u16 = 8092, env = "DYN_ROUTER_HTTP_PORT", short = 'p';
        /// Reservations held at once; more are refused.
        max_reservations: usize = 65_536, env = "DYN_ROUTER_MAX_RESERVATIONS", min = 1, max = 262_144;
        /// How long a reservation lasts without a word of its request.
        reservation_timeout: Duration = Duration::from_secs(300),
            env = "DYN_ROUTER_RESERVATION_TIMEOUT", min = Duration::from_millis(100), max = Duration::from_secs(86_400);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declarations_are_sound() {
        let problems = dynamo_config::Schema::new()
            .with::<RouterServiceOptions>()
            .check();
        assert!(problems.is_empty(), "{problems:?}");
    }
}
