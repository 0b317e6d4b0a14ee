"""Which LAION_* variables of the environment are settings, which are misspelt, and which belong to someone else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

PREFIX = "LAION_"

SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$")
"""Variables that Kubernetes, and Docker's links, give every container for each service: NAME_PORT, NAME_SERVICE_HOST
and others. A service called laion-assets gives LAION_ASSETS_PORT."""

SAME_WITHOUT = re.compile(r"_(NAME|URL|URI|DIR|PATH|FILE|FOLDER)$")
"""Words that people add by mistake, or leave out: LAION_CLICKHOUSE_URL, LAION_DATA."""

ALIKE = 0.9
"""From this ratio of difflib on two names are taken for the same. Two swapped letters or one missing in 11 give 0.91;
LAION_CLICKHOUSE_PORT and LAION_CLICKHOUSE give 0.86."""


def near_miss(name: str, known: Iterable[str]) -> str | None:
    """The variable of `known` that `name` misspells; None if `name` is one of them, or belongs to someone else."""
    names = sorted(known)
    if name in names or SERVICE_LINK.search(name):
        return None
    alike = get_close_matches(name, names, n=1, cutoff=ALIKE)
    if alike:
        return alike[0]
    stem = SAME_WITHOUT.sub("", name)
    return next((each for each in names if SAME_WITHOUT.sub("", each) == stem), None)
