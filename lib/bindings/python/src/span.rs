//! Spans of a handler's own, in the trace of its request.
//!
//! A span that is not recorded is an object that does nothing. One that is recorded is exported when
//! it is closed, or when nobody has it any more.

use dynamo_runtime::telemetry::OpenSpan;
use dynamo_runtime::telemetry::recorder::SpanStatus;
use parking_lot::Mutex;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyDictMethods, PyFloat, PyInt, PyString};
use serde_json::{Map, Value};
use std::sync::{Arc, Weak};

/// Spans of one request that are open at once, of which the innermost is known: recursion deeper
/// than that is a program's mistake. What exceeds it is a child of the last one.
const MAX_OPEN: usize = 64;

/// The spans of one request that are open, the innermost last.
#[derive(Default)]
pub(crate) struct OpenSpans(Mutex<Vec<Weak<Recorded>>>);

struct Recorded {
    traceparent: Arc<str>,
    span: Mutex<OpenSpan>,
}

/// A span of a handler's own. Closed at the end of a `with`, or by `close()`.
#[pyclass(frozen, module = "dynamo._core")]
pub(crate) struct Span {
    /// `None` if it is not recorded.
    recorded: Mutex<Option<Arc<Recorded>>>,
    /// What names it, or else what it would be below.
    traceparent: Option<Arc<str>>,
}

impl OpenSpans {
    /// What names the innermost one.
    pub(crate) fn innermost(&self) -> Option<Arc<str>> {
        Some(Arc::clone(&self.last()?.traceparent))
    }

    /// The innermost one, or one that is not recorded.
    pub(crate) fn current(&self, otherwise: Option<Arc<str>>) -> Span {
        let recorded = self.last();
        let traceparent = recorded.as_ref().map(|it| Arc::clone(&it.traceparent));
        Span {
            recorded: Mutex::new(recorded),
            traceparent: traceparent.or(otherwise),
        }
    }

    fn last(&self) -> Option<Arc<Recorded>> {
        let mut open = self.0.lock();
        loop {
            // Closed ones have no traceparent, dropped ones are gone.
            match open.last()?.upgrade() {
                Some(last) if last.span.lock().traceparent().is_some() => return Some(last),
                Some(_) | None => open.pop(),
            };
        }
    }
}

impl Span {
    pub(crate) fn new(
        open: Option<OpenSpan>,
        parent: Option<Arc<str>>,
        attributes: Option<&Bound<'_, PyDict>>,
        spans: &OpenSpans,
    ) -> PyResult<Self> {
        let Some(mut open) = open else {
            return Ok(Self {
                recorded: Mutex::new(None),
                traceparent: parent,
            });
        };
        for (key, value) in map(attributes)? {
            open.set_attribute(&key, value);
        }
        let traceparent: Option<Arc<str>> = open.traceparent().map(Arc::from);
        let recorded = Arc::new(Recorded {
            traceparent: traceparent.clone().unwrap_or_default(),
            span: Mutex::new(open),
        });
        let mut all = spans.0.lock();
        all.retain(|it| it.strong_count() > 0);
        if all.len() < MAX_OPEN {
            all.push(Arc::downgrade(&recorded));
        }
        Ok(Self {
            recorded: Mutex::new(Some(recorded)),
            traceparent,
        })
    }

    fn with(&self, change: impl FnOnce(&mut OpenSpan)) {
        if let Some(recorded) = &*self.recorded.lock() {
            change(&mut recorded.span.lock());
        }
    }
}

#[pymethods]
impl Span {
    /// Whether it is recorded: its trace is sampled, and traces are exported.
    fn is_recording(&self) -> bool {
        self.recorded.lock().is_some()
    }

    /// W3C trace id, 32 hexadecimal digits.
    #[getter]
    fn trace_id(&self) -> Option<&str> {
        self.traceparent.as_deref()?.split('-').nth(1)
    }

    /// W3C span id, 16 hexadecimal digits: that of the request's own span if it is not recorded.
    #[getter]
    fn span_id(&self) -> Option<&str> {
        self.traceparent.as_deref()?.split('-').nth(2)
    }

    /// Sets an attribute: a bool, an integer, a float or text.
    fn set_attribute(&self, key: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
        if self.is_recording() {
            let value = attribute(value)?;
            self.with(|span| span.set_attribute(key, value));
        }
        Ok(())
    }

    /// Adds something that happens now.
    #[pyo3(signature = (name, attrs=None))]
    fn add_event(&self, name: &str, attrs: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        if self.is_recording() {
            let attributes = map(attrs)?;
            self.with(|span| span.add_event(name, attributes));
        }
        Ok(())
    }

    /// Says how it ends: "ok", or "error" and why.
    #[pyo3(signature = (status, description=None))]
    fn set_status(&self, status: &str, description: Option<String>) -> PyResult<()> {
        let status = match status.to_ascii_lowercase().as_str() {
            "ok" => SpanStatus::Ok,
            "error" => SpanStatus::Error(description.unwrap_or_default()),
            _ => {
                let message = format!("status {status:?} is not known; use \"ok\" or \"error\"");
                return Err(PyValueError::new_err(message));
            }
        };
        self.with(|span| span.set_status(status));
        Ok(())
    }

    /// Ends it. What comes later is left out.
    fn close(&self) {
        let recorded = self.recorded.lock().take();
        if let Some(recorded) = recorded {
            recorded.span.lock().close();
        }
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    /// Ends it, with an error if there was one.
    fn __exit__(
        &self,
        kind: &Bound<'_, PyAny>,
        error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        if !kind.is_none() && self.is_recording() {
            let why = format!("{}: {}", kind.getattr("__qualname__")?, error.str()?);
            self.with(|span| span.set_status(SpanStatus::Error(why)));
        }
        self.close();
        Ok(false)
    }
}

fn map(attributes: Option<&Bound<'_, PyDict>>) -> PyResult<Map<String, Value>> {
    let mut map = Map::new();
    let Some(attributes) = attributes else {
        return Ok(map);
    };
    for (key, value) in attributes.iter() {
        map.insert(key.extract()?, attribute(&value)?);
    }
    Ok(map)
}

fn attribute(value: &Bound<'_, PyAny>) -> PyResult<Value> {
    if value.is_instance_of::<PyBool>() {
        Ok(value.extract::<bool>()?.into())
    } else if value.is_instance_of::<PyInt>() {
        Ok(value.extract::<i64>()?.into())
    } else if let Ok(number) = value.cast::<PyFloat>() {
        Ok(number.value().into())
    } else if let Ok(text) = value.cast::<PyString>() {
        Ok(text.to_str()?.into())
    } else {
        let kind = value.get_type().qualname()?;
        let message = format!("an attribute is a bool, an integer, a float or text, not {kind}");
        Err(PyTypeError::new_err(message))
    }
}
