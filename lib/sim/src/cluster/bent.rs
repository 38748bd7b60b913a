//! Engines that are broken on purpose, to see that the judges notice.

use super::Broken;
use dynamo_protocols::RequestError;
use dynamo_protocols::engine::{
    Engine, EngineOutput, EngineRequest, EngineStream, FinishReason, KvEventStream, RequestContext,
};
use dynamo_protocols::kv::KvEvent;
use dynamo_protocols::load::LoadReport;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio_util::sync::CancellationToken;

/// The output of an answer that something happens to.
const BENT_OUTPUT: usize = 4;

/// An engine that does one thing wrong.
#[derive(Debug)]
pub(super) struct Bent {
    engine: Arc<dyn Engine>,
    broken: Broken,
    /// SIGTERM.
    terminate: CancellationToken,
}

/// A stream that is not let go.
struct Kept(ManuallyDrop<EngineStream>);

impl Bent {
    /// The engine itself, unless it is to be broken.
    pub(super) fn around(
        engine: Arc<dyn Engine>,
        broken: Broken,
        terminate: &CancellationToken,
    ) -> Arc<dyn Engine> {
        match broken {
            Broken::DropToken
            | Broken::DoubleToken
            | Broken::StartAgain
            | Broken::ForgetLastToken
            | Broken::EndEarly
            | Broken::Stall
            | Broken::CutDrain
            | Broken::MissRemoval
            | Broken::KeepSequence => Arc::new(Self {
                engine,
                broken,
                terminate: terminate.clone(),
            }),
            _ => engine,
        }
    }

    fn bend(&self, outputs: EngineStream) -> EngineStream {
        match self.broken {
            Broken::DropToken => {
                let kept = outputs.enumerate().filter(|(at, output)| {
                    let last = output.as_ref().is_ok_and(|it| it.finish_reason.is_some());
                    std::future::ready(*at != BENT_OUTPUT || last)
                });
                kept.map(|(_, output)| output).boxed()
            }
            Broken::DoubleToken => {
                let doubled = outputs.enumerate().flat_map(|(at, output)| {
                    let again = output.as_ref().ok().filter(|_| at == BENT_OUTPUT).cloned();
                    let first = again.map(|it| EngineOutput {
                        finish_reason: None,
                        ..it
                    });
                    stream::iter(first.map(Ok).into_iter().chain([output]))
                });
                doubled.boxed()
            }
            Broken::EndEarly => {
                let cut = outputs.enumerate().map(|(at, output)| {
                    let mut output = output?;
                    if at == BENT_OUTPUT {
                        output.finish_reason = Some(FinishReason::EndOfSequence);
                    }
                    Ok(output)
                });
                cut.boxed()
            }
            Broken::Stall => outputs.take(BENT_OUTPUT).chain(stream::pending()).boxed(),
            Broken::CutDrain => {
                let terminate = self.terminate.clone();
                let cut = outputs.map(move |output| {
                    let mut output = output?;
                    if terminate.is_cancelled() {
                        output.finish_reason = Some(FinishReason::EndOfSequence);
                    }
                    Ok(output)
                });
                cut.boxed()
            }
            Broken::KeepSequence => Box::pin(Kept(ManuallyDrop::new(outputs))),
            _ => outputs,
        }
    }
}

impl futures_util::Stream for Kept {
    type Item = Result<EngineOutput, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl Engine for Bent {
    fn generate(
        &self,
        mut request: EngineRequest,
        context: RequestContext,
    ) -> BoxFuture<'_, Result<EngineStream, RequestError>> {
        Box::pin(async move {
            match self.broken {
                Broken::StartAgain => request.generated_ids.clear(),
                Broken::ForgetLastToken => drop(request.generated_ids.pop()),
                _ => {}
            }
            Ok(self.bend(self.engine.generate(request, context).await?))
        })
    }

    fn load(&self) -> LoadReport {
        self.engine.load()
    }

    fn kv_events(&self) -> Option<KvEventStream> {
        self.engine.kv_events()
    }

    fn ranks(&self) -> u32 {
        self.engine.ranks()
    }

    fn rank_load(&self, rank: u32) -> LoadReport {
        self.engine.rank_load(rank)
    }

    fn rank_kv_events(&self, rank: u32) -> Option<KvEventStream> {
        let events = self.engine.rank_kv_events(rank)?;
        if self.broken != Broken::MissRemoval {
            return Some(events);
        }
        let bent = events.map(|mut batch| {
            for event in &mut batch.events {
                if let KvEvent::Removed { blocks } = event {
                    *blocks = Default::default();
                }
            }
            batch
        });
        Some(bent.boxed())
    }

    fn drain(&self) -> BoxFuture<'_, ()> {
        self.engine.drain()
    }
}
