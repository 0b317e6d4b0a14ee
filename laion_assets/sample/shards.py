"""Writes sample shards in LAION-400M's layout, with its awkward captions. `world` decides what vectors mean.

Every block of rows uses its own random generator, identified by seed, shard and block. So the same call gives the same
bytes whatever the number of threads. Memory grows with a shard's rows only for its metadata (0.4 kB each, one row
group).
"""

from __future__ import annotations

import json
import os
import secrets
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.random import SFC64, Generator, SeedSequence
from numpy.typing import NDArray

from laion_assets.sample.world import Floats, Integers, SampleWorld, join_texts, normalise, sample_world

BLOCK_ROWS = 4_096
"""Rows a block. Making a block takes about 60 MB."""

POPULAR_SHARE, NEAR_SHARE = 0.01, 0.015
"""Fractions of rows that repeat a popular image, or nearly an earlier row; LAION has one vector 902 times."""

TAR_PLACES, LOST_EVERY, TARS_A_SHARD = 10_000, 55, 102
"""img2dataset's tars have 10,000 places. One image in 55 could not be fetched, so a tar of LAION has 9,820 images."""


def _pieces(text: str) -> list[str]:
    """Splits a string of short texts at a separator that none of them contains."""
    return text.split("¦")


_COLUMN_TYPES = _pieces(
    "image_path string¦caption string¦NSFW string¦similarity double¦LICENSE string¦url string¦key string¦shard_id int64"
    "¦status string¦error_message null¦width int64¦height int64¦exif string¦original_width int64¦original_height int64"
)
COLUMNS = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in map(str.split, _COLUMN_TYPES)])
"""LAION-400M's metadata: order, names and types. All may be null."""

PREFIXES = [""] * 60 + _pieces(
    "New ¦The ¦Set of 4 ¦Men's ¦Women's ¦Kids' ¦2017 ¦DIY ¦Large ¦Mother's Day ¦10 Best ¦Café ¦How to draw a ¦Größe 38 "
)
SUFFIXES = [""] * 150 + 3 * _pieces(
    " Stock Photo¦ - Wikipedia¦ | Etsy¦ by Ana Müller¦ (Pack of 6)¦, Free Shipping¦ – Size M¦, L'Atelier¦ 'Rosie'¦ #1"
    '¦ 12" x 18"¦ "Deluxe"¦ & Co. | eBay'
)
SUFFIXES += [f" {width} x {height} cm" for width in range(20, 80, 10) for height in range(20, 80, 5)]
SUFFIXES += [f" ${price}.99" for price in range(4, 60, 3)] + [f", {year}" for year in range(1990, 2021)]
"""Text before and after the words: quotes in 2 % of the captions and apostrophes in 7 %, as in LAION's captions."""
FILLERS = [""] * 5 + _pieces(
    " for Men and Women¦, Best Quality at a Low Price¦ - Limited Offer, Sold Out Everywhere Else¦ as seen in July"
    "¦ - Pictures, Photos & Images¦, by Order Only (see all details below)¦ made in Italy"
)

AWKWARD = _pieces(
    '"{}"¦"""{}"" Mug"¦\'{}\'s¦{}\nSecond line¦{}\r\nFree shipping¦\t{}\tin stock¦  {} ¦\xa0{}\u3000¦NULL,{},NaN'
    "¦{} \U0001f98a \U0001f468\u200d\U0001f469\u200d\U0001f467¦\ufeff{}\u200b¦e\u0301 {}¦%s %(name)s ${HOME} {}"
    "¦{} &amp; more &quot;new&quot; &#39;17 &amp;amp; &lt;b&gt;¦C:\\new\\table\\{}\\¦\\N {} \\x00 \\'¦<p>{}</p><br/>"
    "¦{}'); DROP TABLE laion; --¦' OR 1=1 /* {} */¦{} — Zürich, 東京, Москва, القاهرة¦{'a': [{}]}¦{}"
    f"{', free returns, order today' * 74}"
)
"""Texts around the words as in LAION's captions that break CSV, SQL and templates; the last has 2,000 characters."""

AWKWARD_EVERY, LONG_URL_EVERY = 31, 997
"""One row in this many, by its number: 700 rows have every awkward caption, 1,000 rows a URL of 3,000 characters."""

