//! Engine requests as the dictionaries that published Python workers get, and the dictionaries that
//! they yield as engine outputs.
//!
//! A request that another worker has begun looks like one whose prompt is longer: `token_ids` has
//! what was generated so far at its end, limits count what is left. `generated_tokens` says how many
//! those are, for engines that want to know.

use crate::outlet::Outlet;
use crate::serve::Port;
use dynamo_protocols::RequestError;
use dynamo_protocols::engine::{
    Bootstrap, BootstrapAddress, EngineOutput, EngineRequest, FinishReason, StopConditions,
    TokenLogprobs,
};
use dynamo_protocols::structured::{Constraint, StructuredOutput};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use std::sync::Arc;

/// Tokens that are generated where a request of Python's own says no number: an answer to a person.
const DEFAULT_MAX_TOKENS: u32 = 256;

/// The request as a dictionary.
pub(crate) fn request<'py>(
    py: Python<'py>,
    request: &EngineRequest,
    request_id: &str,
) -> PyResult<Bound<'py, PyDict>> {
    let generated = u32::try_from(request.generated_ids.len()).unwrap_or(u32::MAX);
    let tokens = PyList::new(py, request.prompt_ids.iter())?;
    for token in &request.generated_ids {
        tokens.append(token)?;
    }
    let dict = PyDict::new(py);
    dict.set_item("request_id", request_id)?;
    dict.set_item("model", &*request.model)?;
    dict.set_item("token_ids", tokens)?;
    dict.set_item("generated_tokens", generated)?;
    dict.set_item(
        "stop_conditions",
        stop_conditions(py, &request.stop, generated)?,
    )?;
    dict.set_item("sampling_options", sampling_options(py, request)?)?;
    let output = PyDict::new(py);
    output.set_item("logprobs", request.logprobs)?;
    output.set_item("prompt_logprobs", py.None())?;
    output.set_item("skip_special_tokens", py.None())?;
    dict.set_item("output_options", output)?;
    dict.set_item("eos_token_ids", &request.stop.eos_ids)?;
    dict.set_item("annotations", PyList::empty(py))?;
    dict.set_item("lora_name", request.lora_name.as_deref())?;
    let routing = PyDict::new(py);
    routing.set_item("dp_rank", request.dp_rank)?;
    routing.set_item("priority", request.priority)?;
    routing.set_item("lora_name", request.lora_name.as_deref())?;
    routing.set_item("cache_namespace", request.cache_salt.as_deref())?;
    dict.set_item("routing", routing)?;
    if let Some(params) = &request.kv_transfer_params {
        let bytes = dynamo_runtime::component::typed::encode(params)
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        let params = crate::convert::from_bytes(py, &bytes)?;
        dict.set_item("disaggregated_params", &params)?;
        let prefill = PyDict::new(py);
        prefill.set_item("disaggregated_params", params)?;
        dict.set_item("prefill_result", prefill)?;
    }
    if let Some(Bootstrap { address, room }) = request.bootstrap.as_deref() {
        let info = PyDict::new(py);
        info.set_item("bootstrap_host", &*address.host)?;
        info.set_item("bootstrap_port", address.port)?;
        info.set_item("bootstrap_room", room)?;
        dict.set_item("bootstrap_info", info)?;
    }
    Ok(dict)
}

fn stop_conditions<'py>(
    py: Python<'py>,
    stop: &StopConditions,
    generated: u32,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("max_tokens", stop.max_tokens.saturating_sub(generated))?;
    dict.set_item("min_tokens", stop.min_tokens.saturating_sub(generated))?;
    // Stop strings are the frontend's.
    dict.set_item("stop", py.None())?;
    dict.set_item("stop_token_ids", &stop.stop_ids)?;
    dict.set_item("stop_token_ids_hidden", &stop.stop_ids)?;
    dict.set_item("ignore_eos", stop.ignore_eos)?;
    Ok(dict)
}

