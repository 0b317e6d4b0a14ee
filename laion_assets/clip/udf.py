"""Writes encode_text and encode_image for ClickHouse: a script and an XML file each. `worker` answers for them."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from laion_assets.clip.ready import ready_model
from laion_assets.settings import Settings
from laion_assets.shard.files import replacing
from laion_assets.table.functions import function_folders

POOL_SIZE = 2
"""Workers for each function, started when they are needed. Each holds its own model: ViT-B/32 takes 0.4 to 0.5 GB."""

READ_SECONDS = 600
"""How long ClickHouse waits for the next answers of a worker, which come batch by batch. The first wait includes the
time to load the model. ClickHouse's own 10 s are not enough for a slow disk."""


@dataclass(frozen=True)
class ClipFunction:
    """One function: `encode_text(text)` or `encode_image(path)`."""

    name: str
    kind: str
    argument: str

    @property
    def script(self) -> str:
        """The name of its script."""
        return f"laion_{self.name}"

    @property
    def config(self) -> str:
        """The name of its XML file; ClickHouse's setting usually looks for `*_function.xml`."""
        return f"laion_{self.name}_function.xml"


FUNCTIONS = (ClipFunction("encode_text", "text", "text"), ClipFunction("encode_image", "image", "path"))


@dataclass(frozen=True)
class InstalledFunctions:
    """What was written: the script and the XML file of each function."""

    scripts: tuple[Path, ...]
    configs: tuple[Path, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The functions' names in SQL."""
        return tuple(function.name for function in FUNCTIONS)


def install(settings: Settings, scripts_dir: Path, config_dir: Path) -> InstalledFunctions:
    """Writes both functions for a ClickHouse that runs on this machine.

    The files hold the paths of the interpreter and the model's folder, and LAION_IMAGE_ROOT: install again when one of
    them changes. `scripts_dir` is the server's user_scripts_path, `config_dir` a folder of its
    user_defined_executable_functions_config. Raises `ClipError` when the model is missing, `StoreError` when a folder
    cannot be written.
    """
    folder = ready_model(settings)
    scripts, configs = [], []
    for function in FUNCTIONS:
        scripts.append(_write(scripts_dir / function.script, _script(function, settings, folder), mode=0o755))
        configs.append(_write(config_dir / function.config, _config(function), mode=0o644))
    return InstalledFunctions(tuple(scripts), tuple(configs))


def install_embedded(settings: Settings) -> InstalledFunctions:
    """Writes both functions where the embedded engine finds them at its next opening. Raises as `install` does."""
    folders = function_folders(settings)
    return install(settings, folders.scripts, folders.configs)


def _write(path: Path, content: str, mode: int) -> Path:
    with replacing(path, subject=f"function file {path.name}") as temporary:
        temporary.write_text(content, encoding="utf-8")
        temporary.chmod(mode)
    return path


def _script(function: ClipFunction, settings: Settings, model_folder: Path) -> str:
    """A shell script: a first line with the interpreter's path may have neither blanks nor more than 255 characters.

    -I ignores the server's folder and PYTHONPATH; the package's own folder is added last.
    """
    package_root = str(Path(__file__).parents[2])
    code = f"import sys; sys.path.append({package_root!r}); from laion_assets.clip.worker import main; sys.exit(main())"
    command = [sys.executable, "-I", "-c", code, function.kind]
    command += ["--model", str(model_folder), "--dimension", str(settings.dataset.dimension)]
    if function.kind == "image" and settings.image_root:
        command += ["--images", str(settings.image_root)]
    return f"#!/bin/sh\n# {function.name} for ClickHouse, written by laion_assets.\nexec {shlex.join(command)}\n"


def _config(function: ClipFunction) -> str:
    """The XML. RowBinary takes any bytes and costs 2 µs a vector; JSON took 190 µs, more than the sample's model
    itself.

    send_chunk_header tells the worker how many rows come, so that it can encode them in batches.
    """
    return f"""<functions>
    <function>
        <type>executable_pool</type>
        <name>{function.name}</name>
        <return_type>Array(Float32)</return_type>
        <argument>
            <type>String</type>
            <name>{function.argument}</name>
        </argument>
        <format>RowBinary</format>
        <command>{function.script}</command>
        <send_chunk_header>1</send_chunk_header>
        <deterministic>1</deterministic>
        <pool_size>{POOL_SIZE}</pool_size>
        <command_read_timeout>{READ_SECONDS * 1000}</command_read_timeout>
        <command_write_timeout>{READ_SECONDS * 1000}</command_write_timeout>
        <max_command_execution_time>{READ_SECONDS}</max_command_execution_time>
        <stderr_reaction>log</stderr_reaction>
        <lifetime>0</lifetime>
    </function>
</functions>
"""
