"""How much a search by cells reads, and how many clusters it probes if nothing was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

SHARE_OF_A_MILLION = 0.20
SHARE_EXPONENT = 0.31
"""In a table of n rows the probed clusters hold 20 % · (n / 1,000,000)^-0.31 of the rows. This was counted exactly in
62,500, 250,000 and 1,000,000 sample rows: with four times the rows, .65 times the fraction gave the same recall in the
worst kind of query (texts asked of texts), and 10 % of a million held .97 of the neighbours. With the loss from codes
in addition, 10 % of 1,000,448 rows found .942 ± .019 of the neighbours with 100 candidates a neighbour, 20 % found .964
± .013 (100 unseen queries)."""

CANDIDATES = 200
"""Rows a neighbour that are ranked by their stored vectors. In 1,000,448 sample rows, with 20 % of the clusters,
turboquant found .910 ± .021 of texts by texts with 50, .949 ± .017 with 100, .976 ± .012 with 200 and .980 ± .010 with
300, in 130, 152, 171 and 197 ms of CPU time (100 unseen queries). Twice the clusters found no more with 100."""

LAZY_ROWS = 1_000_000
"""query_plan_max_limit_for_lazy_materialization: up to this many candidates vectors are read only for the candidates.
Above it they are read for all rows of the clusters, and codes save nothing."""


MOST_FETCHED = 1000.0
"""Most candidates for each row that a statement returns, whatever number of candidates is asked for."""


@dataclass(frozen=True)
class CellsSettings:
    """How much a search by cells reads: clusters, and candidates a neighbour.

    `probes` 0 means all clusters; that is the method `codes`.
    """

    probes: int = 0
    candidates: int = CANDIDATES

    def engine_settings(self, limit: int, rows: int) -> dict[str, object]:
        """ClickHouse's settings for a statement that returns `rows` rows, of which `limit` are wanted."""
        # With more rows than this setting, which is 1,000 unless it is set, the engine reads all vectors.
        most = {"max_limit_for_vector_search_queries": rows} if rows > 1000 else {}
        return {
            "readonly": 2,
            **most,
            "vector_search_use_quantized_codes": 1,
            "vector_search_with_rescoring": 1,
            "vector_search_index_fetch_multiplier": self._multiplier(limit, rows),
            "query_plan_optimize_lazy_materialization": 1,
            "query_plan_max_limit_for_lazy_materialization": LAZY_ROWS,
        }

    def candidates_for(self, limit: int, rows: int) -> int:
        """Candidates a neighbour of a search for `limit` neighbours, whose statement returns `rows` rows.

        These are fewer than `candidates` only where the engine's multiplier has its maximum.
        """
        return round(self._multiplier(limit, rows) * rows / limit)

    def _multiplier(self, limit: int, rows: int) -> float:
        """The engine's setting: candidates for each row that the statement returns."""
        return min(MOST_FETCHED, max(1.0, self.candidates * limit / rows))


def default_probes(clusters: int, rows: int) -> int:
    """Clusters to probe if no recall report names them; 0 (all clusters) if it would be half of them or more."""
    share = SHARE_OF_A_MILLION * (max(rows, 1) / 1e6) ** -SHARE_EXPONENT
    return 0 if share >= 0.5 or clusters == 1 else math.ceil(share * clusters)
