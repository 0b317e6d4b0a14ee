"""What an alert is, and how it is posted to a webhook: as JSON, with retries, without secrets. It finds no alerts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Literal

import tenacity

from laion_assets.redact import redact_text

TRIES = 5
TIMEOUT_SECONDS = 5.0
SECONDS_A_POST = 20.0

Kind = Literal["run", "check", "freshness", "digest"]


@dataclass(frozen=True)
class Alert:
    """The JSON body of a post, as docs/settings.md describes it.

    The subject (`kind`, `name`, `shard`), its `state`, the `severity` of a failure, the `run_id` with its `link` in
    Dagster's UI (LAION_DAGSTER_URL), the `owner`, the `reason`, and the time (`at`, ISO 8601, UTC). `text` says the
    same in one line; Slack, Mattermost and Teams show this field.
    """

    kind: Kind
    name: str
    state: Literal["failed", "recovered"]
    severity: Literal["ERROR", "WARN", ""]
    shard: str
    run_id: str
    link: str
    owner: str
    reason: str
    at: str
    text: str


REFUSES_BODY = (400, 413, 415, 422)
"""Answers that are about one body: the same body would get them again, another may not. Other answers such as 401, 403,
404 and 410 are about the URL, and so about every body."""


class WebhookError(Exception):
    """The webhook did not accept a post. The message has no part of the URL, which may be a secret."""

    def __init__(self, said: str, *, worth_retrying: bool, refuses_body: bool = False) -> None:
        super().__init__(said)
        self.worth_retrying, self.refuses_body = worth_retrying, refuses_body


def alert(
    kind: Kind,
    name: str,
    *,
    shard: str,
    run_id: str,
    reason: str,
    timestamp: float,
    severity: Literal["ERROR", "WARN", ""] = "ERROR",
    dagster_url: str | None,
    owners: Sequence[str],
) -> Alert:
    """An alert. Passwords in URLs of the reason are removed. An alert without a severity reports a recovery."""
    became: Literal["failed", "recovered"] = "failed" if severity else "recovered"
    said = redact_text(reason)[:1000]
    at = datetime.fromtimestamp(timestamp, timezone.utc).isoformat(timespec="seconds")
    where = f" of shard {shard}" if shard else ""
    warned = " (a warning)" if severity == "WARN" else ""
    link = f"{dagster_url}/runs/{run_id}" if dagster_url and run_id else dagster_url or ""
    text = f"{kind} {name}{where} {became}{warned}: {said}" + (f" {link}" if link else "")
    return Alert(kind, name, became, severity, shard, run_id, link, ", ".join(owners), said, at, text)


def post(url: str, body: Alert) -> None:
    """Posts an alert; tries again on errors of the network and of the server (5xx, 429).

    Raises `WebhookError` if all tries failed.
    """
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, WebhookError) and error.worth_retrying),
        stop=tenacity.stop_after_attempt(TRIES) | tenacity.stop_after_delay(SECONDS_A_POST),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=5.0),
        reraise=True,
    )
    attempts(_post_once, url, body)


def _post_once(url: str, body: Alert) -> None:
    # Imported here: it takes a quarter of the code location's import time, and only an alert needs it.
    import httpx

    try:
        status = httpx.post(url, json=asdict(body), timeout=TIMEOUT_SECONDS).status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        again = isinstance(error, httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol)
        raise WebhookError(f"the webhook could not be reached: {type(error).__name__}", worth_retrying=again) from None
    if not 200 <= status < 300:
        raise WebhookError(
            f"the webhook answered {status}",
            worth_retrying=status >= 500 or status == 429,
            refuses_body=status in REFUSES_BODY,
        )
