"""Hashes, an index fed by hand, and the router of an endpoint's workers."""

import json

from conftest import ROOT

from dynamo.llm import RadixTree, compute_block_hash_for_seq, compute_sequence_hashes

TOKENIZER = ROOT / ".models/tokenizers/qwen3"


def test_hashes_are_of_full_blocks_and_of_what_keeps_caches_apart():
    tokens = list(range(40))
    blocks = compute_block_hash_for_seq(tokens, 16)
    assert len(blocks) == 2
    assert blocks == compute_block_hash_for_seq(tokens[:32], 16)
    assert blocks != compute_block_hash_for_seq(tokens, 16, lora_name="adapter")
    assert blocks != compute_block_hash_for_seq(tokens, 16, cache_namespace="tenant")
    chained = compute_sequence_hashes(blocks)
    assert chained[0] == blocks[0]
    assert chained != compute_sequence_hashes(blocks[::-1])


def test_an_index_says_who_has_how_much():
    tree = RadixTree()
    blocks = compute_block_hash_for_seq(list(range(64)), 16)
    tree.store(1, blocks)
    tree.store(2, blocks[:2])
    tree.store(2, blocks[2:3], prefix=blocks[:2])
    found = tree.find_matches(blocks)
    assert found.scores == {(1, 0): 4, (2, 0): 3}
    assert found.frequencies == [2, 2, 2, 1]
    tree.remove(1, compute_sequence_hashes(blocks)[1:])
    assert tree.find_matches(blocks).scores == {(1, 0): 1, (2, 0): 3}
    tree.remove_worker(2)
    assert tree.find_matches(blocks).scores == {(1, 0): 1}
    tree.clear_all_blocks(1)
    assert tree.find_matches(blocks).scores == {}


CLIENT = """
import asyncio, json
from dynamo.llm import KvIndexer, KvRouter
from dynamo.runtime import dynamo_worker

PROMPT = list(range(1_000, 1_200))

@dynamo_worker()
async def main(runtime):
    endpoint = runtime.endpoint("dynamo.backend.generate")
    client = await endpoint.client()
    while len(await client.wait_for_instances(30)) < 2:
        await asyncio.sleep(0.02)
    router, index = KvRouter(endpoint, 16), KvIndexer(endpoint, 16)
    while router.workers() != (2, 2) or index.workers() != (2, 2):
        await asyncio.sleep(0.02)
    request = {"model": "qwen3", "token_ids": PROMPT, "stop_conditions": {"max_tokens": 5}}
    items = [item async for item in await router.generate(request)]
    # What was computed is told soon.
    for _ in range(500):
        worker, rank, overlap = router.best_worker(PROMPT)
        scores = index.find_matches_for_request(PROMPT).scores
        if overlap and scores:
            break
        await asyncio.sleep(0.02)
    print(json.dumps({
        "tokens": sum((item["token_ids"] for item in items), []),
        "finish": items[-1].get("finish_reason"),
        "overlap": overlap,
        "rank": rank,
        "indexed": scores == {(worker, rank): overlap},
        "is_known": worker in client.instance_ids(),
        "loads": [load["requests"] for load in router.get_potential_loads()],
    }))
    other = next(id for id in client.instance_ids() if id != worker)
    again = [item async for item in await router.generate(request, worker_id=other)]
    print(json.dumps(again[-1].get("finish_reason")))

asyncio.run(main())
"""


def test_a_router_finds_the_worker_that_has_the_prompt(deployment):
    mocker = deployment.start(
        "-m", "dynamo.mocker", "--model-path", str(TOKENIZER), "--model-name", "qwen3",
        "--num-workers", "2", "--block-size", "16", "--speedup-ratio", "100",
    )
    assert mocker.line()
    first, second = deployment.ask(CLIENT).splitlines()
    seen = json.loads(first)
    assert len(seen["tokens"]) == 5
    assert seen["finish"] == "length"
    # 200 tokens are 12 full blocks.
    assert seen["overlap"] == 12
    assert seen["rank"] == 0
    assert seen["indexed"]
    assert seen["is_known"]
    assert seen["loads"] == [0, 0]
    assert json.loads(second) == "length"
