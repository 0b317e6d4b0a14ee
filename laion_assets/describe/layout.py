"""Which files at a place are images, texts and metadata, and which shards they form. It uses names alone."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from laion_assets.errors import DatasetError
from laion_assets.file_layout import FileKind
from laion_assets.shard_numbers import as_ranges
from laion_assets.source.names import Series, find_series

ENDINGS = ("npy", "npz", "h5", "hdf5", "parquet")
ARCHIVES = (".npz", ".h5", ".hdf5")

HINTS: dict[FileKind, tuple[str, ...]] = {
    "image": ("img", "image", "vision", "picture"),
    "text": ("text", "txt", "caption"),
    "metadata": ("meta",),
}
"""Words in names of folders and files that tell the kind."""


def says(kind: FileKind, name: str) -> bool:
    """Whether a name tells that a file is of this kind."""
    return any(hint in name.lower() for hint in HINTS[kind])


@dataclass(frozen=True)
class Part:
    """The files of one kind: a `series` of names in `folder` (below the place; "" is the place itself)."""

    folder: str
    series: Series

    @property
    def name(self) -> str:
        """The name that people see, such as `img_emb/img_emb_{shard}.npy`."""
        return f"{self.folder}/{self.series.pattern}" if self.folder else self.series.pattern

    @property
    def ending(self) -> str:
        """The ending of its file names."""
        return self.series.pattern.rpartition(".")[2]

    @property
    def is_listed(self) -> bool:
        """Whether its files have names instead of numbers."""
        return "{name}" in self.series.pattern

    def path(self, shard: int) -> str:
        """The path of one shard's file below the place."""
        written = self.series.numbers[shard]
        return self.name.replace("{shard}", written).replace("{name}", written)

    def says(self, kind: FileKind) -> bool:
        """Whether its name tells that its files are of this kind."""
        return says(kind, self.name)


@dataclass
class Layout:
    """The parts, the shards that have a file of each part, and what had to be guessed: one sentence for each guess."""

    image: Part
    text: Part | None
    metadata: Part | None
    shards: tuple[int, ...]
    digits: int
    notes: list[str] = field(default_factory=list)

    @property
    def parts(self) -> dict[FileKind, Part]:
        """The part of each kind."""
        parts: dict[FileKind, Part | None] = {"image": self.image, "metadata": self.metadata, "text": self.text}
        return {kind: part for kind, part in parts.items() if part is not None}


def find_layout(where: str, paths: list[str]) -> Layout:
    """The layout of the files at a place. Raises `DatasetError` if the files do not form shards."""
    parts = _parts(paths)
    notes: list[str] = []
    vectors = [part for part in parts if part.ending == "npy"]
    tables = [part for part in parts if part.ending == "parquet"]
    if (vectors and not tables) or not any(path.endswith((".parquet", *ARCHIVES)) for path in paths):
        raise _no_shards(where, paths, "Parquet files of metadata")
    if not vectors:
        return _without_npy(where, paths, parts)
    image = max(vectors, key=lambda part: (part.says("image"), not part.says("text"), len(part.series.numbers)))
    others = [part for part in vectors if part is not image]
    text = max(others, key=lambda part: (part.says("text"), len(part.series.numbers)), default=None)
    if not image.says("image") and text is not None:
        notes.append(f"no name says which vectors are images: taken are {image.name} for images, {text.name} for texts")
    if text is not None and not text.says("text"):
        notes.append(f"{text.name} is taken for text vectors, since the other npy files are images")
    metadata = max(
        tables, key=lambda part: (len(image.series.numbers.keys() & part.series.numbers.keys()), part.says("metadata"))
    )
    ignored = [part.name for part in (*vectors, *tables) if part not in (image, text, metadata)]
    if ignored:
        notes.append(f"not used: {', '.join(ignored[:5])}{' and more' if len(ignored) > 5 else ''}")
    return _with_shards(where, paths, Layout(image, text, metadata, (), 1, notes))