fn sampling_options<'py>(py: Python<'py>, request: &EngineRequest) -> PyResult<Bound<'py, PyDict>> {
    let sampling = &request.sampling;
    let dict = PyDict::new(py);
    dict.set_item("n", 1)?;
    dict.set_item("temperature", sampling.temperature)?;
    dict.set_item("top_p", sampling.top_p)?;
    // The engines' own word for "all of them".
    let top_k = (sampling.top_k > 0).then_some(sampling.top_k);
    dict.set_item("top_k", top_k.map_or(-1, i64::from))?;
    dict.set_item("min_p", sampling.min_p)?;
    dict.set_item("frequency_penalty", sampling.frequency_penalty)?;
    dict.set_item("presence_penalty", sampling.presence_penalty)?;
    dict.set_item("repetition_penalty", sampling.repetition_penalty)?;
    // Engines that draw by a seed alone must not draw the same for each choice.
    dict.set_item("seed", seed(sampling.seed, request.choice))?;
    if !sampling.logit_bias.is_empty() {
        let bias = PyDict::new(py);
        for (token, weight) in &sampling.logit_bias {
            bias.set_item(token.to_string(), weight)?;
        }
        dict.set_item("logit_bias", bias)?;
    }
    if let Some(structured) = &sampling.structured {
        dict.set_item("guided_decoding", guided_decoding(py, structured)?)?;
    }
    Ok(dict)
}

/// A seed that fits the signed numbers of engines.
fn seed(seed: u64, choice: u32) -> u64 {
    seed.wrapping_add(u64::from(choice)) & (u64::MAX >> 1)
}

fn guided_decoding<'py>(
    py: Python<'py>,
    structured: &StructuredOutput,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    match &structured.constraint {
        Constraint::JsonObject => dict.set_item("json_object", true)?,
        Constraint::JsonSchema(schema) => dict.set_item("json", &**schema)?,
        Constraint::Regex(regex) => dict.set_item("regex", &**regex)?,
        Constraint::Choice(choices) => dict.set_item("choice", choices.to_vec())?,
        Constraint::Grammar(grammar) => dict.set_item("grammar", &**grammar)?,
    }
    dict.set_item("whitespace_pattern", structured.whitespace.as_deref())?;
    Ok(dict)
}

/// A dictionary as a handler gets it, as the request that workers of any kind take. What is not said
/// is as the engine has it.
pub(crate) fn engine_request(dict: &Bound<'_, PyDict>) -> PyResult<EngineRequest> {
    let Some(tokens) = present(dict, "token_ids")? else {
        return Err(PyValueError::new_err(
            "a request needs token_ids, the tokens of its prompt",
        ));
    };
    let mut request = EngineRequest {
        prompt_ids: tokens.extract::<Vec<u32>>()?.into(),
        ..EngineRequest::default()
    };
    if let Some(model) = present(dict, "model")? {
        request.model = model.extract::<String>()?.into();
    }
    if let Some(name) = present(dict, "lora_name")? {
        request.lora_name = Some(name.extract::<String>()?.into());
    }
    if let Some(ids) = present(dict, "eos_token_ids")? {
        request.stop.eos_ids = ids.extract()?;
    }
    request.stop.max_tokens = DEFAULT_MAX_TOKENS;
    if let Some(stop) = present(dict, "stop_conditions")? {
        let (stop, into) = (stop.cast::<PyDict>()?, &mut request.stop);
        set(stop, "max_tokens", &mut into.max_tokens)?;
        set(stop, "min_tokens", &mut into.min_tokens)?;
        set(stop, "stop_token_ids", &mut into.stop_ids)?;
        set(stop, "ignore_eos", &mut into.ignore_eos)?;
    }
    if let Some(options) = present(dict, "sampling_options")? {
        let (options, into) = (options.cast::<PyDict>()?, &mut request.sampling);
        set(options, "temperature", &mut into.temperature)?;
        set(options, "top_p", &mut into.top_p)?;
        set(options, "min_p", &mut into.min_p)?;
        set(options, "frequency_penalty", &mut into.frequency_penalty)?;
        set(options, "presence_penalty", &mut into.presence_penalty)?;
        set(options, "repetition_penalty", &mut into.repetition_penalty)?;
        set(options, "seed", &mut into.seed)?;
        let mut top_k = 0_i64;
        set(options, "top_k", &mut top_k)?;
        // Engines write -1 for "all of them".
        into.top_k = u32::try_from(top_k).unwrap_or(0);
    }
    if let Some(options) = present(dict, "output_options")? {
        let logprobs = present(options.cast::<PyDict>()?, "logprobs")?;
        request.logprobs = logprobs.map(|count| count.extract()).transpose()?;
    }
    if let Some(params) = present(dict, "disaggregated_params")? {
        request.kv_transfer_params = Some(json(&params)?);
    }
    if let Some(info) = present(dict, "bootstrap_info")? {
        request.bootstrap = Some(Box::new(bootstrap(info.cast::<PyDict>()?)?));
    }
    Ok(request)
}

