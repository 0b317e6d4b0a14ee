"""The vectors of a shard, in any kind of file: only this module knows which reader is for which container."""

from __future__ import annotations

from laion_assets.file_layout import Part
from laion_assets.shard.hdf5 import Hdf5Reader, read_hdf5_header
from laion_assets.shard.list_column import ListColumnReader, read_list_header
from laion_assets.shard.npy import NpyHeader, NpyReader, read_header
from laion_assets.shard.npz import NpzReader, read_npz_header
from laion_assets.shard.store import ShardFiles
from laion_assets.shard.vector_rows import VectorHeader, VectorReader

OTHER_DIMENSION = "set the dataset's dimension, or correct the source"


def vector_header(files: ShardFiles, part: Part, *, advice: str = OTHER_DIMENSION) -> VectorHeader:
    """The facts of a part's file about its vectors. `advice` is what to do about another dimension.

    Raises `ShardFileError` unless they are floats of the dataset's dimension and the file is as long as its header
    says.
    """
    dataset, path = files.dataset, files.path(part)
    subject, dimension, array = files.subject(part), dataset.dimension, dataset.array(part)
    container = dataset.container(part)
    if container == "npz":
        return read_npz_header(path, array, subject=subject, dimension=dimension, advice=advice)
    if container == "hdf5":
        return read_hdf5_header(path, array, subject=subject, dimension=dimension, advice=advice)
    if container == "parquet":
        return read_list_header(path, array or "", subject=subject, dimension=dimension, advice=advice)
    return read_header(path, subject=subject, dimension=dimension, advice=advice)


def open_vectors(files: ShardFiles, part: Part, header: VectorHeader, *, block_rows: int) -> VectorReader:
    """A reader of the part's vectors in blocks of at most `block_rows`. `header` is the result of `vector_header`.

    Raises `ShardFileError` if the file has changed since.
    """
    path, subject, array = files.path(part), files.subject(part), files.dataset.array(part)
    if isinstance(header, NpyHeader):
        return NpyReader(path, header, subject=subject, block_rows=block_rows)
    container = files.dataset.container(part)
    if container == "npz":
        return NpzReader(path, array, header, subject=subject, block_rows=block_rows)
    if container == "hdf5":
        return Hdf5Reader(path, array, header, subject=subject, block_rows=block_rows)
    return ListColumnReader(path, array or "", header, subject=subject, block_rows=block_rows)
