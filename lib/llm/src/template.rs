//! Chat templates: messages to prompt text, as Hugging Face's `apply_chat_template` renders them.
//!
//! Templates are Jinja as Python runs it; `environment` makes up for the differences, and
//! `conversation` for the forms of messages that a template does not know: messages come in as
//! clients send them. A template is outside input: its output, its steps and its nesting are
//! bounded, and it sees no clock but the time it is given.

mod conversation;
mod environment;
mod json;
mod methods;
mod output;

use conversation::{Arguments, Traits};
use minijinja::ErrorKind;
use minijinja::value::{Serde, Value as JinjaValue};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::Duration;

/// Written forms of the model's special tokens by their variable's name in templates:
/// `bos_token`, `eos_token`, `pad_token`, `unk_token` and so on.
pub type SpecialTokens = BTreeMap<String, String>;

/// Name of the template that is used where nothing asks for another.
const DEFAULT: &str = "default";
/// Name of the template for requests with tools.
const TOOL_USE: &str = "tool_use";

/// What a template is rendered with.
#[derive(Debug, Clone, Copy)]
pub struct RenderInput<'a> {
    /// The conversation: an array of message objects, as the client sent them.
    pub messages: &'a Value,
    /// Tool definitions: an array, as the client sent them.
    pub tools: Option<&'a Value>,
    /// Open the assistant's turn at the end of the prompt.
    pub add_generation_prompt: bool,
    /// Leave the last message open, for the model to continue it.
    pub continue_final_message: bool,
    /// Further variables (`chat_template_kwargs`). They win over the special tokens, and cannot
    /// replace the fields above.
    pub kwargs: &'a Map<String, Value>,
    /// Time since the Unix epoch, for templates that write the date (in UTC).
    pub now: Duration,
}

/// Why a template could not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The template itself refused the conversation (`raise_exception`).
    #[error("the chat template refuses these messages: {message}")]
    Raised {
        /// What the template said.
        message: String,
    },
    /// The template failed on these messages: a missing field, a wrong type.
    #[error("the chat template fails on these messages: {message}")]
    Failed {
        /// What went wrong, and where in the template.
        message: String,
    },
    /// The template is not valid Jinja.
    #[error("the chat template is malformed: {message}")]
    Malformed {
        /// What is wrong, and where.
        message: String,
    },
    /// The template took more steps than [`ChatTemplate::MAX_STEPS`].
    #[error("the chat template does not end within {steps} steps")]
    TooManySteps {
        /// The bound.
        steps: u64,
    },
    /// The rendered prompt is larger than [`ChatTemplate::MAX_OUTPUT_BYTES`].
    #[error("the rendered prompt is larger than {limit} bytes")]
    TooLarge {
        /// The bound.
        limit: usize,
    },
    /// `continue_final_message` cannot be honoured.
    #[error("continue_final_message cannot be used: {reason}")]
    CannotContinue {
        /// Why not.
        reason: &'static str,
    },
    /// There is no template to use for this request.
    #[error("the model has several chat templates and none is named `default`")]
    NoDefault,
}

/// The text of messages, for prompts that no template shapes.
pub fn raw_text(messages: &Value) -> String {
    conversation::raw_text(messages)
}

/// A compiled chat template; cheap to share, safe to render from many threads.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: minijinja::Environment<'static>,
    tokens: SpecialTokens,
    /// What each template can take, by its name.
    traits: BTreeMap<String, Traits>,
}

impl ChatTemplate {
    /// Steps of the template engine that one rendering may take: some hundred times what a
    /// conversation of a thousand messages takes, and a second or two of one core.
    pub const MAX_STEPS: u64 = 20_000_000;
    /// Size of a rendered prompt: far more than any context holds.
    pub const MAX_OUTPUT_BYTES: usize = 64 << 20;

    /// Compiles one template.
    pub fn new(source: &str, tokens: SpecialTokens) -> Result<Self, TemplateError> {
        Self::named([(DEFAULT.to_owned(), source.to_owned())], tokens)
    }

    /// Compiles named templates: `default`, and `tool_use` for requests with tools. A single
    /// template is the default whatever its name.
    pub fn named(
        templates: impl IntoIterator<Item = (String, String)>,
        tokens: SpecialTokens,
    ) -> Result<Self, TemplateError> {
        let mut sources: BTreeMap<String, String> = templates.into_iter().collect();
        if !sources.contains_key(DEFAULT) {
            let (Some((_, only)), true) = (sources.pop_first(), sources.is_empty()) else {
                return Err(TemplateError::NoDefault);
            };
            sources.insert(DEFAULT.to_owned(), only);
        }
        let mut environment = environment::environment();
        let mut traits = BTreeMap::new();
        for (name, source) in sources {
            let source = environment::without_generation_marks(&source);
            let of_source = Traits {
                knows_developer: conversation::knows_developer(&source),
                ..Traits::default()
            };
            traits.insert(name.clone(), of_source);
            environment
                .add_template_owned(name, source)
                .map_err(|error| malformed(&error))?;
        }
        let mut template = Self {
            environment,
            tokens,
            traits,
        };
        let known = template.traits.clone();
        for (name, of_source) in known {
            let probed = template.probed(&name, of_source.knows_developer);
            template.traits.insert(name, probed);
        }
        Ok(template)
    }

