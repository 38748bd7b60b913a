//! What an engine works on, and for whom: every answer that a worker has begun and that nobody has
//! let go of.

use dynamo_protocols::RequestError;
use dynamo_protocols::engine::{
    Engine, EngineOutput, EngineRequest, EngineStream, KvEventStream, RequestContext,
};
use dynamo_protocols::load::LoadReport;
use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// The ids of the requests that an engine works on, each with a number of its own.
pub(super) type Running = Arc<Mutex<BTreeSet<(Arc<str>, u64)>>>;

/// An engine that says what it works on.
#[derive(Debug)]
pub(super) struct Owned {
    engine: Arc<dyn Engine>,
    running: Running,
    begun: Mutex<u64>,
}

/// An answer that counts as worked on until it is dropped.
struct Answer {
    outputs: EngineStream,
    running: Running,
    own: (Arc<str>, u64),
}

impl Owned {
    /// The engine, which tells `running` what it works on.
    pub(super) fn around(engine: Arc<dyn Engine>, running: &Running) -> Arc<dyn Engine> {
        Arc::new(Self {
            engine,
            running: Arc::clone(running),
            begun: Mutex::default(),
        })
    }
}

impl Engine for Owned {
    fn generate(
        &self,
        request: EngineRequest,
        context: RequestContext,
    ) -> BoxFuture<'_, Result<EngineStream, RequestError>> {
        let id = Arc::clone(&context.request_id);
        Box::pin(async move {
            let outputs = self.engine.generate(request, context).await?;
            let own = {
                let mut begun = self.begun.lock();
                *begun += 1;
                (id, *begun)
            };
            self.running.lock().insert(own.clone());
            let running = Arc::clone(&self.running);
            let answer = Answer {
                outputs,
                running,
                own,
            };
            Ok(answer.boxed())
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
        self.engine.rank_kv_events(rank)
    }

    fn drain(&self) -> BoxFuture<'_, ()> {
        self.engine.drain()
    }
}

impl Stream for Answer {
    type Item = Result<EngineOutput, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.outputs.as_mut().poll_next(cx)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.running.lock().remove(&self.own);
    }
}
