"""Links from an asset in Dagster's UI to the source of its function: in Git by LAION_GIT_URL, else a local file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg

from laion_assets.settings import Settings

PACKAGE = Path(__file__).parents[1]
CODE_REFERENCES = "dagster/code_references"


def source_of(settings: Settings, function: Callable[..., Any]) -> dict[str, dg.CodeReferencesMetadataValue]:
    """The metadata with which the UI links to a function of the package.

    `dg.with_source_code_references` would name the file of the wrapper that every such function has (`as_step`).
    """
    code = function.__code__
    if settings.git_url is None:
        local = dg.LocalFileCodeReference(file_path=code.co_filename, line_number=code.co_firstlineno)
        return {CODE_REFERENCES: dg.CodeReferencesMetadataValue(code_references=[local])}
    tree = "-/tree" if "gitlab" in settings.git_url else "tree"
    file = f"{PACKAGE.name}/{Path(code.co_filename).relative_to(PACKAGE).as_posix()}"
    url = f"{settings.git_url}/{tree}/{settings.git_branch}/{file}#L{code.co_firstlineno}"
    return {CODE_REFERENCES: dg.CodeReferencesMetadataValue(code_references=[dg.UrlCodeReference(url=url)])}
