"""Tests of searches by cells: they find what an exact search finds, obey conditions and lose no row between shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from laion_assets.dataset import ID_STRIDE
from laion_assets.errors import SearchError, TableError
from laion_assets.index.cells import centroids
from laion_assets.index.cells.build import build_cells
from laion_assets.searching.cells import require_cells, search_cells
from laion_assets.searching.cells_settings import CellsSettings, default_probes
from laion_assets.searching.cells_use import cells_use
from laion_assets.searching.statement import SearchRequest, SearchResult, search
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.vectors import By, draw_rows, vectors_of
from laion_assets_tests.conftest import Transport
from laion_assets_tests.table.loaded import load_sample, sample_settings

ROWS = {0: 3000, 1: 1500}
CODES = CellsSettings(probes=0)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, transport: Transport) -> Iterator[Settings]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(centroids, "ROWS_A_CENTROID_LEAST", 5)
        settings = sample_settings(tmp_path_factory.mktemp("cells"), **transport.fresh())
        load_sample(settings, ROWS)
        with connect(settings) as db:
            build_cells(db)
        yield settings


@pytest.fixture
def db(settings: Settings) -> Iterator[Database]:
    with connect(settings) as opened:
        yield opened


def recall(found: SearchResult, exact: SearchResult) -> float:
    """Returns the share of answers that are as near as the exact ones; ties count as found."""
    farthest = exact.neighbours[-1].distance + 2e-6
    return float(np.mean([neighbour.distance <= farthest for neighbour in found.neighbours]))


@pytest.mark.parametrize("query", ["image", "text"])
@pytest.mark.parametrize("by", ["image", "text"])
def test_codes_find_what_an_exact_search_finds(db: Database, query: By, by: By) -> None:
    vectors = vectors_of(db, query, draw_rows(db, 10, seed=3)).vectors
    request = SearchRequest(by=by)
    exact = SearchRequest(by=by, exact=True)
    recalls = [recall(search_cells(db, one, request, CODES), search(db, one, exact)) for one in vectors]
    assert np.mean(recalls) >= 0.98


def test_a_quarter_of_the_clusters_finds_most_and_all_find_the_rest(db: Database) -> None:
    vectors = vectors_of(db, "text", draw_rows(db, 20, seed=4)).vectors
    clusters = require_cells(db, "image").clusters
    request, exact = SearchRequest(), SearchRequest(exact=True)
    means = []
    for probes in (1, clusters // 4, clusters):
        settings = CellsSettings(probes)
        recalls = [recall(search_cells(db, one, request, settings), search(db, one, exact)) for one in vectors]
        means.append(np.mean(recalls))
    assert means[0] < means[1] <= means[2]
    assert means[1] >= 0.8
    assert means[2] >= 0.98


def test_distances_and_rows_are_the_tables_own(db: Database) -> None:
    vector = vectors_of(db, "image", draw_rows(db, 1, seed=5)).vectors[0]
    found = search_cells(db, vector, SearchRequest(limit=5), CODES).neighbours
    exact = search(db, vector, SearchRequest(limit=5, exact=True)).neighbours
    assert found == exact


def test_a_condition_loses_nothing_however_rare_it_is(db: Database) -> None:
    vector = vectors_of(db, "text", draw_rows(db, 1, seed=6)).vectors[0]
    probes = CellsSettings(require_cells(db, "image").clusters // 3)
    for where in ("caption ILIKE '%dragon%'", "similarity > 0.3", "id % 500 = 7", "shard = 1 -- only\n"):
        exact = search(db, vector, SearchRequest(where=where, exact=True))
        found = search_cells(db, vector, SearchRequest(where=where), probes)
        assert len(found.neighbours) == len(exact.neighbours)
        assert recall(found, exact) >= 0.9, where


def test_a_condition_on_vectors_is_decided_by_the_table(db: Database) -> None:
    vector = vectors_of(db, "text", draw_rows(db, 1, seed=6)).vectors[0]
    where = "image_embedding[1] > 0"
    exact = search(db, vector, SearchRequest(where=where, exact=True))
    assert search_cells(db, vector, SearchRequest(where=where)).neighbours == exact.neighbours


@pytest.mark.parametrize("probed", [1, 3])
def test_a_condition_on_the_distance_is_decided_by_the_table(db: Database, probed: int) -> None:
    vector = vectors_of(db, "text", draw_rows(db, 1, seed=6)).vectors[0]
    nearest = search(db, vector, SearchRequest(limit=30, exact=True)).neighbours
    for one in nearest[5:]:
        where = f"distance < {one.distance + 1e-6!r} AND similarity > 0"
        exact = search(db, vector, SearchRequest(where=where, limit=50, exact=True)).neighbours
        found = search_cells(db, vector, SearchRequest(where=where, limit=50), CellsSettings(probed))
        assert found.neighbours == exact


def test_a_condition_may_name_tens_of_thousands_of_rows(db: Database) -> None:
    vector = vectors_of(db, "text", draw_rows(db, 1, seed=6)).vectors[0]
    where = f"id IN ({', '.join(map(str, range(ID_STRIDE, ID_STRIDE + 40_000)))})"
    exact = search(db, vector, SearchRequest(where=where, exact=True)).neighbours
    for settings in (CODES, CellsSettings(1)):
        found = search_cells(db, vector, SearchRequest(where=where), settings)
        assert len(found.neighbours) == len(exact)
        assert {one.shard for one in found.neighbours} == {1}


def test_more_than_a_thousand_neighbours_are_found_by_codes(db: Database) -> None:
    vector = vectors_of(db, "image", draw_rows(db, 1, seed=8)).vectors[0]
    assert cells_use(db, vector, SearchRequest(limit=1500), CellsSettings(0, 2)).by_codes
    assert len(search_cells(db, vector, SearchRequest(limit=1500), CellsSettings(0, 2)).neighbours) == 1500


def test_shards_are_pruned(db: Database) -> None:
    vector = vectors_of(db, "image", draw_rows(db, 1, seed=7)).vectors[0]
    found = search_cells(db, vector, SearchRequest(shards=(1,)), CODES)
    exact = search(db, vector, SearchRequest(shards=(1,), exact=True))
    assert [one.id for one in found.neighbours] == [one.id for one in exact.neighbours]
    assert search_cells(db, vector, SearchRequest(shards=())).neighbours == []


def test_a_few_shards_are_searched_in_a_larger_share_of_the_clusters_as_few_rows_are(db: Database) -> None:
    vectors = vectors_of(db, "text", draw_rows(db, 10, seed=7)).vectors
    for one in vectors:
        every_shard = search_cells(db, one, SearchRequest(), CellsSettings(6)).clusters
        by_shard = search_cells(db, one, SearchRequest(shards=(1,)), CellsSettings(6)).clusters
        by_condition = search_cells(db, one, SearchRequest(where="shard = 1"), CellsSettings(6)).clusters
        assert every_shard is not None
        assert by_shard is not None
        assert every_shard[0] == 6 < by_shard[0]
        assert by_shard == by_condition


def test_bad_questions_are_refused(db: Database) -> None:
    with pytest.raises(SearchError, match="query vector"):
        search_cells(db, np.zeros(512), SearchRequest())
    with pytest.raises(SearchError, match="where"):
        search_cells(db, np.ones(512), SearchRequest(where="1) OR (1"))


def test_the_plan_and_the_counters_prove_that_codes_were_read(db: Database) -> None:
    vector = vectors_of(db, "image", draw_rows(db, 1, seed=8)).vectors[0]
    clusters = require_cells(db, "image").clusters
    use = cells_use(db, vector, SearchRequest(), CellsSettings(clusters // 10, candidates=5))
    assert use.by_codes
    assert use.fault is None
    assert use.rows_read < use.cells_rows


def test_a_scan_of_whole_vectors_is_no_proof(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    vector = vectors_of(db, "image", draw_rows(db, 1, seed=8)).vectors[0]
    plain = CellsSettings.engine_settings

    def without_codes(self: CellsSettings, limit: int, rows: int) -> dict[str, object]:
        return plain(self, limit, rows) | {"vector_search_use_quantized_codes": 0}

    monkeypatch.setattr(CellsSettings, "engine_settings", without_codes)
    assert "no shortlist" in str(cells_use(db, vector, SearchRequest(), CODES).fault)


def test_a_shard_that_is_not_in_the_cells_yet_is_scanned(tmp_path: Path) -> None:
    settings = sample_settings(tmp_path)
    load_sample(settings, {0: 800})
    with connect(settings) as db:
        with pytest.raises(TableError, match="materialize vector_cells"):
            search_cells(db, np.ones(512), SearchRequest())
        build_cells(db)
    load_sample(settings, {1: 500})
    with connect(settings) as db:
        vector = vectors_of(db, "text", draw_rows(db, 1, seed=9)).vectors[0]
        exact = search(db, vector, SearchRequest(limit=50, exact=True))
        found = search_cells(db, vector, SearchRequest(limit=50), CellsSettings(0, 1000))
        assert found.neighbours == exact.neighbours
        assert {one.shard for one in found.neighbours} == {0, 1}


@pytest.mark.parametrize("dimension", [50, 384])
def test_vectors_of_any_dimension_and_length_have_cells(tmp_path: Path, dimension: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from benchmarks.search_data import ONE_COLUMN
    from laion_assets.settings import load_settings
    from laion_assets.shard.merge import merge_shard
    from laion_assets.shard.store import ShardStore
    from laion_assets.table.load import load_partition

    vectors = np.random.default_rng(0).standard_normal((1000, dimension), dtype=np.float32) * 3
    description = tmp_path / "plain.toml"
    text = ONE_COLUMN.format(name="plain", dimension=dimension, dtype="<f4")
    description.write_text(text.replace("normalised = true", "normalised = false"))
    settings = load_settings(dataset_name=str(description), data_dir=tmp_path)
    store = ShardStore(settings.data_dir, settings.dataset)
    store.raw_folder.mkdir(parents=True, exist_ok=True)
    files = store.raw_files(0).paths()
    np.save(files["image"], vectors)
    numbers = [str(row) for row in range(1000)]
    pq.write_table(pa.table({"url": numbers, "caption": numbers}), files["metadata"])
    merged = merge_shard(store, 0, max_bad_fraction=0.01)
    with connect(settings) as db:
        load_partition(db, merged)
        build_cells(db)
        query = vectors[7] + 0.1
        exact = search(db, query, SearchRequest(exact=True))
        assert recall(search_cells(db, query, SearchRequest()), exact) == 1


def test_a_larger_table_probes_a_smaller_share() -> None:
    assert default_probes(1, 20_000) == 0
    assert default_probes(4000, 1_000_000) == 800
    shares = [default_probes(round(4 * rows**0.5), rows) / (4 * rows**0.5) for rows in (10**5, 10**6, 10**7, 4 * 10**8)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 0.04
