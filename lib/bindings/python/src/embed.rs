//! What handlers that embed get and give.
//!
//! A handler answers once, with a vector for each input: `{"embeddings": [[0.1, ...], ...]}`, or the
//! API's own form, `{"data": [{"index": 0, "embedding": [...]}, ...]}`. Vectors are of one length, of
//! numbers, and are scaled to unit length, which is what every engine of ours promises.

use crate::json::loads;
use crate::outlet::{Answer, Outlet};
use crate::serve::{Body, Port};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dynamo_protocols::engine::{EmbedRequest, EmbedResponse};
use dynamo_protocols::{ErrorCode, RequestError};
use futures_util::StreamExt;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};
use std::sync::Arc;

/// The request as a dictionary: token ids of each input.
pub(crate) fn request(request: EmbedRequest, id: Arc<str>) -> Body {
    Box::new(move |py| {
        let dict = PyDict::new(py);
        dict.set_item("request_id", &*id)?;
        dict.set_item("model", &*request.model)?;
        dict.set_item("token_ids", request.inputs)?;
        dict.set_item("dimensions", request.dimensions)?;
        // How numbers are written is the frontend's.
        dict.set_item("encoding_format", "float")?;
        Ok(dict.into_any())
    })
}

/// The client's own request.
pub(crate) fn load(request: EmbedRequest) -> Body {
    Box::new(move |py| loads(py, request.text.as_deref().unwrap_or("null")))
}

/// The one item of an answer, once it has ended.
pub(crate) async fn whole(
    mut answer: Answer<EmbedResponse>,
) -> Result<EmbedResponse, RequestError> {
    let failed = |message| RequestError::new(ErrorCode::EngineFailed, message);
    let Some(first) = answer.next().await.transpose()? else {
        return Err(failed("the worker's handler gave no embeddings"));
    };
    match answer.next().await.transpose()? {
        None => Ok(first),
        Some(_) => Err(failed(
            "the worker's handler answered twice: all embeddings of a request go into one item",
        )),
    }
}

/// See the module's description.
pub(crate) struct Vectors(Arc<Outlet<EmbedResponse>>);

impl Vectors {
    pub(crate) fn port(outlet: Arc<Outlet<EmbedResponse>>) -> Box<dyn Port> {
        Box::new(Self(outlet))
    }
}

impl Port for Vectors {
    fn send(&self, item: &Bound<'_, PyAny>) -> PyResult<bool> {
        let item = match item.getattr("model_dump") {
            Ok(dump) => dump.call0()?,
            Err(_) => item.clone(),
        };
        let Ok(dict) = item.cast::<PyDict>() else {
            let kind = item.get_type().qualname()?;
            return Err(PyTypeError::new_err(format!(
                "a handler that embeds gives a dictionary such as {{\"embeddings\": [[0.6, 0.8]]}}, \
                 not {kind}"
            )));
        };
        Ok(self.0.put(EmbedResponse {
            embeddings: embeddings(dict)?,
            prompt_tokens: prompt_tokens(dict)?,
        }))
    }

    fn room<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.room(py)
    }

    fn end(&self, end: Result<(), RequestError>) {
        self.0.end(end);
    }
}

fn embeddings(dict: &Bound<'_, PyDict>) -> PyResult<Vec<Vec<f32>>> {
    let mut vectors = match (present(dict, "embeddings")?, present(dict, "data")?) {
        (Some(vectors), _) => list(&vectors, "embeddings")?
            .iter()
            .enumerate()
            .map(|(at, one)| vector(&one, at))
            .collect::<PyResult<Vec<_>>>()?,
        (None, Some(data)) => of_data(&list(&data, "data")?)?,
        (None, None) => {
            return Err(PyValueError::new_err(
                "an answer with embeddings needs embeddings, a list of vectors, or data, a list of \
                 dictionaries with an embedding each",
            ));
        }
    };
    let length = vectors.first().map_or(0, Vec::len);
    for (at, vector) in vectors.iter_mut().enumerate() {
        if vector.len() != length || length == 0 {
            return Err(PyValueError::new_err(format!(
                "embedding {at} has {} numbers and the first one {length}: all need to have as many, \
                 and one at least",
                vector.len()
            )));
        }
        scale(vector, at)?;
    }
    Ok(vectors)
}

