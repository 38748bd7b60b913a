//! A constraint at one place of an answer: what may come next, and whether it may end here.

use dynamo_protocols::engine::TokenId;
use dynamo_protocols::structured::StructuredOutput;
use dynamo_protocols::{ErrorCode, RequestError};
use llguidance::Matcher;
use llguidance::api::StopReason;
use llguidance::toktrie::SimpleVob;
use std::fmt;
use std::sync::Arc;

/// See the module's description.
pub(crate) struct Matching {
    matcher: Matcher,
    /// What may come next; not there while it is being worked out.
    next: Option<SimpleVob>,
    structured: Arc<StructuredOutput>,
}

impl fmt::Debug for Matching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matching")
            .field("field", &self.structured.field)
            .finish_non_exhaustive()
    }
}

impl Matching {
    /// At the beginning of an answer.
    pub(crate) fn new(matcher: Matcher, structured: Arc<StructuredOutput>) -> Self {
        Self {
            matcher,
            next: None,
            structured,
        }
    }

    /// Goes through what another worker has generated; `true` if the answer is complete with it.
    pub(crate) fn replay(&mut self, generated: &[TokenId]) -> Result<bool, RequestError> {
        for (position, &token) in generated.iter().enumerate() {
            let fits = self.matcher.validate_tokens(&[token]);
            let is_last = position + 1 == generated.len();
            let complete = match fits {
                Ok(1) => self.take(token)?,
                Ok(_) => return Err(self.strange(position)),
                Err(_) => return Err(self.too_complex()),
            };
            if complete {
                return match is_last {
                    true => Ok(true),
                    false => Err(self.strange(position + 1)),
                };
            }
        }
        Ok(false)
    }

    /// Takes the token that was drawn; `true` if the answer is complete with it.
    pub(crate) fn take(&mut self, token: TokenId) -> Result<bool, RequestError> {
        self.next = None;
        if self.matcher.consume_token(token).is_err() {
            return Err(self.too_complex());
        }
        Ok(match self.matcher.stop_reason() {
            StopReason::NotStopped => false,
            reason => reason.is_ok(),
        })
    }

    /// Works out what may come next.
    pub(crate) fn work_out(&mut self) -> Result<(), RequestError> {
        let mask = self.matcher.compute_mask();
        self.next = Some(mask.map_err(|_| self.too_complex())?);
        Ok(())
    }

    /// What may come next, a bit for each token; `None` if it is still to be worked out.
    pub(crate) fn next(&self) -> Option<&[u32]> {
        self.next.as_ref().map(SimpleVob::as_slice)
    }

    /// How long the constraint's texts and states have become is bounded, and this one is beyond.
    fn too_complex(&self) -> RequestError {
        self.structured
            .refusal("became too complex to keep to while the answer was generated; simplify it")
    }

    /// Tokens of another worker that the constraint does not allow: it is of another model or
    /// another build, or did not keep to the constraint.
    fn strange(&self, position: usize) -> RequestError {
        RequestError::new(
            ErrorCode::Internal,
            format!(
                "token {position} of an answer that another worker began does not fit `{}`; send \
                 the request again",
                self.structured.field
            ),
        )
    }
}
