"""Whether a partition is sound, equals its merged file, and has rows that belong together. It changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow.parquet as pq

from laion_assets.dataset import ID_STRIDE
from laion_assets.errors import PartitionCheckError
from laion_assets.shard.alignment import Strangers, alignment_fault
from laion_assets.shard.merged import MergedShard, reading, remedy
from laion_assets.shard.soundness import SQUARED_LENGTH_RANGE, SQUARED_LENGTH_TOLERANCE
from laion_assets.shard.vector_sum import vector_sum_sql
from laion_assets.table.database import Database
from laion_assets.table.fingerprint import fingerprint_sql, vector_sums
from laion_assets.table.vectors import read_vectors

STRANGERS_RUNS, STRANGERS_RUN_ROWS = 16, 256
"""Runs of rows, at places all over a partition, that are compared with strangers: 2,048 comparisons, 34 MB of 512
dimensions. A shard may be sorted by class, so one run may have only one caption."""


@dataclass(frozen=True)
class PartitionFigures:
    """Figures of a partition: rows, their fingerprint, rows with unsound vectors, rows whose id another row has, too,
    and the sum over the vectors' bits by column (no sums if a vector has another length)."""

    rows: int
    fingerprint: int
    wrong_length: int
    unsound: int
    first_id: int
    last_id: int
    doubled: int
    vector_sums: dict[str, int] = field(default_factory=dict)


def partition_figures(db: Database, source: str, condition: str = "1") -> PartitionFigures:
    """Figures of the rows of `source` (a quoted table) that meet `condition`."""
    dataset = db.settings.dataset
    vectors = dataset.vector_columns
    wrong = " OR ".join(f"length({name}) != {dataset.dimension}" for name in vectors)
    # This reads no element. A product of vectors of two lengths is an engine error, which would hide what is wrong.
    (mismatched,) = db.one(f"SELECT countIf({wrong}) FROM {source} WHERE {condition}")
    summed = () if mismatched else vectors
    sums = "".join(f", {vector_sum_sql(name, dataset.dimension)}" for name in summed)
    faulty = " OR ".join(f"NOT ({_sound(name, dataset.normalised)})" for name in vectors)
    row = db.one(
        f"SELECT count(), {fingerprint_sql(db.settings)}, {int(mismatched)}, countIf({faulty}), min(id), max(id), "
        f"count() - uniqExact(id){sums} FROM {source} WHERE {condition}"
    )
    rows, fingerprint, wrong_length, unsound, first_id, last_id, doubled, *totals = map(int, row)
    return PartitionFigures(
        rows, fingerprint, wrong_length, unsound, first_id, last_id, doubled, dict(zip(summed, totals, strict=True))
    )


def check_equal_to_file(
    db: Database, source: str, merged: MergedShard, in_file: tuple[int, int], sums_in_file: dict[str, int]
) -> PartitionFigures:
    """Compares the rows of `source` (a quoted table) with those of the merged file.

    `in_file` are the file's rows and fingerprint, `sums_in_file` the sum over the bits of each vector column.

    Raises `PartitionCheckError`.
    """
    figures = partition_figures(db, source)
    rows, fingerprint = in_file
    stride = f"ids {figures.first_id} to {figures.last_id}"
    faults = []
    if figures.rows != rows or rows != merged.rows:
        faults.append(f"{figures.rows:,} rows staged, {rows:,} in the file, {merged.rows:,} by its footer")
    if figures.fingerprint != fingerprint:
        faults.append("ids, urls, captions or scores that differ from the file's")
    if figures.vector_sums and figures.vector_sums != sums_in_file:
        differ = [name for name, total in figures.vector_sums.items() if sums_in_file.get(name) != total]
        faults.append(f"vectors that differ from the file's in {' and '.join(differ)}")
    if figures.wrong_length:
        faults.append(f"{figures.wrong_length:,} vectors that have not {db.settings.dataset.dimension} elements")
    if figures.unsound:
        faults.append(f"{figures.unsound:,} rows with a vector that is not finite, zero or of another length")
    if figures.first_id // ID_STRIDE != merged.shard or figures.last_id // ID_STRIDE != merged.shard:
        faults.append(f"{stride} that are of another shard")
    if figures.doubled:
        faults.append(f"{figures.doubled:,} rows whose id another row has")
    misaligned = None if figures.wrong_length else _misalignment(db, source, figures)
    if misaligned:
        faults.append(f"rows that do not belong together: {misaligned}")
    if faults:
        raise PartitionCheckError(
            merged.subject,
            found="; ".join(faults),
            expected="a sound partition equal to the file",
            advice=f"the table is unchanged: {remedy(merged.shard)}",
        )
    return figures


