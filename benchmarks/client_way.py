"""Measured program: reads a whole shard into memory, then inserts it by one call of the ClickHouse client.

It is a peer, not our code. `arrow` gives the client an Arrow table that polars made of the three files. `pandas` gives
the client a pandas frame whose vectors are arrays, as the client's documentation shows first. Nothing is checked, and
parts are not merged.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.engine import OUR_TABLE, TABLE, opened
from benchmarks.raw_table import ID_STRIDE
from benchmarks.stage import StageReport


def polars_frame(folder: Path, number: str) -> Any:
    """All columns of our table, read by polars."""
    import numpy as np
    import polars as pl

    metadata = pl.read_parquet(
        folder / f"metadata_{number}.parquet", columns=["url", "caption", "NSFW", "similarity"], memory_map=False
    )
    vectors = {
        name: np.load(folder / f"{kind}_{number}.npy").astype(np.float32)
        for name, kind in (("image_embedding", "img_emb"), ("text_embedding", "text_emb"))
    }
    first = int(number) * ID_STRIDE
    return metadata.select(
        pl.int_range(first, first + pl.len(), dtype=pl.Int64).alias("id"),
        pl.col("url", "caption", "NSFW").fill_null(""),
        pl.col("similarity").cast(pl.Float32),
        *(pl.Series(name, values).cast(pl.List(pl.Float32)) for name, values in vectors.items()),
        pl.lit(int(number), pl.UInt16).alias("shard"),
    )


def pandas_frame(folder: Path, number: str) -> Any:
    """All columns of our table, read by pandas, with one array per vector."""
    import numpy as np
    import pandas as pd

    names = ["url", "caption", "NSFW", "similarity"]
    frame = pd.read_parquet(folder / f"metadata_{number}.parquet", columns=names)
    frame[names[:3]] = frame[names[:3]].fillna("")
    frame["similarity"] = frame["similarity"].astype(np.float32)
    frame.insert(0, "id", np.arange(len(frame), dtype=np.int64) + int(number) * ID_STRIDE)
    for name, kind in (("image_embedding", "img_emb"), ("text_embedding", "text_emb")):
        frame[name] = [*np.load(folder / f"{kind}_{number}.npy").astype(np.float32)]
    frame["shard"] = np.full(len(frame), int(number), np.uint16)
    return frame


def main() -> None:
    """`python -m benchmarks.client_way arrow|pandas FOLDER NUMBER`."""
    way, folder, number = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    report = StageReport()
    with report.phase("read all"):
        frame = {"arrow": polars_frame, "pandas": pandas_frame}[way](folder, number)
    with report.phase("insert"), opened(folder) as client:
        client.command(OUR_TABLE)
        if way == "arrow":
            client.insert_arrow(TABLE, frame.to_arrow())
        else:
            client.insert_df(TABLE, frame)
    report.close()


if __name__ == "__main__":
    main()
