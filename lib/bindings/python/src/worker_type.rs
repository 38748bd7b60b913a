//! What a worker of a disaggregated deployment does, and whom it needs, as Python says it.

use dynamo_llm::role;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

/// What a worker of a disaggregated deployment does.
#[pyclass(frozen, eq, eq_int, module = "dynamo._core", from_py_object)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WorkerType {
    /// Computes prompts.
    Prefill,
    /// Generates token by token.
    Decode,
    /// Turns media into embeddings.
    Encode,
    /// All of it.
    Aggregated,
}

impl WorkerType {
    /// Its name in lists of needs and in messages.
    fn word(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::Encode => "encode",
            Self::Aggregated => "aggregated",
        }
    }

    /// The type as it is announced.
    fn served(self) -> PyResult<role::WorkerType> {
        match self {
            Self::Prefill => Ok(role::WorkerType::Prefill),
            Self::Decode => Ok(role::WorkerType::Decode),
            Self::Aggregated => Ok(role::WorkerType::Aggregated),
            Self::Encode => Err(PyValueError::new_err(
                "encode workers are not served: frontends send them nothing",
            )),
        }
    }

    fn of_word(word: &str) -> Option<Self> {
        let all = [Self::Prefill, Self::Decode, Self::Encode, Self::Aggregated];
        all.into_iter().find(|it| it.word() == word)
    }
}

/// What a worker is and whom it needs, by what it says. One that only `prefills` says it by that.
pub(crate) fn role(
    worker_type: Option<WorkerType>,
    needs: Option<&Bound<'_, PyAny>>,
    prefills: bool,
) -> PyResult<(role::WorkerType, Vec<Vec<role::WorkerType>>)> {
    let worker_type = match worker_type {
        None if prefills => WorkerType::Prefill,
        given => given.unwrap_or(WorkerType::Aggregated),
    };
    let needs = needs.map(read_needs).transpose()?;
    Ok((worker_type.served()?, needs.unwrap_or_default()))
}

/// Whom a worker needs: a list of lists, such as `[["prefill"]]`, of words or worker types.
fn read_needs(needs: &Bound<'_, PyAny>) -> PyResult<Vec<Vec<role::WorkerType>>> {
    let wrong = || {
        PyTypeError::new_err(
            "needs is a list of groups, each a list of worker types of which all must be there, \
             such as [[\"prefill\"]]",
        )
    };
    let groups: Vec<Vec<Bound<'_, PyAny>>> = needs.extract().map_err(|_| wrong())?;
    let member = |member: &Bound<'_, PyAny>| {
        if let Ok(known) = member.extract::<WorkerType>() {
            return known.served();
        }
        let word: String = member.extract().map_err(|_| wrong())?;
        let known = WorkerType::of_word(&word).ok_or_else(|| {
            PyValueError::new_err(format!(
                "needs names {word:?}, which is no worker type; use prefill, decode or aggregated"
            ))
        });
        known?.served()
    };
    let groups = groups.iter();
    groups
        .map(|group| group.iter().map(member).collect())
        .collect()
}