def _misalignment(db: Database, source: str, figures: PartitionFigures) -> str | None:
    """Why image, text and metadata of a row do not seem to be one sample, by the rule of shard/alignment.py."""
    dataset = db.settings.dataset
    if not dataset.has_text or dataset.alignment == "off":
        return None
    scored = "abs(similarity) <= 1"
    rows, mean, deviation, varied, correlation = db.one(
        f"SELECT count(), avg(dot), stddevPop(dot), "
        f"countIf({scored}) >= 200 AND stddevPopIf(similarity, {scored}) > 1e-4 AND stddevPopIf(dot, {scored}) > 1e-6, "
        f"corrIf(similarity, dot, {scored}) "
        f"FROM (SELECT similarity, dotProduct(image_embedding, text_embedding) AS dot FROM {source})"
    )
    strangers = _strangers(db, source, figures)
    return alignment_fault(int(rows), mean, deviation, strangers, float(correlation) if varied else None)


def _strangers(db: Database, source: str, figures: PartitionFigures) -> Strangers:
    """Rows in an order by hash; each second row is compared with the one before it, if their captions differ."""
    blocks = (figures.last_id - figures.first_id) // STRANGERS_RUN_ROWS + 1
    sampled = f"intDiv(id - {figures.first_id}, {STRANGERS_RUN_ROWS}) % {-(-blocks // STRANGERS_RUNS)} = 0"
    compared, mean, margin, deviation = db.one(
        "SELECT count(), avg(exchanged), avg(own - exchanged), stddevPop(own - exchanged) FROM (SELECT "
        "(dotProduct(image_embedding, text_embedding) + dotProduct(image, text)) / 2 AS own, "
        "(dotProduct(image_embedding, text) + dotProduct(image, text_embedding)) / 2 AS exchanged "
        "FROM (SELECT caption, image_embedding, text_embedding, row_number() OVER rows AS number, "
        "lagInFrame(caption) OVER rows AS said, lagInFrame(image_embedding, 1, image_embedding) OVER rows AS image, "
        f"lagInFrame(text_embedding, 1, text_embedding) OVER rows AS text FROM {source} WHERE {sampled} "
        "WINDOW rows AS (ORDER BY cityHash64(id), id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)) "
        "WHERE number % 2 = 0 AND (caption != said OR caption = '') AND text_embedding != text)"
    )
    return Strangers(int(compared), float(mean), float(margin), float(deviation))


def _sound(column: str, normalised: bool) -> str:
    squared = f"dotProduct({column}, {column})"
    if normalised:
        return f"abs({squared} - 1) < {SQUARED_LENGTH_TOLERANCE}"
    low, high = SQUARED_LENGTH_RANGE
    return f"{squared} > {low!r} AND {squared} < {high!r}"


def vectors_agree(
    db: Database,
    merged: MergedShard,
    figures: PartitionFigures | None = None,
    slices: int = 4,
    slice_rows: int = 8_192,
) -> int | None:
    """Compares all vectors of a partition with the file's; returns the rows compared, or None if vectors differ.

    The sums cover every element of every row; the file's sum is in its footer. A footer says only what was written. So
    the rows of `slices` runs of ids, at places all over the partition, are read from the file again and compared bit
    for bit. Row groups outside the runs are skipped by their statistics. One run of one column is in memory at a time,
    33 MB of 512 dimensions, on each side. `figures` are those of the partition if they are known.
    """
    figures = figures or partition_figures(db, db.table, f"shard = {merged.shard}")
    if figures.rows != merged.rows or figures.vector_sums != vector_sums(db.settings, merged):
        return None
    return figures.rows if _slices_agree(db, merged, slices, slice_rows) else None


def _slices_agree(db: Database, merged: MergedShard, slices: int, slice_rows: int) -> bool:
    first = merged.shard * ID_STRIDE
    span = merged.rows + merged.quarantined
    starts = [first + max(0, span - slice_rows) * place // max(slices - 1, 1) for place in range(slices)]
    for column in db.settings.dataset.vector_columns:
        following = first
        for start in starts:
            last = start + slice_rows - 1
            start = max(start, following)  # noqa: PLW2901 - runs of a small partition overlap
            following = last + 1
            wanted = [("id", ">=", start), ("id", "<=", last)]
            with reading(merged) as source:
                in_file = pq.read_table(source, columns=["id", column], filters=wanted).combine_chunks()
            in_table = read_vectors(db, column, f"shard = {merged.shard} AND id BETWEEN {start} AND {last}")
            values = in_file[column].combine_chunks().flatten().to_numpy()
            same_ids = in_file["id"].to_pylist() == in_table.ids.tolist()
            if not same_ids or values.tobytes() != in_table.vectors.tobytes():
                return False
    return True
