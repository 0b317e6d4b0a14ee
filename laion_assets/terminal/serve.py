"""`laion-assets serve`: the search service in this process, until it is interrupted."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from laion_assets.errors import SettingsError
from laion_assets.settings import Settings
from laion_assets.terminal.more_indexes import indexes_of

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

OPEN_FILES = 65_536


def serve_indexes(settings: Settings, more: Sequence[Path], host: str, port: int, console: Console) -> None:
    """Serves the settings' dataset, and those of further files of settings (`indexes_of`).

    Raises `SettingsError` for an index that cannot be served, and for an address on which it cannot listen.
    """
    # Imported late: uvicorn and starlette take 0.2 s, and no other command needs them.
    import uvicorn

    from laion_assets.service.app import SearchService
    from laion_assets.service.limits import Limits
    from laion_assets.service.served import ServedIndex

    limits = Limits.of(settings)
    named = indexes_of(settings, more)
    service = SearchService(
        {name: ServedIndex(name, each, limits.idle_seconds) for name, each in named.items()}, limits
    )
    _allow_many_connections()
    listener = _listener(host, port)
    shown = f"[{host}]" if ":" in host else host
    console.print(f"http://{shown}:{listener.getsockname()[1]} serves {', '.join(named)}; Ctrl-C ends it", markup=False)
    uvicorn.Server(server_config(service.app())).run(sockets=[listener])


def server_config(app: ASGIApp) -> uvicorn.Config:
    """uvicorn's configuration for the application."""
    import uvicorn

    from laion_assets.service.connection import Connection

    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        log_level="error",  # a stranger may send what is no HTTP as often as he likes
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
        server_header=False,
    )


def _allow_many_connections() -> None:
    """Raises the limit of open files to this user's maximum: many systems begin with 1,024, too few for connections."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _listener(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise SettingsError(
            f"address {host}:{port}",
            found=error.strerror or str(error),
            expected="an address of this machine and a free port",
            advice="choose another with --host and --port",
        ) from error
