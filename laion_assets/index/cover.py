"""Which partition has which vector index, and how large they are. It builds none and changes no partition."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from laion_assets.index.declared import index_names
from laion_assets.index.part_sizes import Sizes, part_sizes
from laion_assets.table.database import Database
from laion_assets.table.schema import PartitionState, partitions


def cache_bytes(content: int, graphs: int) -> int:
    """The most that the index cache counts for `graphs` graphs of `content` bytes in all: twice the bytes, and 16 MiB
    for each graph.

    usearch has two arenas for each graph. Each arena has blocks of 8, 16, 32 MiB and so on, which count before they are
    filled: 16 MiB for a graph of 1 MiB, 32 for 12, 64 for 33 (ClickHouse 26.9). 414 partitions of 200 rows count as 14
    GB in the cache, but take 0.2 GB of the machine's memory.
    """
    return 2 * content + (16 << 20) * graphs


@dataclass(frozen=True)
class PartitionCover:
    """One loaded partition: its rows and parts, and bytes on disk of each index by name, 0 if it lacks the index.

    `uncompressed` is what the indexes take in memory. If a partition has several parts, it has an index only when every
    part has it. With `deleted_rows` it counts as without indexes: ClickHouse takes candidates from the graphs, and
    leaves out the deleted rows among them afterwards, so that a search finds too few rows, or wrong ones.
    """

    shard: int
    rows: int
    parts: int
    compressed: dict[str, int]
    uncompressed: dict[str, int]
    deleted_rows: bool = False

    @property
    def faults(self) -> list[str]:
        """What is wrong, in words."""
        if self.deleted_rows:
            return [f"partition {self.shard} has rows that a DELETE removed or an UPDATE changed after its graphs"]
        return [f"partition {self.shard} has no {name}" for name in self.missing]

    @property
    def missing(self) -> list[str]:
        """Names of the missing indexes."""
        return [name for name, size in self.compressed.items() if not size]

    @property
    def covered(self) -> bool:
        """Whether the partition has every index."""
        return not self.missing


@dataclass(frozen=True)
class IndexSizes:
    """What the indexes of all covered partitions take.

    `vectors` counts vectors in an index, `graphs` one graph for each part and index. Bytes in memory are the indexes'
    uncompressed content.
    """

    vectors: int
    graphs: int
    bytes_on_disk: int
    bytes_in_memory: int

    @property
    def disk_bytes_a_vector(self) -> float:
        """Bytes on disk a vector, 0 if there is none."""
        return self.bytes_on_disk / self.vectors if self.vectors else 0.0

    @property
    def memory_bytes_a_vector(self) -> float:
        """Bytes in memory a vector, 0 if there is none."""
        return self.bytes_in_memory / self.vectors if self.vectors else 0.0

    def cache_warning(self, has_bytes: int) -> str | None:
        """What to do if the indexes do not fit ClickHouse's cache of `has_bytes`; None if they do."""
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
    """The size of the engine's index cache. A server has its own size, whatever our settings. Raises `TableError`."""
    rows = db.rows("SELECT value FROM system.server_settings WHERE name = 'vector_similarity_index_cache_size'")
    return int(rows[0][0]) if rows else db.settings.index_cache_bytes


def index_cover(db: Database, shards: Collection[int] | None = None) -> list[PartitionCover]:
    """Every loaded partition, or those of `shards`, in their order, with the bytes of each index that settings ask for.

    A part that was not measured before takes 10 ms; all other parts take one statement (part_sizes.py). Raises
    `TableError`.
    """
    names = index_names(db)
    states = [state for state in partitions(db) if shards is None or state.shard in shards]
    sizes = part_sizes(db, [state.shard for state in states if state.index_bytes and not state.deleted_rows])
    return [_cover(state, names, sizes.get(state.shard, [])) for state in states]


def _cover(state: PartitionState, names: Iterable[str], parts: Sequence[Sizes]) -> PartitionCover:
    """An index that one part lacks counts 0 bytes."""
    whole = {name for name in names if parts and all(name in part for part in parts)}
    return PartitionCover(
        state.shard,
        state.rows,
        state.parts,
        compressed={name: sum(part[name][0] for part in parts) if name in whole else 0 for name in names},
        uncompressed={name: sum(part[name][1] for part in parts) if name in whole else 0 for name in names},
        deleted_rows=state.deleted_rows,
    )


def index_sizes(cover: list[PartitionCover]) -> IndexSizes:
    """The sums over all partitions."""
    return IndexSizes(
        vectors=sum(state.rows for state in cover for size in state.compressed.values() if size),
        graphs=sum(state.parts for state in cover for size in state.compressed.values() if size),
        bytes_on_disk=sum(sum(state.compressed.values()) for state in cover),
        bytes_in_memory=sum(sum(state.uncompressed.values()) for state in cover),
    )
