"""A web server's directory: by its index pages, or by trying known names if it has none. Files are read by ranges."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import IO

from laion_assets.errors import PermanentSourceError, SourceError
from laion_assets.redact import redact
from laion_assets.settings import load_settings
from laion_assets.shard_numbers import MAX_SHARDS
from laion_assets.source.client import SourceClient
from laion_assets.source.credentials import Credentials
from laion_assets.source.fetch_limits import FetchLimits
from laion_assets.source.index_page import has_file, listed_names, whole_body
from laion_assets.source.places import file_url

DEPTH = 3
MOST_PAGES = 100
SECONDS = 120.0

KNOWN_NAMES = (
    ("img_emb/img_emb_{}.npy", "text_emb/text_emb_{}.npy", "metadata/metadata_{}.parquet"),
    ("images/img_emb_{}.npy", "texts/text_emb_{}.npy", "metadata/metadata_{}.parquet"),
    ("img_emb_{}.npy", "text_emb_{}.npy", "metadata_{}.parquet"),
)
"""Names to try on a server that lists nothing: clip-retrieval's, those of a LAION-400M host, all in one folder."""

NO_NAME = "laion-assets-asks-for-a-name-that-no-file-has.npy"
"""Asked for first: a server that has this file answers to every name."""

WHOLE_BYTES = 256 << 20
"""On a server without ranges, a file of up to this size is read whole."""


class WebPlace:
    """A directory of a web server. `listed` says whether it has an index page; else its files were found by trying."""

    def __init__(self, url: str) -> None:
        self.url = url.partition("#")[0]
        self.listed = True
        settings = load_settings(dataset_name="sample", source=(url,), extra_columns=())
        self._client = SourceClient(
            FetchLimits.of(settings), settings.http_ca_file, credentials=Credentials.of(settings)
        )

    def files(self) -> list[str]:
        """Paths of the files below it. Raises `SourceError`."""
        found: set[str] = set()
        pages = [""]
        seen: set[str] = set()
        while pages and len(seen) < MOST_PAGES:
            page = pages.pop(0)
            seen.add(page)
            for link in self._links(page):
                inner = f"{page}{link}"
                if not link.endswith("/"):
                    found.add(inner)
                elif inner.count("/") <= DEPTH and inner not in seen:
                    pages.append(inner)
        if not found:
            self.listed = False
            found = set(self._asked())
        return sorted(found)

    def open(self, path: str) -> IO[bytes]:
        """Opens one file; each read is a request for a range. Raises `SourceError`."""
        url = file_url(self.url, "", path)
        return io.BufferedReader(RangedFile(url, self._client), buffer_size=1 << 16)

    def _links(self, page: str) -> list[str]:
        """The links of a directory's index page to files and folders directly below it; empty if there is no page."""
        return listed_names(self._client, file_url(self.url, "", page) if page else self.url, "describe", SECONDS)

    def _asked(self) -> list[str]:
        """Files with known names, found one by one: first the first shard, then the last number."""
        subject = f"describe {redact(self.url)}"
        if self._exists(NO_NAME):
            raise PermanentSourceError(
                subject,
                found="a server that has no index page, and answers to every name as if the file existed",
                expected="status 404 for a file that does not exist",
                advice="write the TOML file by hand (docs/datasets.md)",
            )
        for names in KNOWN_NAMES:
            for digits in range(1, 7):
                for first in (0, 1):
                    if not self._exists(names[0].format(f"{first:0{digits}d}")):
                        continue

                    def there(number: int, name: str = names[0], width: int = digits) -> bool:
                        return self._exists(name.format(f"{number:0{width}d}"))

                    last = _last(there, first)
                    if last is None:
                        raise PermanentSourceError(
                            subject,
                            found=f"more files like {names[0].format(f'{first:0{digits}d}')} than {MAX_SHARDS:,}",
                            expected=f"at most {MAX_SHARDS:,} shards",
                            advice="write the TOML file by hand (docs/datasets.md)",
                        )
                    numbers = [f"{number:0{digits}d}" for number in range(first, last + 1)]
                    kinds = [name for name in names if self._exists(name.format(numbers[0]))]
                    return [name.format(number) for name in kinds for number in numbers]
        raise PermanentSourceError(
            subject,
            found="no index page, and none of the known names",
            expected="a directory that lists its files, or img_emb/img_emb_0.npy and the like in it",
            advice="name the folder that has them, or write the TOML file by hand (docs/datasets.md)",
        )

    def _exists(self, path: str) -> bool:
        return has_file(self._client, file_url(self.url, "", path), "describe", SECONDS)


class RangedFile(io.RawIOBase):
    """A file over HTTP as a Python file object: each read is a request for a range. Raises `SourceError`."""

    def __init__(self, url: str, client: SourceClient) -> None:
        self._url = url
        self._client = client
        self._place = 0
        self._whole: bytes | None = None
        with client.open("GET", url, {"Range": "bytes=0-0"}, "describe", seconds_left=SECONDS) as response:
            total = response.headers.get("Content-Range", "").rpartition("/")[2]
            if response.status == 206 and total.isdecimal():
                self.size = int(total)
            elif response.status == 200:
                self._whole = whole_body(response, url, "describe", WHOLE_BYTES, SECONDS)
                self.size = len(self._whole)
            else:
                raise SourceError(redact(url), found=f"HTTP status {response.status}", expected="the file")

    def readable(self) -> bool:
        """True: the file can be read."""
        return True

    def seekable(self) -> bool:
        """True: the file can be read from any position."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a position, as `io.RawIOBase.seek` does."""
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.size}[whence]
        return self._place

    def tell(self) -> int:
        """The position."""
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # io's stub names a private protocol
        """Fills the buffer from the position on; returns the number of bytes read."""
        end = min(self._place + len(buffer), self.size)
        if end <= self._place:
            return 0
        data = self._range(self._place, end)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def _range(self, start: int, end: int) -> bytes:
        if self._whole is not None:
            return self._whole[start:end]
        wanted = {"Range": f"bytes={start}-{end - 1}"}
        with self._client.open("GET", self._url, wanted, "describe", seconds_left=SECONDS) as response:
            if response.status != 206:
                raise SourceError(redact(self._url), found=f"HTTP status {response.status} to a range", expected="206")
            return whole_body(response, self._url, "describe", end - start, SECONDS)


def _last(there: Callable[[int], bool], first: int) -> int | None:
    """The last number of a sequence without holes that begins at `first`: steps are doubled, then halved.

    None if the sequence has more than `MAX_SHARDS` numbers.
    """
    step = 1
    while there(first + step):
        if step >= MAX_SHARDS:
            return None
        step *= 2
    low, high = first + step // 2, first + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if there(middle) else (low, middle)
    return low