/// The vectors of entries, in the order of their inputs.
fn of_data(data: &Bound<'_, PyList>) -> PyResult<Vec<Vec<f32>>> {
    let mut all: Vec<Option<Vec<f32>>> = vec![None; data.len()];
    for (at, entry) in data.iter().enumerate() {
        let Ok(entry) = entry.cast::<PyDict>() else {
            let message = format!("data[{at}] is no dictionary with an embedding");
            return Err(PyTypeError::new_err(message));
        };
        let Some(numbers) = present(entry, "embedding")? else {
            let message = format!("data[{at}] has no embedding");
            return Err(PyValueError::new_err(message));
        };
        let index = match present(entry, "index")? {
            Some(index) => index.extract()?,
            None => at,
        };
        let vector = vector(&numbers, at)?;
        match all.get_mut(index) {
            Some(place) if place.is_none() => *place = Some(vector),
            Some(_) | None => {
                let message = format!("data[{at}] has index {index}, which is taken or too large");
                return Err(PyValueError::new_err(message));
            }
        }
    }
    // As many places as entries, each taken once.
    Ok(all.into_iter().flatten().collect())
}

/// A list, or what makes one: an array.
fn list<'py>(value: &Bound<'py, PyAny>, name: &str) -> PyResult<Bound<'py, PyList>> {
    let made = match value.getattr("tolist") {
        Ok(tolist) => tolist.call0()?,
        Err(_) => value.clone(),
    };
    made.cast_into::<PyList>()
        .map_err(|_| PyTypeError::new_err(format!("{name} needs to be a list, or an array")))
}

/// Numbers, or base64 of their bytes, as clients may ask for.
fn vector(value: &Bound<'_, PyAny>, at: usize) -> PyResult<Vec<f32>> {
    let wrong = || {
        PyTypeError::new_err(format!(
            "embedding {at} needs to be a list of numbers, an array, or base64 of 32-bit floats"
        ))
    };
    if let Ok(text) = value.cast::<PyString>() {
        let bytes = STANDARD.decode(text.to_str()?).map_err(|_| wrong())?;
        let (numbers, rest) = bytes.as_chunks::<4>();
        return match rest.is_empty() {
            true => Ok(numbers.iter().map(|it| f32::from_le_bytes(*it)).collect()),
            false => Err(wrong()),
        };
    }
    let numbers = list(value, "an embedding").map_err(|_| wrong())?;
    numbers.extract().map_err(|_| wrong())
}

/// Scales a vector to unit length.
fn scale(vector: &mut [f32], at: usize) -> PyResult<()> {
    if !vector.iter().all(|number| number.is_finite()) {
        return Err(PyValueError::new_err(format!(
            "embedding {at} has a number that is not finite"
        )));
    }
    let squares: f64 = vector.iter().map(|it| f64::from(*it).powi(2)).sum();
    if squares == 0.0 {
        return Err(PyValueError::new_err(format!(
            "embedding {at} is zero: it has no direction"
        )));
    }
    let length = squares.sqrt();
    for number in vector {
        *number = (f64::from(*number) / length) as f32;
    }
    Ok(())
}

fn prompt_tokens(dict: &Bound<'_, PyDict>) -> PyResult<Option<u64>> {
    let own = present(dict, "prompt_tokens")?;
    let told = match (own, present(dict, "usage")?) {
        (Some(own), _) => Some(own),
        (None, Some(usage)) => present(usage.cast::<PyDict>()?, "prompt_tokens")?,
        (None, None) => None,
    };
    told.map(|count| count.extract()).transpose()
}

/// A value that is there and not `None`.
fn present<'py>(dict: &Bound<'py, PyDict>, key: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
    Ok(dict.get_item(key)?.filter(|value| !value.is_none()))
}