fn bootstrap(info: &Bound<'_, PyDict>) -> PyResult<Bootstrap> {
    let get = |key: &str| {
        present(info, key)?.ok_or_else(|| {
            PyValueError::new_err(format!("bootstrap_info has no {key}; it needs one"))
        })
    };
    Ok(Bootstrap {
        address: BootstrapAddress {
            host: get("bootstrap_host")?.extract::<String>()?.into(),
            port: get("bootstrap_port")?.extract()?,
        },
        room: get("bootstrap_room")?.extract()?,
    })
}

/// Sets what a dictionary says.
fn set<'py, T>(dict: &Bound<'py, PyDict>, key: &str, place: &mut T) -> PyResult<()>
where
    T: for<'a> FromPyObject<'a, 'py, Error: Into<PyErr>>,
{
    if let Some(value) = present(dict, key)? {
        *place = value.extract::<T>().map_err(Into::into)?;
    }
    Ok(())
}

/// An engine's output as a dictionary such as handlers yield.
pub(crate) fn output_dict<'py>(
    py: Python<'py>,
    output: &EngineOutput,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("token_ids", &output.token_ids)?;
    if let Some(logprobs) = &output.logprobs {
        let drawn: Vec<f32> = logprobs.iter().map(|it| it.logprob).collect();
        dict.set_item("log_probs", drawn)?;
        let tops = PyList::empty(py);
        for entry in logprobs {
            let top = PyList::empty(py);
            for (token, logprob) in &entry.top {
                let one = PyDict::new(py);
                one.set_item("token_id", token)?;
                one.set_item("logprob", logprob)?;
                top.append(one)?;
            }
            tops.append(top)?;
        }
        dict.set_item("top_logprobs", tops)?;
    }
    match output.finish_reason {
        None => {}
        Some(FinishReason::Length) => dict.set_item("finish_reason", "length")?,
        Some(FinishReason::StopToken(token)) => {
            dict.set_item("finish_reason", "stop")?;
            dict.set_item("stop_reason", token)?;
        }
        Some(_) => dict.set_item("finish_reason", "eos")?,
    }
    if let Some(cached) = output.cached_tokens {
        let (usage, details) = (PyDict::new(py), PyDict::new(py));
        details.set_item("cached_tokens", cached)?;
        usage.set_item("prompt_tokens_details", details)?;
        dict.set_item("completion_usage", usage)?;
    }
    if let Some(params) = &output.kv_transfer_params {
        let text = params.to_string();
        let value = py.import("json")?.call_method1("loads", (text,))?;
        dict.set_item("disaggregated_params", value)?;
    }
    Ok(dict)
}

/// What a model's handler yields: dictionaries with `token_ids`, at last a `finish_reason`.
pub(crate) struct Tokens {
    outlet: Arc<Outlet<EngineOutput>>,
}

impl Tokens {
    pub(crate) fn port(outlet: Arc<Outlet<EngineOutput>>) -> Box<dyn Port> {
        Box::new(Self { outlet })
    }

    fn output(&self, item: &Bound<'_, PyDict>) -> PyResult<EngineOutput> {
        let token_ids = match present(item, "token_ids")? {
            Some(ids) => ids.extract::<Vec<u32>>().map_err(|_| {
                PyTypeError::new_err("token_ids needs to be a list of token ids, integers from 0")
            })?,
            None => Vec::new(),
        };
        let finish_reason = match present(item, "finish_reason")? {
            Some(reason) => Some(finish_reason(item, &reason.extract::<String>()?)?),
            None => None,
        };
        let kv_transfer_params = match present(item, "disaggregated_params")? {
            Some(params) => Some(json(&params)?),
            None => None,
        };
        Ok(EngineOutput {
            logprobs: logprobs(item, token_ids.len())?,
            cached_tokens: cached_tokens(item)?,
            token_ids,
            finish_reason,
            kv_transfer_params,
            chunk: None,
        })
    }
}