def _parts(paths: list[str]) -> list[Part]:
    names: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for path in paths:
        folder, _, name = path.rpartition("/")
        ending = name.rpartition(".")[2]
        if ending in ENDINGS:
            names[folder, ending].append(name)
    return [Part(folder, series) for (folder, _), found in names.items() for series in find_series(found)]


def _without_npy(where: str, paths: list[str], parts: list[Part]) -> Layout:
    """The layout without npy files: vectors are in npz or HDF5 files, with or without metadata files, or in columns of
    these. Files without numbers are listed by name."""
    ending = next((each for each in ARCHIVES if any(path.endswith(each) for path in paths)), ".npz")
    archives = [path for path in paths if path.endswith(ending)]
    tables = [path for path in paths if path.endswith(".parquet")]

    def numbered(kind: str, of: int) -> Part | None:
        """The longest series, if it has most of the files."""
        found = max(
            (part for part in parts if part.ending == kind), key=lambda part: len(part.series.numbers), default=None
        )
        return found if found is not None and 2 * len(found.series.numbers) > of else None

    metadata = numbered("parquet", len(tables))
    image = numbered(ending[1:], len(archives)) if archives else metadata
    if image is None or (metadata is None and tables):
        stems = {path.removesuffix(".parquet") for path in tables} or {path.removesuffix(ending) for path in archives}
        stems &= {path.removesuffix(ending) for path in archives} if archives else stems
        if not stems:
            raise _no_shards(where, paths, f"{ending[1:]} and Parquet files of the same names")
        names = dict(enumerate(sorted(stems)))
        metadata = Part("", Series("{name}.parquet", names)) if tables else None
        image = Part("", Series(f"{{name}}{ending}", names)) if archives or metadata is None else metadata
    used = {part.path(shard) for part in (image, metadata) if part is not None for shard in part.series.numbers}
    unused = sorted({*archives, *tables} - used)
    notes = [f"not used: {', '.join(unused[:5])}{' and more' if len(unused) > 5 else ''}"] if unused else []
    if metadata is None:
        notes.append("no Parquet files of metadata: the shards are vectors alone")
    return _with_shards(where, paths, Layout(image, None, metadata, (), 1, notes))


def _with_shards(where: str, paths: list[str], layout: Layout) -> Layout:
    """Adds the complete shards, and notes about incomplete ones."""
    both = layout.image.series.numbers.keys() & (layout.metadata or layout.image).series.numbers.keys()
    if not both:
        raise _no_shards(where, paths, "numbers that vectors and metadata share")
    if layout.text is not None:
        with_text = both & layout.text.series.numbers.keys()
        if 2 * len(with_text) < len(both):
            some = as_ranges(with_text, most=8) or "none"
            layout.notes.append(f"text vectors are left out, since hardly any shards have them: {some}")
            layout.text = None
        else:
            both = with_text
    every = set[int]().union(*(part.series.numbers for part in layout.parts.values()))
    if every - both:
        layout.notes.append(f"left out, since a file of theirs is missing: shards {as_ranges(every - both, most=8)}")
    layout.shards = tuple(sorted(both))
    layout.digits = 1 if layout.image.is_listed else _digits(layout)
    return layout


def _digits(layout: Layout) -> int:
    digits = {kind: part.series.digits for kind, part in layout.parts.items()}
    if len(set(digits.values())) > 1:
        raise DatasetError(
            layout.image.name,
            found=f"numbers of different widths: {digits}",
            expected="the same number of digits in the names of all files",
            advice="rename or link the files",
        )
    return digits["image"]


def _no_shards(where: str, paths: list[str], missing: str) -> DatasetError:
    endings = defaultdict(list)
    for path in paths:
        endings[path.rpartition(".")[2] if "." in path else "no ending"].append(path)
    there = ", ".join(f"{len(found):,} .{ending} (such as {found[0]})" for ending, found in sorted(endings.items())[:6])
    return DatasetError(
        f"describe {where}",
        found=there or "no files",
        expected=f"{missing}: a shard is npy files of vectors and a Parquet file of metadata with one number",
        advice="name the folder above them where they lie in several; docs/datasets.md says which layouts can be read",
    )
