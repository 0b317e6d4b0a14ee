"""The hosts that most pictures come from: an SQL query of the table that `pictures` loads, and a plot of the result."""

import base64
import io

import dagster as dg
from matplotlib.figure import Figure

from laion_assets.resources import EmbeddingTable

PARTITIONS = dg.AssetKey(["pictures", "clickhouse_partition"])


@dg.asset(
    deps=[dg.AssetDep(PARTITIONS, partition_mapping=dg.AllPartitionMapping())],
    pool="clickhouse",
    kinds={"clickhouse", "matplotlib"},
)
def frequent_hosts(pictures_embedding_table: EmbeddingTable) -> dg.MaterializeResult[None]:
    """The ten hosts with the most rows in all loaded partitions, and the number of rows of each."""
    with pictures_embedding_table.connect() as db:
        rows = db.rows(f"FROM {db.table} SELECT domain(url) AS host, count() GROUP BY host ORDER BY 2 DESC, 1 LIMIT 10")
    figure = Figure(figsize=(7, 4), layout="constrained")
    figure.subplots().barh([str(host) for host, _ in rows][::-1], [int(count) for _, count in rows][::-1])
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    image = base64.b64encode(picture.getvalue()).decode()
    return dg.MaterializeResult(
        metadata={
            "hosts": dg.MetadataValue.table(
                [dg.TableRecord({"host": str(host), "rows": int(count)}) for host, count in rows]
            ),
            "plot": dg.MetadataValue.md(f"![the most frequent hosts](data:image/png;base64,{image})"),
        }
    )
