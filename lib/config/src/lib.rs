//! Layered options: one declaration drives command line, environment, file and reference.
//!
//! - [`options!`]: declares a struct of options; its attributes are the methods of [`Field`]
//! - [`choices!`]: declares an option that is one of a few words
//! - [`Schema`]: the options of one command, from one or several structs
//! - [`Sources`] and [`Resolved`]: from command line, environment and file to values
//! - [`Secret`], [`ByteSize`], and [`Scalar`] for types of your own
//! - [`nearest`]: the known name that a mistyped one means
//!
//! Invariant: flag > environment > file > default, for every option and without exception. This
//! crate reads neither environment nor files: the binary does so once and hands both over as data.
//! It logs nothing.
//!
//! ```ignore
//! use dynamo_config::{ByteSize, ConfigFile, Format, Schema, Secret, Sources, choices, options};
//! use std::time::Duration;
//!
//! choices! {
//!     /// How a worker is picked.
//!     pub enum RouterMode {
//!         /// By cached prefix and load.
//!         Kv = "kv",
//!         /// In turn.
//!         RoundRobin = "round-robin" | "rr",
//!     }
//! }
//!
//! options! {
//!     /// Options of the HTTP frontend.
//!     pub struct FrontendOptions("frontend") {
//!         /// Port of the HTTP server; 0 takes a free one.
//!         http_port: u16 = 8000, env = "DYN_HTTP_PORT", short = 'p', alias = "--port";
//!         /// Key that clients have to send.
//!         api_key: Option<Secret> = None, env = "DYN_API_KEY", secret;
//!         /// Longest time a request may take.
//!         request_timeout: Duration = Duration::from_secs(600), min = Duration::from_secs(1);
//!         /// Largest body of a request.
//!         body_limit: ByteSize = ByteSize::mib(45), env = "DYN_HTTP_BODY_LIMIT";
//!         /// How a worker is picked.
//!         router_mode: RouterMode = RouterMode::Kv, env = "DYN_ROUTER_MODE";
//!         /// Use what workers tell about their caches (`--no-kv-events` turns it off).
//!         kv_events: bool = true, deprecated = "--use-kv-events";
//!         /// Names to serve the model under.
//!         model_name: Vec<String> = Vec::new(), env = "DYN_MODEL_NAME";
//!     }
//! }
//!
//! // In the binary, once:
//! let schema = Schema::new().with::<FrontendOptions>();
//! let matches = schema.clap_args(clap::Command::new("frontend")).get_matches();
//! let text = std::fs::read_to_string("serve.yaml")?;
//! let sources = Sources::new()
//!     .args(matches)
//!     .env(std::env::vars())
//!     .file(ConfigFile::new("serve.yaml", text, Format::Yaml));
//! let resolved = schema.resolve(&sources)?; // every problem at once
//! let options: &FrontendOptions = resolved.get();
//! print!("{}", resolved.print()); // --print-config
//! ```
//!
//! The test of each component asserts `schema.check().is_empty()` and compares
//! `schema.reference_markdown(title)` with the page under `docs/reference/`.

mod byte_size;
mod choices;
mod cli;
mod decimal;
mod duration;
mod error;
mod file;
mod file_values;
mod nearest;
mod print;
mod reference;
mod resolve;
mod scalars;
mod schema;
mod schema_check;
mod secret;
mod spec;
mod value;

pub use byte_size::ByteSize;
pub use choices::Choice;
#[doc(hidden)]
pub use choices::choice_index;
pub use error::{ConfigError, Problem};
pub use file::{ConfigFile, Format};
pub use nearest::nearest;
pub use resolve::{Effective, Resolved, Source, Sources, UnknownVariable};
pub use schema::Schema;
pub use secret::Secret;
pub use spec::{Binding, Field, OptionSpec, Options, Slot};
pub use value::{Kind, OptionValue, RawValue, Scalar, Shape, ValueError};