HOSTS = ["cdn.example.com/s/files", "i.example.net/236x", "example.org/thumbs", "shop.example/images/g"]
TAILS = [".jpg"] * 60 + [".png"] * 12 + [".jpeg", ".webp", ".JPG", ".gif", ".jpg?v=1534&w=600"] * 4
TAILS += [".jpg?$Web$&amp;$Thumb150$", " (1).jpg", "%20copy.jpg?itok=Ma7w", ".jpg_350x350.jpg"]
LONG_TAIL = ".jpg?" + "&".join(f"utm_{number:03d}=0123456789abcdef" for number in range(117))

FEATURES: dict[str, dict[str | None, float]] = {
    "NSFW": {"UNLIKELY": 0.953, "UNSURE": 0.035, "NSFW": 0.009, None: 0.002, "": 0.0005, "0.3178": 0.0005},
    "LICENSE": {"?": 0.98, "https://creativecommons.org/licenses/by/4.0/": 0.02},
    "exif": {"{}": 0.85, '{"Image Orientation": "Horizontal (normal)", "EXIF UserComment": "[65, 83, 0]"}': 0.15},
}
"""Columns with few values, and the fraction of each value; "" and a number are the garbage of shifted columns."""

Progress: TypeAlias = Callable[[int], None]
Stored: TypeAlias = tuple[NDArray[np.float16], NDArray[np.float16], pa.RecordBatch]


class _Samples(NamedTuple):
    """Some samples before they are stored: meanings (n,), vectors (n, D) and captions (n,)."""

    meanings: Integers
    images: Floats
    texts: Floats
    captions: pa.StringArray


