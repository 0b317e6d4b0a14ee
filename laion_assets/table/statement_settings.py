"""Settings that are sent with each statement to a server, whatever the user's profile says. It sends no statement."""

from __future__ import annotations

from collections.abc import Mapping

from clickhouse_connect.driver.client import Client

from laion_assets.errors import ServerRefusedError

OVERFLOW_MODES = (
    *("timeout_overflow_mode", "timeout_overflow_mode_leaf", "read_overflow_mode", "read_overflow_mode_leaf"),
    *("result_overflow_mode", "sort_overflow_mode", "group_by_overflow_mode", "distinct_overflow_mode"),
    *("set_overflow_mode", "join_overflow_mode", "transfer_overflow_mode"),
)
"""What the server does when a statement reaches a limit of time, rows or bytes; these are all that 26.9 has. With
'break' the server ends the statement and returns what it has so far, without an error."""

CUTS, CHANGES = "cuts answers", "changes answers"

DECIDING: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(OVERFLOW_MODES, ("throw", CUTS)),
    # Rows of a cluster's shard that does not answer would be left out. Statements that look for the nodes that answer
    # set it themselves.
    "skip_unavailable_shards": ("0", CUTS),
    "limit": ("0", CUTS),
    "offset": ("0", CUTS),
    # Each shard of a cluster would give its own count.
    "distributed_group_by_no_merge": ("0", CHANGES),
    # sum() over no row is 0, and an aggregation over no row is one row.
    "aggregate_functions_null_for_empty": ("0", CHANGES),
    "empty_result_for_aggregation_by_empty_set": ("0", CHANGES),
    "group_by_use_nulls": ("0", CHANGES),
    "join_use_nulls": ("0", CHANGES),
    "transform_null_in": ("0", CHANGES),
    "data_type_default_nullable": ("0", CHANGES),
}
"""Settings that decide what a statement returns: the value that each must have, and what another value does."""

WANTED: Mapping[str, str] = {
    # An insert is over when its rows are in a part. 26.9 has async_insert = 1 by default, and with
    # wait_for_async_insert = 0 a small insert would end before.
    "async_insert": "0",
    # 50 GB is the default, and a partition of cells, or a shard of 10 million rows of 768 numbers twice, is larger.
    # What we drop or replace are our own staging tables, partitions that were loaded again, and old cells.
    "max_partition_size_to_drop": "0",
    "max_table_size_to_drop": "0",
}
"""Settings that our statements need in some installations. If a profile fixes another value, it is left."""


def send_with_each_statement(client: Client, subject: str, user: str) -> None:
    """Makes the client send these settings. Raises `ServerRefusedError` if the user's profile fixes a value of a
    setting that decides what a statement returns."""
    for name, (value, does) in DECIDING.items():
        setting = client.server_settings.get(name)
        if setting is None:
            continue
        if not setting.readonly:
            client.set_client_setting(name, value)
        elif setting.value != value:
            raise ServerRefusedError(
                subject,
                found=f"user {user} with {name} = {setting.value}, which {does}, and may not change it",
                expected=f"{name} = {value}",
                advice=f"ALTER USER … SETTINGS {name} = '{value}', or remove its constraint",
            )
    for name, value in WANTED.items():
        setting = client.server_settings.get(name)
        if setting is not None and not setting.readonly:
            client.set_client_setting(name, value)
