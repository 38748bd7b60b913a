//! Which workers may get a request with structured output. Pure.
//!
//! A worker that does not announce that it can serve it (an older one, another engine) would answer
//! as if nothing were asked of the form: it is not asked, and if there is no other the request is
//! refused.

use dynamo_protocols::error::{ErrorCode, RequestError};
use dynamo_protocols::structured::{StructuredOutput, StructuredSupport};
use std::sync::Arc;

/// What matters of a request.
pub(super) struct Wish<'a> {
    pub(super) structured: &'a StructuredOutput,
    pub(super) model: &'a str,
    /// Another worker has begun the answer.
    pub(super) has_begun: bool,
    /// The worker that it names.
    pub(super) named: Option<u64>,
}

/// The workers that may get it; `None` if all may, or if nobody is there yet.
pub(super) fn able(
    wish: &Wish<'_>,
    workers: &[(u64, StructuredSupport)],
) -> Result<Option<Arc<[u64]>>, RequestError> {
    let needed = match wish.has_begun {
        false => StructuredSupport::FromStart,
        true => StructuredSupport::Replayed,
    };
    let able = workers.iter().filter(|(_, support)| *support >= needed);
    let able: Arc<[u64]> = able.map(|(id, _)| *id).collect();
    if let Some(named) = wish.named {
        let is_there = workers.iter().any(|(id, _)| *id == named);
        // Whoever routes says that one is not there.
        return match is_there && !able.contains(&named) {
            true => Err(wish
                .structured
                .unsupported("the worker that the request names")),
            false => Ok(None),
        };
    }
    if able.len() == workers.len() {
        return Ok(None);
    }
    if !able.is_empty() {
        return Ok(Some(able));
    }
    if wish.has_begun {
        // One may come back while the answer waits.
        return Err(RequestError::new(
            ErrorCode::ModelNotReady,
            "no worker is there that can go on with an answer in this form; send the request again",
        ));
    }
    let who = format!("the workers of model `{}`", wish.model);
    Err(wish.structured.unsupported(&who))
}

#[cfg(test)]
mod tests {
    use super::*;
    use StructuredSupport::{FromStart, No, Replayed};
    use dynamo_protocols::structured::Constraint;

    fn asked(
        has_begun: bool,
        named: Option<u64>,
        workers: &[(u64, StructuredSupport)],
    ) -> Result<Option<Vec<u64>>, ErrorCode> {
        let structured = StructuredOutput {
            field: "response_format".into(),
            constraint: Constraint::JsonObject,
            whitespace: None,
        };
        let wish = Wish {
            structured: &structured,
            model: "m",
            has_begun,
            named,
        };
        let able = able(&wish, workers);
        able.map(|it| it.map(|ids| ids.to_vec()))
            .map_err(|error| error.code)
    }

    #[test]
    fn only_workers_that_say_that_they_can_are_asked() {
        let mixed = [(1, No), (2, FromStart), (3, Replayed)];
        assert_eq!(asked(false, None, &mixed), Ok(Some(vec![2, 3])));
        assert_eq!(asked(true, None, &mixed), Ok(Some(vec![3])));
        assert_eq!(asked(false, None, &mixed[1..]), Ok(None));
        assert_eq!(asked(false, None, &[]), Ok(None));
        assert_eq!(
            asked(false, None, &mixed[..1]),
            Err(ErrorCode::UnsupportedParameter)
        );
        // Before its first token, the client's mistake; afterwards, a worker that is missing.
        assert_eq!(
            asked(true, None, &mixed[..2]),
            Err(ErrorCode::ModelNotReady)
        );
    }

    #[test]
    fn a_named_worker_must_be_able_to() {
        let mixed = [(1, No), (2, Replayed)];
        assert_eq!(asked(false, Some(2), &mixed), Ok(None));
        assert_eq!(asked(false, Some(9), &mixed), Ok(None));
        assert_eq!(
            asked(false, Some(1), &mixed),
            Err(ErrorCode::UnsupportedParameter)
        );
    }
}
