"""Reads some row groups of a merged file again, so that a check uses the file and not the writer's own statement."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from laion_assets.dataset import Dataset
from laion_assets.errors import ShardFileError
from laion_assets.shard.merged import MergedShard, remedy
from laion_assets.shard.places import readable
from laion_assets.shard.soundness import vector_faults

ROW_GROUPS = 4
"""First, last and two between: 32,768 of LAION's million rows, a tenth of a second."""


@dataclass
class SampledRows:
    """The rows that were read: `ids` (n,) and vectors float32 (n, d) by column, and what is wrong with them."""

    ids: npt.NDArray[np.int64]
    vectors: dict[str, npt.NDArray[np.float32]]
    vector_faults: list[str] = field(default_factory=list)
    empty_fractions: dict[str, float] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many rows were read."""
        return len(self.ids)


def sample_rows(merged: MergedShard, dataset: Dataset, row_groups: int = ROW_GROUPS) -> SampledRows:
    """Rows of up to `row_groups` row groups spread over the file. Raises `ShardFileError` when they cannot be read."""
    table = _read(merged, ["id", "url", "caption", *dataset.vector_columns], row_groups)
    sampled = SampledRows(table["id"].to_numpy(), {}, empty_fractions=_empty_fractions(table))
    for name in dataset.vector_columns:
        _add_vectors(sampled, name, table[name], dataset)
    return sampled


def empty_fractions(merged: MergedShard, row_groups: int = ROW_GROUPS) -> dict[str, float]:
    """The fraction of rows without url and without caption in `row_groups` row groups; empty for a file without rows.

    Raises `ShardFileError` when they cannot be read.
    """
    return _empty_fractions(_read(merged, ["url", "caption"], row_groups))


def _read(merged: MergedShard, columns: list[str], row_groups: int) -> pa.Table:
    try:
        with readable(merged.path, subject=merged.subject) as source, pq.ParquetFile(source) as file:
            count = file.metadata.num_row_groups
            chosen = sorted({round(place) for place in np.linspace(0, count - 1, min(row_groups, count))})
            if not chosen:
                return file.schema_arrow.empty_table().select(columns)
            return file.read_row_groups(chosen, columns=columns)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise ShardFileError(
            merged.subject,
            found=(str(error).splitlines() or [type(error).__name__])[0][:200],
            expected=f"a sound Parquet file with {', '.join(columns)}",
            advice=remedy(merged.shard),
        ) from error


def _empty_fractions(table: pa.Table) -> dict[str, float]:
    if not table.num_rows:
        return {}
    empty = {name: pc.sum(pc.equal(pc.binary_length(table[name]), 0)).as_py() for name in ("url", "caption")}
    return {name: count / table.num_rows for name, count in empty.items()}


def _add_vectors(sampled: SampledRows, name: str, column: pa.ChunkedArray, dataset: Dataset) -> None:
    lengths = pc.list_value_length(column)
    wrong = pc.sum(pc.not_equal(lengths, dataset.dimension)).as_py() or 0
    if wrong or column.null_count:
        sampled.vector_faults.append(f"{wrong + column.null_count:,} rows whose {name} has another dimension")
        return
    values = pc.list_flatten(column).to_numpy().reshape(-1, dataset.dimension)
    sampled.vectors[name] = values
    faults = vector_faults(values, normalised=dataset.normalised)
    if faults is not None:
        first = int(np.flatnonzero(faults != "")[0])
        sampled.vector_faults.append(f"{name} of id {sampled.ids[first]} is {faults[first]}")
