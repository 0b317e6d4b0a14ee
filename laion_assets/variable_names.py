"""Which LAION_* variables of the environment are settings, which are misspelt, and which belong to someone else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

PREFIX = "LAION_"

SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$")
"""What Kubernetes, and Docker's links, give every container for each service: NAME_PORT, NAME_SERVICE_HOST and the
like. A service called laion-assets gives LAION_ASSETS_PORT."""

SAME_WITHOUT = re.compile(r"_(NAME|URL|URI|DIR|PATH|FILE|FOLDER)$")
"""People add such a word, or leave it out: LAION_CLICKHOUSE_URL, LAION_DATA."""

ALIKE = 0.9
"""difflib's ratio from which on two names are taken for one: two letters swapped or one missing in 11 are 0.91, while
LAION_CLICKHOUSE_PORT and LAION_CLICKHOUSE are 0.86."""


def near_miss(name: str, known: Iterable[str]) -> str | None:
    """The variable of `known` that `name` is a misspelling of; None where it is one of them, or someone else's."""
    names = sorted(known)
    if name in names or SERVICE_LINK.search(name):
        return None
    alike = get_close_matches(name, names, n=1, cutoff=ALIKE)
    if alike:
        return alike[0]
    stem = SAME_WITHOUT.sub("", name)
    return next((each for each in names if SAME_WITHOUT.sub("", each) == stem), None)
