"""Which source is tried next, when, and when to give up. `http`, `folder` and `object_store` read the sources.

The rules:

- Sources are tried in their order. A source that refuses for good (`PermanentSourceError`: 404, 403, a bad certificate)
  is not tried again, and the next one is tried at once.
- After any other failure the source whose wait ends first is next. Sources that were not tried yet have no wait, and
  keep their order. So sources that all fail are tried in rotation.
- If a part of the file came from a source, that source is tried again after a try that brought new bytes, and after a
  few tries that did not (`FetchLimits.idle_tries`): starting at another source would lose the part. The source is left
  when it is slow or asks for a wait.
- A host that cannot be reached (`UnreachableSourceError`) is the same host for all layouts: during its wait none of its
  sources is tried. All of them are given up after `FetchLimits.unreachable_seconds`, unless the host answered once.
- A source is given up after `FetchLimits.tries` tries, or `FetchLimits.wrong_files` wrong files. New bytes do not reset
  these counts, nor the growth of the waits.
"""

from __future__ import annotations

import random
import re
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, sleep_using_event, stop_before_delay

from laion_assets.errors import PermanentSourceError, SourceError, UnreachableSourceError
from laion_assets.source.failures import BusySourceError, SlowSourceError, WrongFileError, reason
from laion_assets.source.fetch_limits import FetchLimits, Pace
from laion_assets.source.fetch_progress import ShardTransfer
from laion_assets.source.partial import PartialFile
from laion_assets.source.remote_file import RemoteFile
from laion_assets.source.wanted import WantedFile
from laion_assets.waiting import say_wait

Result = TypeVar("Result")

LOST = (PermanentSourceError, UnreachableSourceError)


@dataclass(frozen=True)
class Arrival:
    """How a file came: its URL as shown, its ETag if the source gave one, and whether it was linked to its final name.

    `remote` is what its source said about it, as in an observation; None if no source was asked.
    """

    url: str
    etag: str | None = None
    linked: bool = False
    remote: RemoteFile | None = None


class Source(Protocol):
    """One file at one place."""

    @property
    def url(self) -> str:
        """The URL in a form that may be shown."""

    def fetch(self, partial: PartialFile, pace: Pace) -> Arrival:
        """Completes `partial`, or links the file to its final name. One try; raises `SourceError`, `StoreError`."""

    def observe(self) -> RemoteFile:
        """What the source says about the file. One try; raises `SourceError`."""


@dataclass
class _Candidate:
    source: Source
    tries: int = 0
    idle_tries: int = 0
    wrong_files: int = 0
    due: float = 0.0
    keeps_turn: bool = False
    given_up: bool = False
    error: SourceError | None = None


@dataclass
class _Host:
    """The state that a host's sources share: whether it answered once, since when it is unreachable, how many tries."""

    answered: bool = False
    lost_at: float | None = None
    failures: int = 0


