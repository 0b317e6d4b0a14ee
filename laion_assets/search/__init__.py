"""Searching the table: statements, conditions, and the proof that an index was used. It builds nothing.

The package has the name of the function `laion_assets.search`, and takes its place in `laion_assets` as soon as one of
its modules is imported. So that either can be called, the package hands a call on to the function.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """This package, called as `laion_assets.api.search`."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """The function is imported late: it needs modules of this package."""
        from laion_assets.api import search

        return search(*arguments, **named)


sys.modules[__name__].__class__ = _Callable
