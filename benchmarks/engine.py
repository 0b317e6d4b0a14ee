"""The embedded engine as peers use it, their tables, and a summary of a table's content. It does not use our code."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import clickhouse_connect
from clickhouse_connect.driver.client import Client

TABLE = "laion"
FOLDER = "clickhouse"
"""The engine's folder within a peer's folder. It is also our own default."""

PAGE_TABLE = f"""
CREATE TABLE {TABLE} (
  id Int64, url String, caption String, NSFW String, similarity Float32,
  image_embedding Array(Float32), text_embedding Array(Float32)
) ENGINE = MergeTree ORDER BY id SETTINGS index_granularity = 8192
"""
"""The table of ClickHouse's page on LAION-400M, before its indexes."""

OUR_TABLE = f"""
CREATE TABLE {TABLE} (
  id Int64, url String, caption String, NSFW String, similarity Float32,
  image_embedding Array(Float32) CODEC(NONE), text_embedding Array(Float32) CODEC(NONE), shard UInt16
) ENGINE = MergeTree PARTITION BY shard ORDER BY id SETTINGS index_granularity = 512
"""
"""A table with our columns and settings, for peers that should produce the same table as we do."""


@contextmanager
def opened(folder: Path) -> Iterator[Client]:
    """Opens the engine on its folder within a peer's folder."""
    client = clickhouse_connect.get_client(interface="chdb", path=str(folder / FOLDER))
    try:
        yield client
    finally:
        client.close()


def main() -> None:
    """`python -m benchmarks.engine FOLDER` prints rows, parts, bytes, and a hash of urls and vectors.

    Captions are not in the hash, since the page's way removes their quotes. `checksum` is what every database can
    compute: the bytes of all urls, and the sums of all vectors' elements as float64. The sums are exact in any order,
    since the elements were float16.
    """
    with opened(Path(sys.argv[1])) as client:
        rows, content, urls, images, texts = client.query(
            "SELECT count(), toString(sum(cityHash64(url, image_embedding, text_embedding))), sum(length(url)), "
            f"sum(arraySum(image_embedding)), sum(arraySum(text_embedding)) FROM {TABLE}"
        ).result_rows[0]
        parts, size = client.query(
            f"SELECT count(), sum(bytes_on_disk) FROM system.parts WHERE table = '{TABLE}' AND active"
        ).result_rows[0]
    found = {"rows": rows, "parts": parts, "table_bytes": size, "content": content}
    sys.stdout.write(json.dumps({**found, "checksum": f"{urls} {images!r} {texts!r}"}) + "\n")


if __name__ == "__main__":
    main()
