"""Opens a ClickHouse server over HTTP: TLS, time limits, and checks that it can do the work. It runs no DDL."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError
from clickhouse_connect.driver.httpclient import HttpClient
from clickhouse_connect.driver.httputil import check_env_proxy, get_pool_manager
from urllib3 import PoolManager, Retry, Timeout

from laion_assets.errors import ServerRefusedError, ServerUnreachableError
from laion_assets.redact import redact
from laion_assets.settings import Settings
from laion_assets.table.failures import typed_errors
from laion_assets.table.statement_settings import OVERFLOW_MODES, send_with_each_statement
from laion_assets.tls import trusting_context
from laion_assets.waiting import waiting

MINIMUM_VERSION = (25, 8)
"""Vector search became generally available in 25.8 (ClickHouse's pull request 85888). The newest settings that we use
came with it: vector_search_with_rescoring, vector_search_index_fetch_multiplier and
input_format_parquet_memory_high_watermark (`system.settings_changes` of 26.9). The version that was run is 26.9."""

NEEDED_SETTINGS = (
    *OVERFLOW_MODES,
    *("alter_sync", "mutations_sync", "readonly", "use_skip_indexes", "max_execution_time", "max_query_size"),
    "http_max_tries",
    *("materialize_skip_indexes_on_insert", "input_format_parquet_preserve_order"),
    *("input_format_parquet_memory_high_watermark", "max_threads", "max_insert_threads", "max_block_size"),
    *("max_insert_block_size", "min_insert_block_size_rows", "min_insert_block_size_bytes"),
    *("hnsw_candidate_list_size_for_search", "max_limit_for_vector_search_queries"),
    *("vector_search_with_rescoring", "vector_search_index_fetch_multiplier"),
    *("query_plan_optimize_lazy_materialization", "use_query_cache"),
)
"""Settings that our statements use, except for those of hnsw_tuning's stored forms, which it reports if refused."""

ANSWER_SECONDS = 15.0
"""How much longer we wait for an answer than the server may work on a statement, so that its error comes first."""


@dataclass(frozen=True)
class Address:
    """A server by its URL. `shown` has neither user nor password."""

    scheme: str
    host: str
    port: int
    user: str
    password: str
    database: str

    @classmethod
    def of(cls, url: str) -> Address:
        """Parses LAION_CLICKHOUSE, which the settings have checked."""
        parts = urlsplit(url)
        return cls(
            parts.scheme,
            parts.hostname or "localhost",
            parts.port or (8443 if parts.scheme == "https" else 8123),
            unquote(parts.username or "default"),
            unquote(parts.password or ""),
            unquote(parts.path.strip("/")) or "default",
        )

    @property
    def shown(self) -> str:
        """The address in errors."""
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def subject(self) -> str:
        """The subject of errors."""
        return f"ClickHouse at {self.shown}"


WAKE_SECONDS = 90.0
"""A paused service answers its first request only when it has started again (clickhouse-go's issue 890)."""


def open_server(settings: Settings) -> Client:
    """A client of the server that LAION_CLICKHOUSE names; close it with `close_server`.

    Raises `ServerUnreachableError` if it does not answer, `ServerRefusedError` if it refuses the user, is older than
    `MINIMUM_VERSION` or lacks a setting, `SettingsError` if LAION_CLICKHOUSE_CA_FILE holds no certificates.
    """
    address = Address.of(settings.clickhouse_url.get_secret_value())
    pool = _pool(address, settings)
    try:
        _require_version(pool, address, settings)
        with typed_errors(address.subject, address.password):
            client = clickhouse_connect.get_client(
                host=address.host,
                port=address.port,
                username=address.user,
                password=address.password,
                secure=address.scheme == "https",
                pool_mgr=pool,
                compress=False if settings.compression == "none" else settings.compression,
                connect_timeout=max(1, round(settings.clickhouse_connect_seconds)),
                send_receive_timeout=round(settings.clickhouse_search_seconds + ANSWER_SECONDS),
                # With a session, the monitor's query during a mutation would be refused.
                autogenerate_session_id=False,
                # A profile may turn the cache on, but checks must see the present rows.
                settings={"use_query_cache": 0},
            )
        _require_settings(client, address)
        _require_changeable_settings(client, address)
        send_with_each_statement(client, address.subject, address.user)
    except BaseException:
        pool.clear()
        raise
    return client


def _pool(address: Address, settings: Settings) -> PoolManager:
    """Connections that are kept alive and verify certificates, through the environment's proxy, if any."""
    proxy = check_env_proxy(address.scheme, address.host, address.port)
    named = getproxies().get(address.scheme, "")
    if proxy and not re.match(r"(https?://|(?![a-z0-9+.-]*://))", named):
        raise ServerRefusedError(
            f"proxy {redact(named)} of the environment",
            found="a proxy of another kind",
            expected="http://host:port or https://host:port",
            advice=f"set http_proxy and https_proxy to such a one, or add {address.host} to NO_PROXY",
        )
    if address.scheme == "http":
        pool: PoolManager = get_pool_manager(http_proxy=proxy)
    else:
        trusting = trusting_context(settings.clickhouse_ca_file, "LAION_CLICKHOUSE_CA_FILE")
        pool = get_pool_manager(https_proxy=proxy, ssl_context=trusting)
    return pool


def close_server(client: Client) -> None:
    """Closes the connections: the pool is ours, and the client does not close it."""
    client.close()
    if isinstance(client, HttpClient):
        client.close_connections()


def limit_answers(client: Client, settings: Settings, seconds: float) -> None:
    """From now on an answer may take `seconds`, and `ANSWER_SECONDS` more."""
    if isinstance(client, HttpClient):
        client.timeout = Timeout(connect=settings.clickhouse_connect_seconds, read=seconds + ANSWER_SECONDS)


def limit_every_wait(client: Client, seconds: float) -> None:
    """From now on no answer may take longer than `seconds`."""
    if isinstance(client, HttpClient):
        client.timeout = Timeout(connect=seconds, read=seconds)


def _require_version(pool: PoolManager, address: Address, settings: Settings) -> None:
    """Asks for the version alone: on an old server the client's own first queries fail with an error about a column."""
    seconds = settings.clickhouse_connect_seconds
    longest = max(seconds, ANSWER_SECONDS, min(WAKE_SECONDS, settings.clickhouse_search_seconds))
    credentials = base64.b64encode(f"{address.user}:{address.password}".encode()).decode()
    with waiting(f"an answer of {address.subject}", longest), typed_errors(address.subject, address.password):
        answer = pool.request(
            "GET",
            f"{address.shown}/?query=SELECT%20version()",
            headers={"Authorization": f"Basic {credentials}"},
            timeout=Timeout(connect=seconds, read=longest),
            retries=Retry(1, read=0),
            redirect=False,
        )
        text = answer.data[:2_000].decode("utf-8", "replace")
        code = answer.headers.get("X-ClickHouse-Exception-Code") or _code(text)
        if code:
            raise DatabaseError(text, code=int(code))
    version = re.match(r"(\d+)\.(\d+)\.", text)
    if answer.status != 200 or version is None:
        said = " ".join(re.sub(r"<[^>]*>", " ", text).split())[:100]
        found = f"HTTP status {answer.status} and {said!r}"
        kind = ServerUnreachableError if answer.status in (429, 502, 503, 504) else ServerRefusedError
        raise kind(address.subject, found=found, expected="ClickHouse's HTTP interface, usually on port 8123 or 8443")
    if (int(version[1]), int(version[2])) < MINIMUM_VERSION:
        raise ServerRefusedError(
            address.subject,
            found=f"ClickHouse {text.strip()}",
            expected=f"{MINIMUM_VERSION[0]}.{MINIMUM_VERSION[1]} or newer",
            advice="upgrade the server, or leave LAION_CLICKHOUSE unset for the embedded engine",
        )


def _code(text: str) -> str:
    """The error's number in the text: old servers have no header with it."""
    found = re.match(r"Code: (\d+)", text)
    return found[1] if found else ""


def _require_settings(client: Client, address: Address) -> None:
    missing = [name for name in NEEDED_SETTINGS if name not in client.server_settings]
    if missing:
        raise ServerRefusedError(
            address.subject,
            found=f"ClickHouse {client.server_version} without the settings {', '.join(missing)}",
            expected="a server that has them",
            advice="if it has them, the user's profile sets limit or offset, which cut every answer: remove these",
        )


def _require_changeable_settings(client: Client, address: Address) -> None:
    """Refuses a user whose profile allows no setting: each of our statements sets at least its time limit."""
    readonly = client.server_settings.get("readonly")
    if readonly is not None and str(readonly.value) == "1":
        raise ServerRefusedError(
            address.subject,
            found=f"user {address.user} with readonly = 1, which does not allow settings in a statement",
            expected="readonly = 2 for a user who only searches, readonly = 0 for a user who loads",
            advice="`laion-assets grants` prints what the user needs",
        )
