//! Asking a worker for a prompt's KV state instead of an answer.
//!
//! Some engines have the prefill and the decode worker meet: the prefill worker is announced with an
//! address, the request gets a room there, and both sides are asked at once. Such a request goes to
//! the worker whose address it names and to no other.

use super::{RemoteEngine, within};
use dynamo_protocols::RequestError;
use dynamo_protocols::engine::{
    Bootstrap, BootstrapAddress, EngineRequest, EngineStream, RequestContext,
};
use dynamo_protocols::routing::{PrefillPlace, RouteSlip};
use dynamo_runtime::component::client::{Call, Policy};
use dynamo_runtime::discovery::InstanceId;
use futures_util::StreamExt;
use std::sync::Arc;

/// Rooms are below 2^63, and there is place above for a rank.
const ROOM_BITS: u32 = 62;

/// A prompt that a worker computes.
pub(crate) struct Prefilling {
    /// What the worker says of it. Dropping it gives the prompt up.
    pub(crate) outputs: EngineStream,
    /// Where whoever generates finds it, if that was arranged before.
    pub(crate) bootstrap: Option<Bootstrap>,
    /// Who computes it.
    pub(crate) place: PrefillPlace,
}

impl RemoteEngine {
    /// Has one of the workers compute the prompt. `bits` are random.
    pub(crate) async fn prefill(
        &self,
        mut request: EngineRequest,
        mut context: RequestContext,
        bits: u64,
    ) -> Result<Prefilling, RequestError> {
        // The choice has to be known here, whoever asked.
        let slip = context.route.get_or_insert_default();
        let slip: Arc<RouteSlip> = Arc::clone(slip);
        let routed = within(
            context.deadlines.queue,
            self.router.route(&request, &context),
        )
        .await?;
        let chosen = slip.routed().unwrap_or_default();
        let bootstrap = self.address_of(chosen.instance).map(|address| {
            let ranks = self.router.ranks(chosen.instance) as u64;
            let room = room(bits, chosen.dp_rank, ranks);
            Bootstrap { address, room }
        });
        let instance = InstanceId::new(chosen.instance).filter(|_| bootstrap.is_some());
        let call = Call {
            dispatch: context.deadlines.dispatch,
            choice: request.choice,
            start_position: request.generated_ids.len() as u64,
            ..Call::from(context)
        };
        if bootstrap.is_some() {
            request.bootstrap = bootstrap.clone().map(Box::new);
            request.dp_rank = Some(chosen.dp_rank);
        }
        let request = Arc::new(request);
        let policy = match instance {
            Some(instance) => Policy::Direct(instance),
            None => routed.policy(&request),
        };
        let outputs = self.generate.call(policy, &request, call).await?;
        let chosen = slip.routed().unwrap_or(chosen);
        Ok(Prefilling {
            outputs: routed.account(outputs).boxed(),
            bootstrap,
            place: PrefillPlace {
                instance: chosen.instance,
                dp_rank: chosen.dp_rank,
            },
        })
    }

    /// Where the engine of an instance hands KV state over, if it is announced.
    fn address_of(&self, instance: u64) -> Option<BootstrapAddress> {
        let instances = self.generate.untyped().instances();
        let instance = instances.iter().find(|it| it.id.get() == instance)?;
        let says = instance
            .record
            .metadata
            .get(BootstrapAddress::METADATA_KEY)?;
        serde_json::from_value(says.clone()).ok()
    }
}

/// A room by which the engine finds the data-parallel rank that has the prompt: modulo their number
/// it is that rank.
fn room(bits: u64, rank: u32, ranks: u64) -> u64 {
    let (room, ranks) = (bits >> (u64::BITS - ROOM_BITS), ranks.max(1));
    room - room % ranks + u64::from(rank) % ranks
}

#[cfg(test)]
mod tests {
    use super::room;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_room_names_its_rank_and_fits_a_signed_number(
            bits: u64, ranks in 0_u64..100, rank in 0_u32..100,
        ) {
            let rank = rank % ranks.max(1) as u32;
            let room = room(bits, rank, ranks);
            prop_assert!(i64::try_from(room).is_ok());
            prop_assert_eq!(room % ranks.max(1), u64::from(rank));
        }
    }
}
