"""Generations of centroids: trained on a sample of all loaded shards, kept in a table. It assigns no rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from laion_assets.dataset import ID_STRIDE
from laion_assets.errors import TableError
from laion_assets.index.cells.centroids import ROWS_A_CENTROID, Centroids, clusters_for, train, unit
from laion_assets.index.cells.events import Generation, Record, read_record, record
from laion_assets.index.cells.schema import centroids_table, code_dimension
from laion_assets.progress import Progress
from laion_assets.table.database import Database
from laion_assets.table.parts import PartitionContent
from laion_assets.table.vectors import BLOCK_ROWS, By, read_vectors
from laion_assets.varint import varint

SEED = 0
"""The seed of the sample and of the first centroids."""

RUN_ROWS = 64
"""Rows that are drawn together: to read a single row the engine reads the whole granule of 512 rows."""

KEPT_AT_A_TIME = 8_192
"""Centroids in one INSERT: 17 MB of 512 dimensions."""

MOST_TRAINING_BYTES = 4 << 30
"""Most bytes of the sample, as float16: 4.2 million rows of 512 dimensions, or 52 for each of 81,000 centroids."""

GROWTH_OF_CLUSTERS = 2.0
"""A generation is replaced when its table would now need this many times its clusters, which is four times the rows."""


def wants_new_generation(newest: Generation | None, rows: int) -> bool:
    """Whether a table of `rows` rows needs more centroids than the newest generation has."""
    return newest is None or clusters_for(rows) >= GROWTH_OF_CLUSTERS * newest.clusters


def train_generation(
    db: Database, by: By, found: dict[int, PartitionContent], history: Record, progress: Progress | None = None
) -> Generation:
    """Trains centroids on rows of all loaded shards and keeps them as the next generation.

    The same rows give the same centroids. So a training that a killed process left unfinished is simply done again: its
    generation counts only when the record says that it is complete. Raises `TableError`.
    """
    rows = sum(source.rows for source in found.values())
    clusters = clusters_for(rows)
    table = db.name_of(centroids_table(db))
    sample = draw_sample(db, by, found, ROWS_A_CENTROID * clusters if clusters > 1 else BLOCK_ROWS)
    clusters = min(clusters, len(sample))
    if not clusters:
        raise TableError(db.subject, found=f"no {by} vectors to train on", expected="loaded rows")
    if progress is not None:
        progress.begin(f"train {clusters:,} {by} centroids", None, "rows")
    centroids = train(sample, clusters, seed=SEED, trained=None if progress is None else progress.advance)
    _, similar = centroids.nearest(sample)
    (last,) = db.one(
        f"SELECT max(generation) FROM {table} WHERE vectors = {{vectors:String}}", parameters={"vectors": by}
    )
    number = 1 + max(int(last), history.last_number)
    _keep(db, by, number, centroids)
    record(
        db,
        by,
        "trained",
        number,
        clusters=clusters,
        distance=float(1 - similar.mean(dtype=np.float64)),
        source=PartitionContent(0, len(sample), 0),
    )
    trained = read_record(db, by).newest
    assert trained is not None
    return trained


def draw_sample(db: Database, by: By, found: dict[int, PartitionContent], wanted: int) -> npt.NDArray[np.float16]:
    """About `wanted` vectors, float16 (n, d), in runs of 64 rows from every loaded shard, chosen at random by the seed.

    Elements of vectors of length 1 lose at most 0.0005 of their value; LAION's vectors are float16 already.
    """
    total = sum(source.rows for source in found.values())
    dimension = db.settings.dataset.dimension
    wanted = min(wanted, MOST_TRAINING_BYTES // (2 * dimension))
    share = min(1.0, wanted / max(total, 1))
    drawn = f"cityHash64(intDiv(id, {RUN_ROWS}), {SEED}) % 1000000 < {round(share * 1e6)}"
    span = round(BLOCK_ROWS / share)
    blocks = []
    for shard in sorted(found):
        low, high = db.one(f"SELECT min(id), max(id) FROM {db.table} WHERE shard = {shard}")
        for start in range(min(shard * ID_STRIDE, int(low)), int(high) + 1, span):
            ids = f"shard = {shard} AND id >= {start} AND id < {start + span}"
            blocks.append(unit(read_vectors(db, f"{by}_embedding", f"{ids} AND {drawn}").vectors).astype(np.float16))
    return np.concatenate(blocks)[: max(wanted, 1)] if blocks else np.empty((0, dimension), np.float16)


def drop_centroids(db: Database, by: By, generation: int) -> None:
    """Deletes the centroids of a generation that no search uses any more."""
    table = db.name_of(centroids_table(db))
    db.command(
        f"ALTER TABLE {table} DELETE WHERE vectors = '{by}' AND generation = {int(generation)}",
        settings={"mutations_sync": 2},
    )


def read_centroids(db: Database, by: By, generation: int) -> Centroids:
    """The centroids of a generation, by number. Raises `TableError` if they are not those that were trained."""
    record_type = _record_type(db, by)
    answer = db.raw(
        f"SELECT toString(vectors), generation, cluster, centroid FROM {db.name_of(centroids_table(db))} "
        f"WHERE vectors = '{by}' AND generation = {generation} AND length(centroid) = {code_dimension(db)} "
        "ORDER BY cluster",
        "RowBinary",
    )
    records = np.frombuffer(answer, record_type)
    if not len(records) or not np.array_equal(records["cluster"], np.arange(len(records))):
        raise TableError(
            db.subject,
            found=f"{len(records):,} {by} centroids of generation {generation}, some missing or twice",
            expected="each once",
            advice="materialize vector_cells again, which trains a new generation if centroids are missing",
        )
    return Centroids.of(np.ascontiguousarray(records["centroid"][:, : db.settings.dataset.dimension]))


def _keep(db: Database, by: By, number: int, centroids: Centroids) -> None:
    """Writes RowBinary: as text, writing vectors would be the most expensive part of a small training."""
    records = np.zeros(len(centroids), _record_type(db, by))
    records["vectors"] = bytes([len(by)]) + by.encode()
    records["generation"] = number
    records["cluster"] = np.arange(len(centroids))
    records["length"] = varint(code_dimension(db))
    records["centroid"][:, : centroids.vectors.shape[1]] = centroids.vectors
    columns = ["vectors", "generation", "cluster", "centroid"]
    for start in range(0, len(records), KEPT_AT_A_TIME):
        block = records[start : start + KEPT_AT_A_TIME].tobytes()
        with db.limited() as settings:
            db.client.raw_insert(db.name_of(centroids_table(db)), columns, block, settings=settings, fmt="RowBinary")


def _record_type(db: Database, by: By) -> np.dtype[np.void]:
    """A row of the table of centroids in RowBinary; before a text or array is its length, as a varint."""
    length = len(varint(code_dimension(db)))
    return np.dtype(
        [
            *[("vectors", f"S{len(by) + 1}"), ("generation", "<u4"), ("cluster", "<u4"), ("length", f"S{length}")],
            ("centroid", "<f4", (code_dimension(db),)),
        ]
    )