def sample_row_counts(shards: int, rows: int) -> list[int]:
    """Rows of each of `shards` shards, unequal as in LAION: a short shard in the middle, another at the end.

    The middle one has 0.35 of `rows`, the last 0.65. From six shards on the second to last has 53 more rows than usual,
    as LAION's shard 408 has. Raises `ValueError` for less than one shard or row.
    """
    if shards < 1 or rows < 1:
        raise ValueError(f"a sample has at least one shard and one row, found {shards} shards of {rows} rows")
    counts = [rows] * shards
    if shards >= 3:
        counts[shards // 2] = max(1, round(0.35 * rows))
    if shards >= 2:
        counts[-1] = max(1, round(0.65 * rows))
    if shards >= 6:
        counts[-2] = rows + 53
    return counts


def write_sample(
    folder: Path, shards: int, rows: int, *, seed: int = 0, first_shard: int = 0, progress: Progress | None = None
) -> list[Path]:
    """Write `shards` shards, numbered from `first_shard`, and return their files, three a shard.

    `progress` is called with the rows done since its last call. Raises `ValueError` for numbers below one (below zero
    for `seed` and `first_shard`) and `OSError` when the disk refuses. A file gets its final name only when it is
    complete.
    """
    paths: list[Path] = []
    for shard, count in enumerate(sample_row_counts(shards, rows), first_shard):
        paths += write_sample_shard(folder, shard, count, seed=seed, progress=progress)
    return paths


def write_sample_shard(
    folder: Path, shard: int, rows: int, *, seed: int = 0, progress: Progress | None = None
) -> tuple[Path, Path, Path]:
    """Write one shard of `rows` rows and return its image, text and metadata file. Raises as `write_sample` does."""
    if shard < 0 or rows < 1:
        raise ValueError(f"a sample shard has a number from 0 and at least one row, found shard {shard}, {rows} rows")
    image = folder / "img_emb" / f"img_emb_{shard}.npy"
    text = folder / "text_emb" / f"text_emb_{shard}.npy"
    metadata = folder / "metadata" / f"metadata_{shard}.parquet"
    world = sample_world()
    with ExitStack() as stack:
        temporary = [stack.enter_context(_renamed_when_whole(path)) for path in (image, text, metadata)]
        files = [stack.enter_context(path.open("wb")) for path in temporary[:2]]
        for file in files:
            header = {"descr": "<f2", "fortran_order": False, "shape": (rows, world.dimension)}
            np.lib.format.write_array_header_1_0(file, header)
        batches = []
        for *vectors, batch in _stored_blocks(world, seed, shard, rows):
            for file, block in zip(files, vectors, strict=True):
                file.write(block.data)
            batches.append(batch)
            if progress is not None:
                progress(batch.num_rows)
        table = pa.Table.from_batches(batches).replace_schema_metadata({"pandas": _pandas_metadata(rows)})
        pq.write_table(table, temporary[2], compression="snappy", row_group_size=rows)
    return image, text, metadata


@contextmanager
def _renamed_when_whole(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`. After success it is renamed to `path`; after an error it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _stored_blocks(world: SampleWorld, seed: int, shard: int, rows: int) -> Iterator[Stored]:
    """Image vectors, text vectors and metadata of the shard's blocks in order; threads make them a few blocks ahead."""
    popular = _draw(world, _generator(seed, shard, 0), np.arange(max(2, rows // 1_000)))
    threads = min(os.cpu_count() or 1, 8)

    def make(first: int) -> Stored:
        numbers = np.arange(first, min(first + BLOCK_ROWS, rows))
        rng = _generator(seed, shard, 1 + first // BLOCK_ROWS)
        samples = _with_copies(rng, _draw(world, rng, numbers), popular)
        metadata = _metadata(rng, shard, numbers, samples)
        return samples.images.astype(np.float16), samples.texts.astype(np.float16), metadata

    with ThreadPoolExecutor(threads, thread_name_prefix="sample") as pool:
        ahead: deque[Future[Stored]] = deque()
        for first in range(0, rows, BLOCK_ROWS):
            ahead.append(pool.submit(make, first))
            if len(ahead) > threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _generator(seed: int, shard: int, block: int) -> Generator:
    """The generator of a block; block 0 makes the shard's popular images. SFC64 is a fifth faster than the default."""
    return Generator(SFC64(SeedSequence(seed, spawn_key=(shard, block))))


def _draw(world: SampleWorld, rng: Generator, numbers: Integers) -> _Samples:
    """Samples for rows of a shard by their numbers, without copies."""
    meanings = world.draw_meanings(rng, len(numbers))
    return _Samples(meanings, *world.draw_pairs(rng, meanings), _captions(world, rng, meanings, numbers))


def _with_copies(rng: Generator, fresh: _Samples, popular: _Samples) -> _Samples:
    """The new samples, some replaced by popular ones, and others by earlier ones with a little noise."""
    rows = len(fresh.meanings)
    source, kind = np.arange(rows), rng.random(rows)
    repeated, near = kind < POPULAR_SHARE, (kind >= POPULAR_SHARE) & (kind < POPULAR_SHARE + NEAR_SHARE)
    earlier = (rng.random(rows) * source).astype(np.int64)
    near &= ~(near | repeated)[earlier]
    # The odds of a popular image are its rank to the power -0.7: of 20,000 rows the first image has some 35.
    odds = np.arange(1.0, len(popular.meanings) + 1) ** -0.7
    source[repeated] = rows + rng.choice(len(odds), size=int(repeated.sum()), p=odds / odds.sum())
    source[near] = earlier[near]
    images, texts = (np.concatenate(both)[source] for both in ((fresh[1], popular[1]), (fresh[2], popular[2])))
    # Noise of length 0.02 to 0.2 on length 1: cosines of .98 to .9998, as for one picture in other sizes or crops.
    for vectors in (images, texts):
        noise = rng.standard_normal((int(near.sum()), vectors.shape[1]), np.float32)
        normalise(noise)
        close = vectors[near] + noise * rng.uniform(0.02, 0.2, (len(noise), 1)).astype(np.float32)
        normalise(close)
        vectors[near] = close
    meanings = np.concatenate((fresh.meanings, popular.meanings))[source]
    return _Samples(meanings, images, texts, pa.concat_arrays([fresh.captions, popular.captions]).take(source))


def _captions(world: SampleWorld, rng: Generator, meanings: Integers, numbers: Integers) -> pa.StringArray:
    """The words of each meaning among words without meaning; every `AWKWARD_EVERY`-th caption is an awkward one."""
    kind = np.where(numbers % AWKWARD_EVERY == 11, 1 + numbers // AWKWARD_EVERY % len(AWKWARD), 0)
    before, after = (pa.array([text.split("{}")[side] for text in ("{}", *AWKWARD)]).take(kind) for side in (0, 1))
    prefix, suffix, filler = (_pick(rng, len(numbers), texts) for texts in (PREFIXES, SUFFIXES, FILLERS))
    return join_texts(before, prefix, world.draw_phrases(rng, meanings), suffix, filler, after)


def _pick(rng: Generator, rows: int, texts: Sequence[str | None], odds: list[float] | None = None) -> pa.StringArray:
    """One of the texts for each row."""
    return pa.array(texts, pa.string()).take(rng.choice(len(texts), size=rows, p=odds))


def _metadata(rng: Generator, shard: int, numbers: Integers, samples: _Samples) -> pa.RecordBatch:
    """All of `COLUMNS` for some rows of a shard."""
    rows = len(numbers)
    tar, place = np.divmod(numbers + numbers // (LOST_EVERY - 1), TAR_PLACES)
    # LAION's similarity is of the original image, its vectors are of 256 pixels: near their dot product, but not equal.
    similarity = np.einsum("nd,nd->n", samples.images, samples.texts) + rng.normal(0, 0.01, rows)
    similarity[rng.random(rows) < 1 / 50_000] = 6016.0
    width = np.clip(rng.lognormal(6.3, 0.5, rows), 100, 6_000)
    columns: dict[str, Any] = {
        "image_path": pa.array(place).cast(pa.string()),
        "caption": pc.if_else(pa.array(rng.random(rows) < 1 / 5_000), None, samples.captions),
        "similarity": pa.array(similarity, mask=rng.random(rows) < 1 / 5_000),
        "url": _urls(rng, shard, numbers, samples.meanings),
        "key": pa.array(place).cast(pa.string()),
        "shard_id": pa.array(shard * TARS_A_SHARD + tar),
        "status": pa.repeat("success", rows),
        "error_message": pa.nulls(rows),
        **{side: pa.repeat(256, rows) for side in ("width", "height")},
        "original_width": pa.array(width.astype(np.int64)),
        "original_height": pa.array((width * rng.uniform(0.6, 1.5, rows)).astype(np.int64)),
    }
    columns |= {name: _pick(rng, rows, list(odds), list(odds.values())) for name, odds in FEATURES.items()}
    return pa.RecordBatch.from_arrays([columns[name] for name in COLUMNS.names], schema=COLUMNS)


def _urls(rng: Generator, shard: int, numbers: Integers, meanings: Integers) -> pa.StringArray:
    """URLs, all different within a sample, also if images are the same: the number is the row's, scrambled."""
    number = (numbers + shard * 10_000_000).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    tail = pc.if_else(pa.array(numbers % LONG_URL_EVERY == 500), LONG_TAIL, _pick(rng, len(numbers), TAILS))
    start = _pick(rng, len(numbers), [f"https://{host}/" for host in HOSTS])
    return join_texts(start, pa.array(number).cast(pa.string()), _slugs().take(meanings), tail)


@cache
def _slugs() -> pa.StringArray:
    """The words of every meaning in the form for a URL."""
    world = sample_world()
    return pa.array(["".join(f"-{world.words[word]}" for word in words if word >= 0) for words in world.role_words])


def _pandas_metadata(rows: int) -> str:
    """The text that pandas writes into a Parquet file's schema for a frame with a plain index."""
    kinds = {"string": ("unicode", "object"), "null": ("empty", "object"), "double": ("float64", "float64")}

    def described(name: str | None, kind: str, metadata: dict[str, str] | None = None) -> dict[str, Any]:
        types = dict(zip(("pandas_type", "numpy_type"), kinds.get(kind, (kind, kind)), strict=True))
        return {"name": name, "field_name": name, **types, "metadata": metadata}

    facts = {
        "index_columns": [{"kind": "range", "name": None, "start": 0, "stop": rows, "step": 1}],
        "column_indexes": [described(None, "string", {"encoding": "UTF-8"})],
        "columns": [described(field.name, str(field.type)) for field in COLUMNS],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "1.3.5",
    }
    return json.dumps(facts)
