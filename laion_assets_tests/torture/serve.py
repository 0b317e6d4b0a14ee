"""Serves the files of folders over HTTP, each folder by a server of its own, until it is ended. It misbehaves not."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from laion_assets_tests.source.misbehaving_server import MisbehavingServer

BYTES_A_SECOND = 4_000_000
"""A shard's files then take a tenth of a second, in which a death may fall."""


def main() -> None:
    """`python -m laion_assets_tests.torture.serve FOLDER …` prints a URL a line, then waits."""
    for folder in map(Path, sys.argv[1:]):
        server = MisbehavingServer({path.name: path.read_bytes() for path in folder.glob("*/*.*")})
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sys.stdout.write(server.base(f"dribble={BYTES_A_SECOND}") + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
