"""Turns the errors of a disk into `StoreError`, with advice. It writes no file."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from laion_assets.errors import StoreError

OTHER_FOLDER = "allow this user to write there, or set LAION_DATA_DIR to a folder that can be written"
OTHER_DISK = "free some space, or set LAION_DATA_DIR to a larger disk"

ADVICE = {
    errno.ENOSPC: OTHER_DISK,
    errno.EDQUOT: f"the user's quota is used up: {OTHER_DISK}",
    errno.EFBIG: "a limit of the process (ulimit -f) or of the file system forbids files of this size",
    errno.EROFS: OTHER_FOLDER,
    errno.EACCES: OTHER_FOLDER,
    errno.EPERM: OTHER_FOLDER,
}


@contextmanager
def store_errors(subject: str) -> Iterator[None]:
    """Turns an `OSError` of the block into a `StoreError` about `subject`; only the disk may raise one in the block."""
    try:
        yield
    except OSError as error:
        found = error.strerror or str(error)
        place = f" ({error.filename})" if error.filename else ""
        raise StoreError(
            subject,
            found=f"{found}{place}",
            expected="a folder that takes the file",
            advice=ADVICE.get(error.errno or 0, "check that the disk works and that LAION_DATA_DIR can be written"),
        ) from error