class Mirrors:
    """The sources of one file, and the result of each so far."""

    def __init__(
        self,
        wanted: WantedFile,
        sources: Sequence[Source],
        limits: FetchLimits,
        transfer: ShardTransfer,
        partial: PartialFile | None = None,
    ) -> None:
        self._wanted = wanted
        self._limits = limits
        self._transfer = transfer
        self._partial = partial
        self._candidates = [_Candidate(source) for source in sources]
        self._current = self._failed = self._candidates[0]
        self._hosts: defaultdict[str, _Host] = defaultdict(_Host)

    @property
    def tries(self) -> int:
        """Tries made so far, at all sources together."""
        return sum(candidate.tries for candidate in self._candidates)

    def run(self, action: Callable[[Source], Result]) -> Result:
        """What `action` returns for the first source for which it succeeds.

        Raises `SourceError` if it succeeds for none within the tries and the time, or `PermanentSourceError` if all
        refused for good; both name every URL with its reason.
        """
        retrying = Retrying(
            retry=retry_if_exception_type(SourceError),
            stop=self._is_over,
            wait=self._wait,
            sleep=sleep_using_event(self._transfer.stop),
            before_sleep=self._log_failure,
            retry_error_callback=self._give_up,
        )
        result: Result = retrying(self._try, action)
        return result

    def _try(self, action: Callable[[Source], Result]) -> Result:
        self._transfer.check_stop()
        candidate = self._current
        candidate.tries += 1
        farthest = self._partial.farthest if self._partial else 0
        begun = time.monotonic()
        try:
            return action(candidate.source)
        except SourceError as error:
            gained = self._partial is not None and self._partial.farthest > farthest
            self._note(candidate, error, gained=gained)
            self._note_host(candidate, error, begun)
            raise

    def _note(self, candidate: _Candidate, error: SourceError, *, gained: bool) -> None:
        self._failed = candidate
        candidate.error = error
        candidate.wrong_files += isinstance(error, WrongFileError)
        candidate.given_up = (
            isinstance(error, PermanentSourceError)
            or candidate.tries >= self._limits.tries
            or candidate.wrong_files >= self._limits.wrong_files
        )
        candidate.idle_tries = 0 if gained else candidate.idle_tries + 1
        candidate.keeps_turn = (
            self._holds_part_of(candidate)
            and candidate.idle_tries < self._limits.idle_tries
            and not isinstance(error, (BusySourceError, SlowSourceError, WrongFileError))
        )
        asked = error.wait_seconds if isinstance(error, BusySourceError) else None
        wait = self._backoff(candidate.tries) if asked is None else min(asked, self._limits.retry_after_most_seconds)
        candidate.due = time.monotonic() + wait

    def _note_host(self, candidate: _Candidate, error: SourceError, begun: float) -> None:
        """Makes all sources of an unreachable host wait, or gives them up."""
        name = _host(candidate.source.url)
        host = self._hosts[name]
        if not isinstance(error, UnreachableSourceError):
            host.answered, host.lost_at, host.failures = True, None, 0
            return
        host.failures += 1
        host.lost_at = begun if host.lost_at is None else host.lost_at
        left = host.lost_at + self._limits.unreachable_seconds - time.monotonic()
        wait = self._backoff(host.failures)
        for each in self._candidates:
            if _host(each.source.url) == name and not each.given_up:
                each.given_up = left <= 0 and not host.answered
                each.due = time.monotonic() + (wait if host.answered else min(wait, max(left, 0.0)))

    def _holds_part_of(self, candidate: _Candidate) -> bool:
        origin = self._partial.origin if self._partial else None
        return origin is not None and origin.url == candidate.source.url

    def _backoff(self, tries: int) -> float:
        longest = min(self._limits.backoff_most_seconds, self._limits.backoff_seconds * 2.0 ** min(tries - 1, 60))
        return longest * random.uniform(0.5, 1.0)

    def _living(self) -> list[_Candidate]:
        return [candidate for candidate in self._candidates if not candidate.given_up]

    def _wait(self, _: RetryCallState) -> float:
        """Chooses the next source; returns the seconds until its try."""
        living = self._living()
        if not living:
            return 0.0
        if not (self._current in living and self._current.keeps_turn):
            self._current = min(living, key=lambda candidate: candidate.due)
        return max(0.0, self._current.due - time.monotonic())

    def _log_failure(self, state: RetryCallState) -> None:
        wait = state.next_action.sleep if state.next_action else 0.0
        told = f"{self._wanted.subject}: try {state.attempt_number} failed, {_reason_of(self._failed)}"
        self._transfer.say(f"{told}; next in {wait:.1f} s: {self._current.source.url}")
        say_wait(f"try {state.attempt_number + 1} at {self._current.source.url} ({told})", wait)

    def _is_over(self, state: RetryCallState) -> bool:
        return not self._living() or stop_before_delay(self._limits.file_seconds)(state)

    def _give_up(self, _: RetryCallState) -> NoReturn:
        permanent = all(isinstance(candidate.error, PermanentSourceError) for candidate in self._candidates)
        tried = [
            f"{_reason_of(candidate)} (tries: {candidate.tries})" for candidate in self._candidates if candidate.error
        ]
        over = f" within {self._limits.file_seconds:g} s (LAION_HTTP_FILE_SECONDS)" if self._living() else ""
        advice = [
            candidate.error.advice for candidate in self._candidates if candidate.error and candidate.error.advice
        ]
        advice.append(
            "set LAION_SOURCE to a mirror or a folder that has it"
            if permanent
            else "run it again later, or add a mirror to LAION_SOURCE; what has come is kept and used"
        )
        lost = all(isinstance(each.error, (*LOST, type(None))) for each in self._candidates)
        raise (PermanentSourceError if permanent else UnreachableSourceError if lost else SourceError)(
            self._wanted.subject,
            found=f"no source that gives it{over}: {'; '.join(tried)}",
            advice="; ".join(dict.fromkeys(advice)),
        ) from self._failed.error


def _host(url: str) -> str:
    """Host and port of a URL; the whole text if it is not a URL."""
    return re.split(r"[/?#]", url.partition("://")[2] or url, maxsplit=1)[0]


def _reason_of(candidate: _Candidate) -> str:
    return f"{candidate.source.url}: {reason(candidate.error) if candidate.error else 'not tried'}"
