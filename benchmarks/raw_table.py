"""A shard's raw files as one Arrow table, as they are read without this project: all at once, without any check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

ID_STRIDE = 10_000_000


def read_raw(folder: Path, number: str) -> pa.Table:
    """The seven columns of ClickHouse's page, vectors as float32 in fixed-size lists, missing captions as empty text.

    The files `img_emb_N.npy`, `text_emb_N.npy` and `metadata_N.parquet` are in `folder`. The whole table is in memory.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    metadata = pq.read_table(
        folder / f"metadata_{number}.parquet", columns=["url", "caption", "NSFW", "similarity"]
    ).combine_chunks()
    first = int(number) * ID_STRIDE
    columns: dict[str, pa.Array] = {"id": pa.array(np.arange(first, first + metadata.num_rows, dtype=np.int64))}
    for name in ("url", "caption", "NSFW"):
        columns[name] = metadata[name].cast(pa.string()).fill_null("")
    columns["similarity"] = metadata["similarity"].cast(pa.float32())
    for name, kind in (("image_embedding", "img_emb"), ("text_embedding", "text_emb")):
        vectors = np.load(folder / f"{kind}_{number}.npy").astype(np.float32)
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    return pa.table(columns)
