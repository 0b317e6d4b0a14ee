"""Measured program: the engine reads npy and metadata together directly into a table. It is a peer, not our code.

No Parquet file is made and nothing is checked: a shard with NaN, or a shard whose files do not belong together, is
loaded as it is. Readers see the rows while they are inserted. PASTE JOIN keeps the order of rows only in one thread.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.engine import OUR_TABLE, TABLE, opened
from benchmarks.stage import StageReport

METADATA = "url String, caption String, NSFW String, similarity Float32"


def main() -> None:
    """`python -m benchmarks.paste_join FOLDER NUMBER`. The raw files are in FOLDER."""
    folder, number = Path(sys.argv[1]), sys.argv[2]
    image, text = (f"'{folder / kind}_{number}.npy', 'Npy', 'array Array(Float32)'" for kind in ("img_emb", "text_emb"))
    report = StageReport()
    with report.phase("PASTE JOIN into the table"), opened(folder) as client:
        client.command(OUR_TABLE)
        client.command(
            f"INSERT INTO {TABLE} SELECT {number} * 10000000 + rowNumberInAllBlocks(), url, caption, NSFW, similarity, "
            f"image_embedding, text_embedding, {number} "
            f"FROM (SELECT array AS image_embedding FROM file({image})) AS images "
            f"PASTE JOIN (SELECT array AS text_embedding FROM file({text})) AS texts "
            f"PASTE JOIN (SELECT url, caption, NSFW, similarity FROM "
            f"file('{folder / 'metadata'}_{number}.parquet', 'Parquet', '{METADATA}')) AS metadata "
            "SETTINGS max_threads = 1"
        )
    report.close()


if __name__ == "__main__":
    main()
