"""Serves one chDB folder until its standard input ends: `python -m laion_assets_tests.endpoint FOLDER …`."""

from __future__ import annotations

import argparse
import ssl
import sys
import threading
from pathlib import Path

from laion_assets_tests.endpoint.engine import Engine
from laion_assets_tests.endpoint.http import Endpoint


def main() -> None:
    """Serves, and prints the port when ready. It exits when the process that holds its standard input exits."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--user", action="append", default=[], metavar="NAME:PASSWORD")
    parser.add_argument("--user-files", type=Path, required=True)
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of chDB")
    parser.add_argument("--certificate", type=Path, help="PEM with certificate and key: serve https")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    given = parser.parse_args()
    tls = None
    if given.certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(given.certificate)
    options = dict(option.partition("=")[::2] for option in given.option)
    engine = Engine(given.folder, given.user_files, options)
    server = Endpoint(engine, dict(user.partition(":")[::2] for user in given.user), tls, (given.host, given.port))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.stopped.set()
    server.shutdown()


if __name__ == "__main__":
    main()
