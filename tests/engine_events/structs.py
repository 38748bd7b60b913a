"""KV events as the engines declare them to msgspec: the declarations make the bytes."""

from typing import Any

import msgspec


class Encoding:
    """The structs of one way to write them."""

    def __init__(self, array_like):
        class Batch(msgspec.Struct, array_like=array_like, omit_defaults=True, gc=False):
            ts: float
            events: list[Any]
            data_parallel_rank: int | None = None

        class Event(msgspec.Struct, array_like=array_like, omit_defaults=True, gc=False, tag=True):
            pass

        class BlockStored(Event):
            block_hashes: list[int | bytes]
            parent_block_hash: int | bytes | None
            token_ids: list[int]
            block_size: int
            lora_id: int | None = None
            medium: str | None = None
            lora_name: str | None = None
            extra_keys: list[Any] | None = None
            group_idx: int | None = None
            kv_cache_spec_kind: str | None = None
            kv_cache_spec_sliding_window: int | None = None

        class BlockRemoved(Event):
            block_hashes: list[int | bytes]
            medium: str | None = None
            group_idx: int | None = None

        class AllBlocksCleared(Event):
            pass

        class BlockMoved(Event):
            """A kind of tomorrow."""

            block_hashes: list[int]

        self.Batch = Batch
        self.BlockStored = BlockStored
        self.BlockRemoved = BlockRemoved
        self.AllBlocksCleared = AllBlocksCleared
        self.BlockMoved = BlockMoved


ARRAYS = Encoding(array_like=True)
MAPS = Encoding(array_like=False)
encode = msgspec.msgpack.Encoder().encode
