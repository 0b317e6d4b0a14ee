"""Starts a separate PostgreSQL cluster for a test, on a free port of this machine, with a password."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

USER = "dagster"


def program(name: str) -> Path | None:
    """The path of a PostgreSQL program. Debian does not put the server's programs in the PATH."""
    found = shutil.which(name)
    places = [Path(found)] if found else sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return places[-1] if places else None


needs_postgres = pytest.mark.skipif(
    program("initdb") is None or program("pg_ctl") is None, reason="PostgreSQL is not installed (apt: postgresql)"
)


@contextlib.contextmanager
def private_cluster() -> Iterator[dict[str, str]]:
    """Runs a new cluster during the block, and yields the variables in which deploy/dagster.yaml expects its address.

    PostgreSQL refuses to run as root. If the caller is root, it runs as `nobody`.
    """
    folder = Path(tempfile.mkdtemp(prefix="laion-postgres-"))
    password, port = secrets.token_urlsafe(), free_port()
    (folder / "password").write_text(password)
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        for path in (folder, folder / "password"):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
    try:
        _run("initdb", "-D", "data", "-U", USER, "--pwfile=password", "--auth=scram-sha-256", "--no-sync", cwd=folder)
        options = f"-h 127.0.0.1 -p {port} -c unix_socket_directories='' -c fsync=off"
        _run("pg_ctl", "-D", "data", "-l", "log", "-w", "-o", options, "start", cwd=folder)
        try:
            yield {
                "DAGSTER_PG_HOST": "127.0.0.1",
                "DAGSTER_PG_PORT": str(port),
                "DAGSTER_PG_USERNAME": USER,
                "DAGSTER_PG_PASSWORD": password,
                "DAGSTER_PG_DATABASE": "postgres",
            }
        finally:
            _run("pg_ctl", "-D", "data", "-m", "immediate", "stop", cwd=folder)
    finally:
        shutil.rmtree(folder)


def _run(name: str, *arguments: str, cwd: Path) -> None:
    user = "nobody" if os.geteuid() == 0 else None
    # A file, not a pipe: the server inherits it and keeps it open, so a pipe would never end.
    with (cwd / "errors").open("w+") as errors:
        ended = subprocess.run(
            [str(program(name)), *arguments],
            cwd=cwd,
            user=user,
            group=None if user is None else pwd.getpwnam(user).pw_gid,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            check=False,
        )
        errors.seek(0)
        assert ended.returncode == 0, errors.read()


def free_port() -> int:
    """A port on which no process listens now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