    /// Renders a conversation. Deterministic: equal input gives equal text.
    pub fn render(&self, input: &RenderInput<'_>) -> Result<String, TemplateError> {
        let has_tools = input.tools.is_some_and(|tools| !tools.is_null());
        let name = match self.traits.contains_key(TOOL_USE) && has_tools {
            true => TOOL_USE,
            false => DEFAULT,
        };
        let mut messages = conversation::adapted(
            input.messages,
            &self.traits.get(name).cloned().unwrap_or_default(),
        );
        let open = match input.continue_final_message {
            true => Some(conversation::leave_open(&mut messages)?),
            false => None,
        };
        let rendered = match self.run(name, &messages, input) {
            // Clients send `null` beside tool calls, and not every template was written for it.
            Err(TemplateError::Failed { message }) => {
                match conversation::without_null_content(&mut messages) {
                    true => self.run(name, &messages, input)?,
                    false => return Err(TemplateError::Failed { message }),
                }
            }
            outcome => outcome?,
        };
        match open {
            Some(open) => open.cut(rendered),
            None => Ok(rendered),
        }
    }

    fn run(
        &self,
        name: &str,
        messages: &Value,
        input: &RenderInput<'_>,
    ) -> Result<String, TemplateError> {
        let mut context: BTreeMap<&str, JinjaValue> = BTreeMap::new();
        for (name, token) in &self.tokens {
            context.insert(name, JinjaValue::from(token.as_str()));
        }
        for (name, value) in input.kwargs {
            context.insert(name, JinjaValue::from(Serde(value)));
        }
        // Present and none where absent, as in Python.
        context.entry("documents").or_insert(JinjaValue::from(()));
        context.insert("messages", JinjaValue::from(Serde(messages)));
        context.insert("tools", JinjaValue::from(Serde(input.tools)));
        context.insert("add_generation_prompt", input.add_generation_prompt.into());
        let now = input.now;
        let strftime = move |format: String| environment::strftime(now, &format);
        context.insert("strftime_now", JinjaValue::from_function(strftime));

        let template = self
            .environment
            .get_template(name)
            .map_err(|error| malformed(&error))?;
        let mut output = output::Bounded::new(Self::MAX_OUTPUT_BYTES);
        match template.render_captured_to(JinjaValue::from_pairs(context), &mut output) {
            Ok(_) => Ok(output.into_text()),
            Err(_) if output.is_full() => Err(TemplateError::TooLarge {
                limit: Self::MAX_OUTPUT_BYTES,
            }),
            Err(error) => Err(failed(&error)),
        }
    }

    /// What a template can take, by trying, beside what its source says.
    fn probed(&self, name: &str, knows_developer: bool) -> Traits {
        let takes_parts = |role: &str| {
            let rendered = self.probe(name, &conversation::parts_probe(role));
            rendered.is_some_and(|text| conversation::took_parts(&text))
        };
        let parts_of = match takes_parts(conversation::USER) {
            true => {
                let mut roles = conversation::ROLES.to_vec();
                roles.retain(|role| takes_parts(role));
                roles
            }
            false => Vec::new(),
        };
        let mut arguments = Arguments::Any;
        for content in [Value::Null, "".into()] {
            let [of_object, of_text] = [Arguments::Object, Arguments::Text]
                .map(|form| self.probe(name, &conversation::arguments_probe(form, &content)));
            if of_object.is_some() || of_text.is_some() {
                arguments =
                    conversation::wanted_arguments(of_object.as_deref(), of_text.as_deref());
                break;
            }
        }
        Traits {
            knows_developer,
            parts_of,
            arguments,
        }
    }

    /// What the template makes of some messages; `None` if it fails on them.
    fn probe(&self, name: &str, messages: &Value) -> Option<String> {
        let input = RenderInput {
            messages,
            tools: None,
            add_generation_prompt: false,
            continue_final_message: false,
            kwargs: &Map::new(),
            now: Duration::ZERO,
        };
        self.run(name, messages, &input).ok()
    }
}

fn malformed(error: &minijinja::Error) -> TemplateError {
    TemplateError::Malformed {
        message: error.to_string(),
    }
}

fn failed(error: &minijinja::Error) -> TemplateError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(at) = cause {
        if let Some(raised) = at.downcast_ref::<environment::Raised>() {
            return TemplateError::Raised {
                message: raised.0.clone(),
            };
        }
        let kind = at
            .downcast_ref::<minijinja::Error>()
            .map(minijinja::Error::kind);
        if kind == Some(ErrorKind::OutOfFuel) {
            return TemplateError::TooManySteps {
                steps: ChatTemplate::MAX_STEPS,
            };
        }
        cause = at.source();
    }
    // The message names kinds and places; detail may quote the conversation only where the
    // template itself does.
    TemplateError::Failed {
        message: error.to_string(),
    }
}

#[cfg(test)]
mod tests;
