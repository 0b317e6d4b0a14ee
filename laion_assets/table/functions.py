"""Where the embedded engine finds functions that are programs. It does not know what they do, nor who writes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from laion_assets.settings import Settings


@dataclass(frozen=True)
class FunctionFolders:
    """The folder of the programs, and the folder of the XML files that declare them as functions."""

    scripts: Path
    configs: Path

    @property
    def pattern(self) -> str:
        """The pattern of files that declare functions, for ClickHouse's setting."""
        return str(self.configs / "*_function.xml")


def function_folders(settings: Settings) -> FunctionFolders:
    """The embedded engine's folders, in the store."""
    folder = settings.data_dir / "functions"
    return FunctionFolders(folder / "scripts", folder / "config")


def embedded_function_options(settings: Settings) -> dict[str, str]:
    """Server settings for the embedded engine: its functions, if there are any."""
    folders = function_folders(settings)
    if not folders.configs.is_dir():
        return {}
    return {
        "user_scripts_path": str(folders.scripts),
        "user_defined_executable_functions_config": folders.pattern,
    }
