"""Serves folders over HTTP, each with a separate server, until its input is closed. The servers make no errors."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from laion_assets_tests.source.misbehaving_server import MisbehavingServer

BYTES_A_SECOND = 4_000_000
"""At this speed a shard's files take a tenth of a second, so that a kill can happen during the transfer."""


def main() -> None:
    """`python -m laion_assets_tests.torture.serve FOLDER …` prints one URL a line, then waits."""
    for folder in map(Path, sys.argv[1:]):
        server = MisbehavingServer({path.name: path.read_bytes() for path in folder.glob("*/*.*")})
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sys.stdout.write(server.base(f"dribble={BYTES_A_SECOND}") + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