fn finish_reason(item: &Bound<'_, PyDict>, name: &str) -> PyResult<FinishReason> {
    Ok(match name {
        "length" => FinishReason::Length,
        "stop" | "eos" => match present(item, "stop_reason")? {
            Some(token) => match token.extract::<u32>() {
                Ok(token) => FinishReason::StopToken(token),
                Err(_) => FinishReason::EndOfSequence,
            },
            None => FinishReason::EndOfSequence,
        },
        "cancelled" | "abort" => {
            return Err(crate::errors::EngineShutdown::new_err(
                "the engine has given up the request",
            ));
        }
        _ => {
            // `error: what happened`, or something that nobody knows.
            let what = name
                .strip_prefix("error")
                .map(|it| it.trim_start_matches([':', ' ']));
            let message = match what {
                Some(what) => format!("the engine failed: {what}"),
                None => format!(
                    "finish_reason {name:?} is not known; use stop, eos, length, cancelled or error"
                ),
            };
            return Err(PyValueError::new_err(message));
        }
    })
}

impl Port for Tokens {
    fn send(&self, item: &Bound<'_, PyAny>) -> PyResult<bool> {
        let Ok(dict) = item.cast::<PyDict>() else {
            let kind = item.get_type().qualname()?;
            let message = format!(
                "a model's handler yields dictionaries such as {{\"token_ids\": [1, 2]}}, not {kind}"
            );
            return Err(PyTypeError::new_err(message));
        };
        let output = self.output(dict)?;
        let says_nothing = output == EngineOutput::default();
        Ok(!says_nothing && self.outlet.put(output))
    }

    fn room<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.outlet.room(py)
    }

    fn end(&self, end: Result<(), RequestError>) {
        self.outlet.end(end);
    }
}

/// A value that is there and not `None`.
fn present<'py>(dict: &Bound<'py, PyDict>, key: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
    Ok(dict.get_item(key)?.filter(|value| !value.is_none()))
}

fn logprobs(item: &Bound<'_, PyDict>, tokens: usize) -> PyResult<Option<Vec<TokenLogprobs>>> {
    let Some(drawn) = present(item, "log_probs")? else {
        return Ok(None);
    };
    let drawn: Vec<f32> = drawn.extract()?;
    if drawn.len() != tokens {
        let message = format!("log_probs has {} entries for {tokens} tokens", drawn.len());
        return Err(PyValueError::new_err(message));
    }
    let tops: Vec<Bound<'_, PyAny>> = match present(item, "top_logprobs")? {
        Some(tops) => tops.extract()?,
        None => Vec::new(),
    };
    let mut all = Vec::with_capacity(drawn.len());
    for (at, logprob) in drawn.into_iter().enumerate() {
        let top = match tops.get(at) {
            Some(entries) => entries
                .try_iter()?
                .map(|entry| top_logprob(&entry?))
                .collect::<PyResult<_>>()?,
            None => Vec::new(),
        };
        all.push(TokenLogprobs { logprob, top });
    }
    Ok(Some(all))
}

fn top_logprob(entry: &Bound<'_, PyAny>) -> PyResult<(u32, f32)> {
    let token = entry.get_item("token_id")?.extract()?;
    Ok((token, entry.get_item("logprob")?.extract()?))
}

fn cached_tokens(item: &Bound<'_, PyDict>) -> PyResult<Option<u32>> {
    let Some(usage) = present(item, "completion_usage")? else {
        return Ok(None);
    };
    let Some(details) = present(usage.cast::<PyDict>()?, "prompt_tokens_details")? else {
        return Ok(None);
    };
    match present(details.cast::<PyDict>()?, "cached_tokens")? {
        Some(count) => Ok(Some(count.extract()?)),
        None => Ok(None),
    }
}

/// A Python value as JSON.
pub(crate) fn json(value: &Bound<'_, PyAny>) -> PyResult<serde_json::Value> {
    let text: String = value
        .py()
        .import("json")?
        .call_method1("dumps", (value,))?
        .extract()?;
    serde_json::from_str(&text).map_err(|error| PyValueError::new_err(error.to_string()))
}
