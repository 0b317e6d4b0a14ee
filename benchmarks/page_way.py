"""Measured program: does what the scripts of ClickHouse's LAION-400M page do. It is a peer.

`process` is the page's process.py: it reads everything into pandas with vectors as Python lists, removes quotes from
the captions, and writes CSV. `import` is the page's `INSERT INTO laion FROM INFILE '….csv'`, which the embedded engine
understands as the client does. One thing differs: the page's script fails on a caption that is null, and LAION and our
samples have such captions. Here a null caption becomes an empty caption.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.stage import StageReport, run_step


def process(folder: Path, number: str, report: StageReport) -> None:
    """Writes the three raw files of a shard in `folder` as `N.csv`. The raw files are removed."""
    import numpy as np
    import pandas as pd

    image_file, text_file = folder / f"img_emb_{number}.npy", folder / f"text_emb_{number}.npy"
    metadata_file = folder / f"metadata_{number}.parquet"
    csv = folder / f"{number}.csv"
    with report.phase("pandas to CSV"):
        images = np.load(image_file)
        texts = np.load(text_file)
        frame = pd.read_parquet(metadata_file)
        vectors = [pd.DataFrame({"image_embedding": [*images]}), pd.DataFrame({"text_embedding": [*texts]})]
        frame = pd.concat([frame, *vectors], axis=1)
        frame = frame[["url", "caption", "NSFW", "similarity", "image_embedding", "text_embedding"]]
        for column in ("image_embedding", "text_embedding"):
            frame[column] = frame[column].apply(lambda vector: vector.tolist())
        captions = frame["caption"].fillna("")
        frame["caption"] = captions.apply(lambda text: text.replace("'", " ").replace('"', " "))
        frame.to_csv(csv, header=False)
        for path in (image_file, text_file, metadata_file):
            path.unlink()
    report.say(csv_bytes=csv.stat().st_size)


def import_csv(folder: Path, number: str, report: StageReport) -> None:
    """Inserts the CSV into a table as the page makes it."""
    from benchmarks.engine import PAGE_TABLE, TABLE, opened

    with report.phase("import CSV"), opened(folder) as client:
        client.command(PAGE_TABLE)
        client.command(f"INSERT INTO {TABLE} FROM INFILE '{folder / number}.csv' FORMAT CSV")


if __name__ == "__main__":
    run_step(**{"process": process, "import": import_csv})
