"""Tests of TLS: a fetch stops at each certificate that is not valid, and the error names the reason."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import trustme

from laion_assets.errors import PermanentSourceError, SettingsError
from laion_assets.source.client import SourceClient
from laion_assets_tests.source.fetching import QUICK
from laion_assets_tests.source.misbehaving_server import MisbehavingServer, misbehaving_server
from laion_assets_tests.source.served_shard import CONTENT, FILES, SIZE, OneFile

LONG_AGO = datetime.now(timezone.utc) - timedelta(days=400)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path / "ca.pem"


def context_of(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


@pytest.fixture
def good(authority: trustme.CA) -> Iterator[MisbehavingServer]:
    with misbehaving_server(FILES, context_of(authority.issue_cert("127.0.0.1"))) as server:
        yield server


@pytest.fixture
def expired(authority: trustme.CA) -> Iterator[MisbehavingServer]:
    certificate = authority.issue_cert("127.0.0.1", not_before=LONG_AGO, not_after=LONG_AGO + timedelta(days=90))
    with misbehaving_server(FILES, context_of(certificate)) as server:
        yield server


def test_a_ca_file_adds_an_authority(good: MisbehavingServer, tmp_path: Path, ca_file: Path) -> None:
    fetched = OneFile(tmp_path / "raw", ca_file=ca_file).fetch(good.base("cut=100000"))
    assert fetched.path.read_bytes() == CONTENT
    assert fetched.bytes_fetched == SIZE


def test_an_unknown_authority_is_refused(good: MisbehavingServer, tmp_path: Path) -> None:
    error = OneFile(tmp_path / "raw").failure(good.base())
    assert isinstance(error, PermanentSourceError)
    assert "invalid TLS certificate" in str(error) and "issuer" in str(error) and good.base() in str(error)
    assert good.requests == []


def test_an_expired_certificate_is_refused_and_the_next_mirror_serves(
    expired: MisbehavingServer, good: MisbehavingServer, tmp_path: Path, ca_file: Path
) -> None:
    one = OneFile(tmp_path / "raw", ca_file=ca_file)
    error = one.failure(expired.base())
    assert isinstance(error, PermanentSourceError) and "certificate has expired" in str(error)
    fetched = one.fetch(expired.base(), good.base())
    assert fetched.url.startswith(good.base()) and fetched.tries == 2
    assert "certificate has expired" in one.log[0] and good.base() in one.log[0]


def test_a_certificate_for_another_host_is_refused(authority: trustme.CA, tmp_path: Path, ca_file: Path) -> None:
    with misbehaving_server(FILES, context_of(authority.issue_cert("deploy.example.org"))) as server:
        error = OneFile(tmp_path / "raw", ca_file=ca_file).failure(server.base())
    assert isinstance(error, PermanentSourceError) and "IP address mismatch" in str(error)


def test_a_redirect_from_https_to_http_is_refused(
    good: MisbehavingServer, server: MisbehavingServer, tmp_path: Path, ca_file: Path
) -> None:
    error = OneFile(tmp_path / "raw", ca_file=ca_file).failure(good.base("to=" + server.base().replace("/", "~")))
    assert isinstance(error, PermanentSourceError) and "stays with https" in str(error)
    assert server.requests == []


def test_a_server_without_tls_is_refused(server: MisbehavingServer, tmp_path: Path) -> None:
    error = OneFile(tmp_path / "raw").failure(server.base().replace("http:", "https:"))
    assert isinstance(error, PermanentSourceError) and "no TLS" in str(error)


@pytest.mark.parametrize("text", [None, "", "no certificate"])
def test_a_ca_file_without_certificates_is_said_at_once(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "ca.pem").write_text(text)
    with pytest.raises(SettingsError, match="LAION_HTTP_CA_FILE"):
        SourceClient(QUICK, tmp_path / "ca.pem")
