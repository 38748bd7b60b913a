//! Python values as JSON, and back, for what clients write and read.
//!
//! The same values as [`crate::convert`] takes, but bytes, which JSON has no form for, and numbers
//! that are none.

use dynamo_protocols::engine::TextRequest;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDict, PyDictMethods, PyFloat, PyInt, PyList, PyString, PyTuple};
use std::io::Write;
use std::sync::Arc;

use crate::serve::Body;

/// Values within values; as for what is sent otherwise.
const MAX_DEPTH: usize = 64;

/// A value as one line of JSON.
pub(crate) fn text(value: &Bound<'_, PyAny>) -> PyResult<String> {
    let mut out = Vec::with_capacity(256);
    write(&mut out, value, MAX_DEPTH)?;
    String::from_utf8(out).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// A client's request as a handler gets it.
pub(crate) fn load(request: Arc<TextRequest>) -> Body {
    Box::new(move |py| loads(py, &request.body))
}

/// JSON as a Python value.
pub(crate) fn loads<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    LOADS.import(py, "json", "loads")?.call1((text,))
}

fn write(out: &mut Vec<u8>, value: &Bound<'_, PyAny>, depth: usize) -> PyResult<()> {
    let Some(depth) = depth.checked_sub(1) else {
        let message = format!("a value has more than {MAX_DEPTH} levels, or contains itself");
        return Err(PyValueError::new_err(message));
    };
    if let Ok(text) = value.cast::<PyString>() {
        write_text(out, text.to_str()?)
    } else if let Ok(dict) = value.cast::<PyDict>() {
        write_dict(out, dict, depth)
    } else if value.is_none() {
        out.extend_from_slice(b"null");
        Ok(())
    } else if value.is_instance_of::<PyBool>() {
        let word: &[u8] = if value.extract()? { b"true" } else { b"false" };
        out.extend_from_slice(word);
        Ok(())
    } else if value.is_instance_of::<PyInt>() {
        write_int(out, value)
    } else if let Ok(list) = value.cast::<PyList>() {
        write_list(out, list.iter(), depth)
    } else if let Ok(number) = value.cast::<PyFloat>() {
        write_float(out, number.value())
    } else if let Ok(tuple) = value.cast::<PyTuple>() {
        write_list(out, tuple.iter(), depth)
    } else if let Ok(dump) = value.getattr("model_dump") {
        write(out, &dump.call0()?, depth)
    } else {
        let kind = value.get_type().qualname()?;
        Err(PyTypeError::new_err(format!(
            "a value of type {kind} has no form in JSON: use None, bool, int, float, str, list, \
             tuple, dict, or a pydantic model"
        )))
    }
}

fn write_dict(out: &mut Vec<u8>, dict: &Bound<'_, PyDict>, depth: usize) -> PyResult<()> {
    out.push(b'{');
    for (at, (key, value)) in dict.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        let Ok(name) = key.cast::<PyString>() else {
            let kind = key.get_type().qualname()?;
            let message = format!("dictionaries need text as keys, not {kind}");
            return Err(PyTypeError::new_err(message));
        };
        write_text(out, name.to_str()?)?;
        out.push(b':');
        write(out, &value, depth)?;
    }
    out.push(b'}');
    Ok(())
}

fn write_list<'py>(
    out: &mut Vec<u8>,
    items: impl Iterator<Item = Bound<'py, PyAny>>,
    depth: usize,
) -> PyResult<()> {
    out.push(b'[');
    for (at, item) in items.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(out, &item, depth)?;
    }
    out.push(b']');
    Ok(())
}

fn write_text(out: &mut Vec<u8>, text: &str) -> PyResult<()> {
    serde_json::to_writer(out, text).map_err(|error| PyValueError::new_err(error.to_string()))
}

fn write_int(out: &mut Vec<u8>, value: &Bound<'_, PyAny>) -> PyResult<()> {
    let written = match value.extract::<i64>() {
        Ok(number) => write!(out, "{number}"),
        Err(_) => {
            let number = value.extract::<u64>().map_err(|_| {
                PyValueError::new_err("an integer is out of the range of 64 bits; send it as text")
            })?;
            write!(out, "{number}")
        }
    };
    Ok(written?)
}

fn write_float(out: &mut Vec<u8>, number: f64) -> PyResult<()> {
    if !number.is_finite() {
        let message = format!("JSON has no number such as {number}");
        return Err(PyValueError::new_err(message));
    }
    serde_json::to_writer(out, &number).map_err(|error| PyValueError::new_err(error.to_string()))
}
