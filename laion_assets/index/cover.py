"""Which partition has which vector index, and how large they are. It builds none and changes no partition."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from laion_assets.index.declared import index_names
from laion_assets.index.part_sizes import Sizes, part_sizes
from laion_assets.table.database import Database
from laion_assets.table.schema import PartitionState, partitions


def cache_bytes(content: int, graphs: int) -> int:
    """What the index cache counts at most for so many graphs of so many bytes in all: twice these, and 16 MiB a graph.

    usearch has two arenas a graph, each of blocks of 8, 16, 32 MiB and so on, which count before they are filled: 16
    MiB for a graph of 1 MiB, 32 for 12, 64 for 33 (ClickHouse 26.9). 414 partitions of 200 rows are 14 GB to the cache,
    and 0.2 GB to the machine.
    """
    return 2 * content + (16 << 20) * graphs


@dataclass(frozen=True)
class PartitionCover:
    """One loaded partition: its rows and parts, and bytes on disk of each index by name, 0 where it is lacking.

    `uncompressed` is what the indexes take in memory. With more than one part a partition, an index counts as there
    only when every part has it.
    """

    shard: int
    rows: int
    parts: int
    compressed: dict[str, int]
    uncompressed: dict[str, int]

    @property
    def missing(self) -> list[str]:
        """Names of the indexes that it lacks."""
        return [name for name, size in self.compressed.items() if not size]

    @property
    def covered(self) -> bool:
        """Whether every index is there."""
        return not self.missing


@dataclass(frozen=True)
class IndexSizes:
    """What the indexes of all covered partitions take.

    `vectors` counts those in an index, `graphs` one a part and index. Bytes in memory are the indexes' uncompressed
    content.
    """

    vectors: int
    graphs: int
    bytes_on_disk: int
    bytes_in_memory: int

    @property
    def disk_bytes_a_vector(self) -> float:
        """Bytes on disk a vector, 0 without any."""
        return self.bytes_on_disk / self.vectors if self.vectors else 0.0

    @property
    def memory_bytes_a_vector(self) -> float:
        """Bytes in memory a vector, 0 without any."""
        return self.bytes_in_memory / self.vectors if self.vectors else 0.0

    def cache_warning(self, has_bytes: int) -> str | None:
        """What to do when the indexes do not fit ClickHouse's cache of `has_bytes`; None when they do."""
        needed = cache_bytes(self.bytes_in_memory, self.graphs)
        if needed <= has_bytes:
            return None
        return (
            f"the indexes need {needed:,} bytes of the index cache (it counts {self.graphs:,} graphs of "
            f"{self.bytes_in_memory:,} bytes by their arenas), which has {has_bytes:,}: searches will read them from "
            "disk again and again. Raise LAION_INDEX_CACHE_BYTES (a server's vector_similarity_index_cache_size), or "
            "choose a smaller quantization"
        )


def index_cache_bytes(db: Database) -> int:
    """The size of the engine's index cache: a server has its own, whatever our settings say. Raises `TableError`."""
    rows = db.rows("SELECT value FROM system.server_settings WHERE name = 'vector_similarity_index_cache_size'")
    return int(rows[0][0]) if rows else db.settings.index_cache_bytes


def index_cover(db: Database, shards: Collection[int] | None = None) -> list[PartitionCover]:
    """Every loaded partition, or those of `shards`, in their order, with the bytes of each index that settings ask for.

    A part that was not looked at before takes 10 ms, all others one statement (part_sizes.py). Raises `TableError`.
    """
    names = index_names(db)
    states = [state for state in partitions(db) if shards is None or state.shard in shards]
    sizes = part_sizes(db, [state.shard for state in states if state.index_bytes])
    return [_cover(state, names, sizes.get(state.shard, [])) for state in states]


def _cover(state: PartitionState, names: Iterable[str], parts: Sequence[Sizes]) -> PartitionCover:
    """Of an index that a part lacks no bytes count."""
    whole = {name for name in names if parts and all(name in part for part in parts)}
    return PartitionCover(
        state.shard,
        state.rows,
        state.parts,
        compressed={name: sum(part[name][0] for part in parts) if name in whole else 0 for name in names},
        uncompressed={name: sum(part[name][1] for part in parts) if name in whole else 0 for name in names},
    )


def index_sizes(cover: list[PartitionCover]) -> IndexSizes:
    """The sums over all partitions."""
    return IndexSizes(
        vectors=sum(state.rows for state in cover for size in state.compressed.values() if size),
        graphs=sum(state.parts for state in cover for size in state.compressed.values() if size),
        bytes_on_disk=sum(sum(state.compressed.values()) for state in cover),
        bytes_in_memory=sum(sum(state.uncompressed.values()) for state in cover),
    )
