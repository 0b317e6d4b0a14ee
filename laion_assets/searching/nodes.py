"""The proof, on the nodes of a cluster, that a search used the index of every node. It builds nothing."""

from __future__ import annotations

import numpy.typing as npt

from laion_assets.index.counter import graphs_searched
from laion_assets.searching.proof_of_use import IndexUse, index_use, searched_parts
from laion_assets.searching.statement import SearchRequest, search
from laion_assets.table.database import Database
from laion_assets.table.nodes import connect_to_node, nodes, system_table


def use_everywhere(entry: Database, vector: npt.ArrayLike, request: SearchRequest) -> IndexUse:
    """Runs `index_use`; in a cluster, for a search through the Distributed table and for each node.

    The plan of such a search does not show what other nodes do, so each node is asked for its own plan. Graphs are
    counted over all replicas: a search asks one replica of each cluster shard. Raises as `search` does.
    """
    if entry.settings.cluster is None:
        return index_use(entry, vector, request)
    before = _searches(entry)
    search(entry, vector, request)
    rise = _searches(entry) - before
    uses = []
    for node in nodes(entry):
        with connect_to_node(entry, node) as db:
            if searched_parts(db, request):
                uses.append(index_use(db, vector, request))
    return IndexUse(
        in_plan=all(use.in_plan for use in uses),
        searches=rise if all(use.searches >= use.expected for use in uses) else 0,
        expected=searched_parts(entry, request),
        rescored=all(use.rescored for use in uses),
    )


def _searches(entry: Database) -> int:
    return graphs_searched(entry, system_table(entry, "events", every_replica=True))
