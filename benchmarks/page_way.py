"""Measured program: what the scripts of ClickHouse's LAION-400M page do, written again. It is a peer.

`process` is the page's process.py: everything into pandas, vectors as Python lists, quotes out of the captions, CSV.
`import` is the page's `INSERT INTO laion FROM INFILE '….csv'`, which the embedded engine understands as the client
does. One thing differs: the page's script fails on a caption that is null, of which LAION and our samples have some;
here such a caption is empty.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.stage import StageReport, run_step


def process(folder: Path, number: str, report: StageReport) -> None:
    """Three raw files of a shard, side by side in `folder`, into `N.csv`; the raw files are removed."""
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
    """The CSV into a table as the page makes it."""
    from benchmarks.engine import PAGE_TABLE, TABLE, opened

    with report.phase("import CSV"), opened(folder) as client:
        client.command(PAGE_TABLE)
        client.command(f"INSERT INTO {TABLE} FROM INFILE '{folder / number}.csv' FORMAT CSV")


if __name__ == "__main__":
    run_step(**{"process": process, "import": import_csv})
