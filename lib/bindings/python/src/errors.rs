//! Errors of Dynamo as Python exceptions, and Python exceptions as errors of Dynamo.
//!
//! Every exception of ours has an attribute `code`, the code of the error table. A handler that
//! raises one with a code ends its request with that error; any other exception is the engine's
//! failure, so that the request may move to another worker.

use dynamo_protocols::{ErrorCode, RequestError};
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyGeneratorExit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

create_exception!(
    dynamo._core,
    DynamoException,
    PyException,
    "What ends a request. `code` is its code in the error table."
);
create_exception!(
    dynamo._core,
    Unknown,
    DynamoException,
    "An error that has no class of its own; see `code`."
);
create_exception!(
    dynamo._core,
    InvalidArgument,
    DynamoException,
    "The request makes no sense: mend it."
);
create_exception!(
    dynamo._core,
    CannotConnect,
    DynamoException,
    "No instance took the request; it may be sent again."
);
create_exception!(
    dynamo._core,
    Disconnected,
    DynamoException,
    "The worker went away in the middle of the answer."
);
create_exception!(
    dynamo._core,
    ConnectionTimeout,
    DynamoException,
    "A part of the request took longer than it may."
);
create_exception!(
    dynamo._core,
    Cancelled,
    DynamoException,
    "The request was cancelled."
);
create_exception!(
    dynamo._core,
    EngineShutdown,
    DynamoException,
    "The worker ends. Raised by a handler, it moves the request to another worker."
);
create_exception!(
    dynamo._core,
    StreamIncomplete,
    DynamoException,
    "The answer ended before it was complete."
);
create_exception!(
    dynamo._core,
    WorkerUnavailable,
    DynamoException,
    "All workers are full, or none is ready."
);

/// The exceptions, to be put into the module.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("DynamoException", py.get_type::<DynamoException>())?;
    module.add("Unknown", py.get_type::<Unknown>())?;
    module.add("InvalidArgument", py.get_type::<InvalidArgument>())?;
    module.add("CannotConnect", py.get_type::<CannotConnect>())?;
    module.add("Disconnected", py.get_type::<Disconnected>())?;
    module.add("ConnectionTimeout", py.get_type::<ConnectionTimeout>())?;
    module.add("Cancelled", py.get_type::<Cancelled>())?;
    module.add("EngineShutdown", py.get_type::<EngineShutdown>())?;
    module.add("StreamIncomplete", py.get_type::<StreamIncomplete>())?;
    module.add("WorkerUnavailable", py.get_type::<WorkerUnavailable>())
}

/// An error of a request as the exception that a client sees.
pub(crate) fn to_python(py: Python<'_>, error: &RequestError) -> PyErr {
    let message = error.message.clone();
    let exception = match error.code {
        ErrorCode::InvalidRequest | ErrorCode::UnsupportedParameter => {
            InvalidArgument::new_err(message)
        }
        ErrorCode::WorkerUnreachable => CannotConnect::new_err(message),
        ErrorCode::WorkerLost => Disconnected::new_err(message),
        ErrorCode::WorkerProtocol => StreamIncomplete::new_err(message),
        ErrorCode::QueueTimeout
        | ErrorCode::DispatchTimeout
        | ErrorCode::FirstTokenTimeout
        | ErrorCode::InterTokenTimeout
        | ErrorCode::RequestTimeout => ConnectionTimeout::new_err(message),
        ErrorCode::Cancelled => Cancelled::new_err(message),
        ErrorCode::Draining => EngineShutdown::new_err(message),
        ErrorCode::NoCapacity | ErrorCode::ModelNotReady => WorkerUnavailable::new_err(message),
        _ => Unknown::new_err(message),
    };
    if let Err(error) = exception.value(py).setattr("code", error.code.as_str()) {
        failed(py, &error, "an exception takes no code");
    }
    exception
}

/// What a handler's exception makes of its request.
pub(crate) fn from_python(py: Python<'_>, error: &PyErr) -> RequestError {
    let message = error.value(py).to_string();
    if is_cancellation(py, error)
        || error.is_instance_of::<PyGeneratorExit>(py)
        || error.is_instance_of::<EngineShutdown>(py)
    {
        let message = "the worker ends; another one goes on with the request";
        return RequestError::new(ErrorCode::Draining, message);
    }
    if error.is_instance_of::<InvalidArgument>(py) {
        return RequestError::new(ErrorCode::InvalidRequest, message);
    }
    if error.is_instance_of::<WorkerUnavailable>(py) {
        return RequestError::new(ErrorCode::NoCapacity, message);
    }
    if let Some(status) = http_status(py, error) {
        return with_status(status, message);
    }
    // Exceptions of the HTTP kind say a status.
    let status = error
        .value(py)
        .getattr("code")
        .and_then(|it| it.extract::<u16>());
    match status {
        Ok(429) => RequestError::new(ErrorCode::RateLimited, message),
        Ok(503) => RequestError::new(ErrorCode::NoCapacity, message),
        Ok(400..500) => RequestError::new(ErrorCode::InvalidRequest, message),
        Ok(_) | Err(_) => {
            let kind = error.get_type(py).qualname().map(|name| name.to_string());
            let kind = kind.unwrap_or_else(|_| "an exception".to_owned());
            let message = format!("the worker's handler raised {kind}: {message}");
            RequestError::new(ErrorCode::EngineFailed, message)
        }
    }
}

/// The status that an `HttpError` asks for.
fn http_status(py: Python<'_>, error: &PyErr) -> Option<u16> {
    static HTTP_ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let kind = HTTP_ERROR.import(py, "dynamo.llm.exceptions", "HttpError");
    let is_one = kind.is_ok_and(|kind| error.is_instance(py, kind));
    is_one.then(|| error.value(py).getattr("code").ok()?.extract().ok())?
}

/// The error of an `HttpError`: who is to blame is what its status says.
fn with_status(status: u16, message: String) -> RequestError {
    let code = match status {
        429 => ErrorCode::RateLimited,
        503 => ErrorCode::NoCapacity,
        400..500 => ErrorCode::InvalidRequest,
        500..600 => ErrorCode::EngineFailed,
        _ => {
            return RequestError::new(
                ErrorCode::EngineFailed,
                format!(
                    "the worker's handler raised an HttpError with status {status}, which is no error's: \
                     {message}"
                ),
            );
        }
    };
    RequestError::new(code, message).with_status(status)
}

/// Whether the exception is asyncio's cancellation.
fn is_cancellation(py: Python<'_>, error: &PyErr) -> bool {
    static CANCELLED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let kind = CANCELLED.import(py, "asyncio", "CancelledError");
    kind.is_ok_and(|kind| error.is_instance(py, kind))
}

/// Tells of an error that nobody waits for.
pub(crate) fn failed(py: Python<'_>, error: &PyErr, what: &str) {
    tracing::warn!("{what}: {}", error.value(py));
}
