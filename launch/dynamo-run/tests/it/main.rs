//! Real processes of the `dynamo` binary on the echo engine: start, serve, die, drain. No test
//! here needs a model; those about tokenizers need the files that `make models` fetches.

#[cfg(test)]
mod backends;
#[cfg(test)]
mod batch;
#[cfg(test)]
mod bench;
#[cfg(test)]
mod collector;
#[cfg(test)]
mod console;
#[cfg(test)]
mod dashboard;
#[cfg(test)]
mod deploy;
#[cfg(test)]
mod deploy_engines;
#[cfg(test)]
mod disaggregated;
#[cfg(test)]
mod drain;
#[cfg(test)]
mod etcd;
#[cfg(test)]
mod fakes;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod mocker;
#[cfg(test)]
mod models;
#[cfg(test)]
mod nats;
#[cfg(test)]
mod prometheus;
#[cfg(test)]
mod router;
#[cfg(test)]
mod routing;
#[cfg(test)]
mod serving;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod traces;
#[cfg(test)]
mod usage;
#[cfg(test)]
mod workers;

#[cfg(test)]
use dynamo_testkit::{etcd_server, http, process};
