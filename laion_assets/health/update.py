"""What must be made again so that everything is up to date: shards, index and recall, in order. It makes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from laion_assets.errors import ShardFileError
from laion_assets.health.builds import Builds
from laion_assets.health.deleted import left_as_it_is, only_if_asked, rows_by_shard, rows_of, why_left
from laion_assets.health.facts import IndexRecord, LoadFacts
from laion_assets.health.finding import TableLook, naming
from laion_assets.health.history import ShardHistory
from laion_assets.health.keys import CHAIN
from laion_assets.health.upkeep import recall_is_void
from laion_assets.health.versions import RecordedVersions, code_version
from laion_assets.settings import Settings
from laion_assets.shard.loadable import require_loadable
from laion_assets.shard.merged import MergedShard, read_merged
from laion_assets.shard.places import file_exists
from laion_assets.shard.store import ShardStore
from laion_assets.shard_numbers import as_ranges
from laion_assets.words import counted


@dataclass(frozen=True)
class Update:
    """The assets of the chain that each shard needs, by shard, and whether index, cells and recall are out of date.

    `left` says of each shard that is not loaded again although it differs from what was loaded, why.
    """

    shards: dict[int, tuple[str, ...]]
    index: bool
    recall: bool
    cells: bool = False
    left: tuple[str, ...] = ()

    @property
    def nothing(self) -> bool:
        """Whether all is up to date."""
        return not self.shards and not self.index and not self.cells and not self.recall

    def __str__(self) -> str:
        said = [f"{counted(len(self.shards), 'shard')} ({as_ranges(self.shards)})"] if self.shards else []
        built = (("the index", self.index), ("the cells", self.cells), ("its recall", self.recall))
        said += [name for name, wanted in built if wanted]
        made = ", ".join(said) or ("nothing" if self.left else "nothing: all is up to date")
        return f"{made}. Left as it is: {naming([*self.left])}" if self.left else made


def what_to_update(
    settings: Settings,
    histories: list[ShardHistory],
    facts: LoadFacts,
    shards: set[int] | None = None,
    table: TableLook | None = None,
) -> Update:
    """What is stale or missing of `shards` (None: those that were begun or asked for), and of what is made from them.

    Assets of queued or running runs are left out. A missing shard whose run was canceled before its first step is
    not asked for any more. If the `table` was read, what it has lost is missing. A partition from which rows were
    deleted is left as it is. So are loaded shards while another process holds the table, since rows of them may have
    been deleted. Raises `StoreError` if a bucket cannot be listed.
    """
    wanted = [
        history
        for history in histories
        if not history.active
        and (history.shard in shards if shards is not None else _was_begun(history) or history.key in facts.asked_for)
    ]
    needed, left = _shards_to_make(settings, wanted, table)
    loaded = {history.shard for history in histories if history.progress == "loaded"}
    found = facts.builds or Builds()
    index, cells = (
        asked and (bool(needed or lacking) or _is_behind(settings, loaded, record, asset))
        for asked, record, asset, lacking in (
            # A partition may lack one of two graphs if the table is no longer the one that was measured.
            (settings.builds_graphs, facts.index, "vector_index", found.changed or loaded & found.without_graphs),
            (settings.builds_cells, facts.cells, "vector_cells", loaded & found.without_cells),
        )
    )
    # Measuring figures below the target again would give the same figures, so only invalid ones are measured again.
    built = settings.builds_graphs or settings.builds_cells
    recall = index or cells or (built and bool(recall_is_void(facts)))
    if not loaded and not needed:
        return Update({}, index=False, recall=False, left=tuple(left))
    return Update(
        needed,
        index=index and "vector_index" not in facts.under_way,
        recall=recall and "recall_report" not in facts.under_way,
        cells=cells and "vector_cells" not in facts.under_way,
        left=tuple(left),
    )


def _was_begun(history: ShardHistory) -> bool:
    return history.progress != "missing" or (bool(history.last_run) and history.run_began)


def _shards_to_make(
    settings: Settings, wanted: list[ShardHistory], table: TableLook | None
) -> tuple[dict[int, tuple[str, ...]], list[str]]:
    """The steps that each of the wanted shards needs, and why others that differ are left as they are."""
    needed: dict[int, tuple[str, ...]] = {}
    left: list[str] = []
    rows = rows_by_shard(table)
    for history in wanted:
        in_table = rows_of(history.shard, rows)
        steps = chain_steps(settings, history, in_table)
        why = why_left(history, table) if steps else left_as_it_is(history, in_table)
        if why:
            left.append(why)
        elif steps:
            needed[history.shard] = steps
    return needed, left


def chain_steps(settings: Settings, history: ShardHistory, rows_in_table: int | None = None) -> tuple[str, ...]:
    """The assets that a shard needs, in order: from the first stale or missing asset on. Empty if all is there.

    If the files that this asset needs are gone, the asset that makes the files comes before it. A merged file that the
    load would refuse is made again from its source, since somebody may have corrected the source. After a failed run
    the raw files are compared with their source for the same reason. A merged file is also made again if the last load
    found it damaged, or if it is not the file of the merge that was recorded last.

    `rows_in_table` are those of the shard's partition, if they are known: if Dagster recorded another number, or if the
    last check found other rows than the file's, the partition is loaded again. A partition whose rows were deleted or
    accepted needs nothing (`only_if_asked`). Raises `StoreError` if a bucket does not answer.
    """
    if only_if_asked(history, rows_in_table):
        return ()
    made = {"missing": 0, "fetched": 1, "merged": 2, "loaded": 3}[history.progress]
    differs = rows_in_table is not None and (made < len(CHAIN) or rows_in_table != history.rows)
    # A check fails of a partition with deleted rows, too. It is not loaded again unless its rows are known.
    doubtful = history.ended_early or (history.audit_failed and rows_in_table is not None) or differs
    if made == len(CHAIN) and doubtful:
        made = 2  # a run that ended after the load did not check what it loaded
    stale = [CHAIN.index(name) for name in history.stale]
    first = min([made, *stale])
    if first == 2:
        # Reading each file of many shards in a bucket takes long. What was loaded once needs no such look.
        first = 1 if history.file_refused else _first_by_merged(settings, history, look=doubtful)
    if first == 1 and (history.ended_early or ShardStore.of(settings).raw_files(history.shard).missing()):
        first = 0
    return CHAIN[first:]


def _first_by_merged(settings: Settings, history: ShardHistory, *, look: bool) -> int:
    """The first asset of the chain that is needed to load a shard: 2 if its merged file can be loaded, 1 if there is
    none or that of another merge, 0 if the load would refuse it. Without a `look` into the file, every file counts as
    one that can be loaded."""
    store = ShardStore.of(settings)
    path = store.merged_path(history.shard)
    if not file_exists(path):
        return 1
    if not look:
        return 2
    try:
        merged = read_merged(path, dataset=store.dataset, shard=history.shard)
        if not _is_recorded(merged, history):
            return 1
        require_loadable(
            merged,
            store.dataset,
            max_bad_fraction=settings.max_bad_fraction,
            extra_columns=settings.extra_column_types,
        )
    except ShardFileError:
        return 0
    return 2


def _is_recorded(merged: MergedShard, history: ShardHistory) -> bool:
    """Whether a merged file is that of the merge that was recorded last.

    A file of a release that wrote no digest of its rows is known by its size here: the load compares its SHA-256.
    """
    recorded = history.versions.get("merged_shard", RecordedVersions()).data
    if not recorded:
        return True
    return merged.contents == recorded if merged.contents else merged.file_bytes == history.merged_bytes


def _is_behind(settings: Settings, loaded: set[int], index: IndexRecord | None, asset: str) -> bool:
    """Whether a loaded partition lacks the index, or cells, that the settings ask for, also between milestones."""
    if index is None or (index.code and index.code != code_version(settings, asset)):
        return bool(loaded)
    return bool(loaded - (index.covered - index.loaded_again))
