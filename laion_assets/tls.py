"""Which certificate authorities are trusted: the system's, certifi's, and those of a file. Opens no connection."""

from __future__ import annotations

import ssl
from pathlib import Path

import certifi

from laion_assets.errors import SettingsError
from laion_assets.text_file import read_text


def trusting_context(ca_file: Path | None, variable: str) -> ssl.SSLContext:
    """A TLS context for clients, which verifies servers. Making it reads all authorities and takes some 40 ms.

    certifi's authorities are included, since small container images have none of their own. Raises `SettingsError`,
    which names `variable`, when `ca_file` holds no certificates.
    """
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    if ca_file is not None:
        add_authorities(context, ca_file, variable)
    return context


def add_authorities(context: ssl.SSLContext, ca_file: Path, variable: str) -> None:
    """Also trusts the authorities of a file. Raises `SettingsError`, which names `variable`, if the file has none."""
    try:
        # Read as text: OpenSSL finds no certificate in a line that starts with a byte order mark.
        context.load_verify_locations(cadata=read_text(ca_file).encode("ascii", "ignore").decode("ascii"))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise SettingsError(
            f"{variable} {ca_file}", found=f"{error}", expected="a file of certificates in PEM form"
        ) from error
