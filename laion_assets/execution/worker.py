"""Which process executes a run, and whether it is gone: a tag of the run, and a lock that ends with the process.

The tag identifies the process on its host. A container has process numbers of its own, which nobody outside can look
up. So each process that executes runs also locks a file in the instance's folder, which the containers of a deployment
share. The kernel releases the lock when the process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
from dataclasses import dataclass
from multiprocessing.util import Finalize
from pathlib import Path

import dagster as dg

from laion_assets.machine import ProcessIdentity

WORKER_TAG = "laion_assets/worker"
"""Tag of runs that our executor executes: a `Signature`."""

FOLDER = "storage/workers"
"""The folder of the locks, in the folder of the instance's local artifacts (`local_artifact_storage`)."""

OF_ONE_KERNEL = ("ext3", "ext4", "f2fs", "xfs", "zfs")
"""File systems that one kernel at a time mounts. If another boot than this one has locked a file there, that boot is
over. Of a network's file system another host may hold the lock."""

NO_LOCK = 0
"""In place of an inode."""

_signed: set[str] = set()
"""The runs that `sign_for_executor` has seen in this process."""

_held: dict[Path, tuple[int, str]] = {}
"""The locks of this process: the inode of each file, and its file system."""


@dataclass(frozen=True)
class Signature:
    """The process that executes a run, and its lock.

    The run's id is in it because a run that is executed again has the tags of the run before it. The inode is in it
    because a copy of the file has no lock.
    """

    run_id: str
    process: ProcessIdentity
    inode: int
    filesystem: str

    def __str__(self) -> str:
        return f"{self.run_id} {self.process} {self.inode} {self.filesystem}"

    @classmethod
    def of(cls, run: dg.DagsterRun) -> Signature | None:
        """The signature of a run; None if no process of ours has begun to execute it."""
        words = run.tags.get(WORKER_TAG, "").split(" ")
        process = ProcessIdentity.parse(words[1]) if len(words) == 4 and words[0] == run.run_id else None
        if process is None or not words[2].isdecimal():
            return None
        return cls(run.run_id, process, int(words[2]), words[3])


def sign(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Records that this process executes the run. The lock is held until this process ends, since the run's end is
    recorded after its last step."""
    if instance.is_ephemeral:
        return
    process = ProcessIdentity.here()
    inode, filesystem = NO_LOCK, "-"
    with contextlib.suppress(OSError):  # no lock: a full disk, or a file system without locks
        inode, filesystem = _lock(lock_path(instance.root_directory, process))
    instance.add_run_tags(run.run_id, {WORKER_TAG: str(Signature(run.run_id, process, inode, filesystem))})


def sign_for_executor(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Does the same in a step under one of Dagster's own executors: the process that executes the run is this one, or
    the one that started this one for the step. Of executors that start steps elsewhere nothing is recorded."""
    if instance.is_ephemeral or run.run_id in _signed:
        return
    _signed.add(run.run_id)
    executor = _executor(instance, run.run_id)
    if executor == os.getpid():
        sign(instance, run)
    elif executor == os.getppid() and Signature.of(run) is None:
        signature = Signature(run.run_id, ProcessIdentity.of(executor), NO_LOCK, "-")
        instance.add_run_tags(run.run_id, {WORKER_TAG: str(signature)})


def _executor(instance: dg.DagsterInstance, run_id: str) -> int | None:
    """The number of the process in which Dagster's in-process or multiprocess executor says that it executes a run."""
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        told = re.match(
            r"Executing steps (?:in process|using multiprocess executor: parent process) \(pid: (\d+)\)", entry.message
        )
        if told is not None:
            return int(told[1])
    return None


def worker_is_gone(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether the process that executed the run is known to have ended. Nothing is known of runs without a signature,
    and of other hosts."""
    signature = Signature.of(run)
    return signature is not None and (
        signature.process.is_gone() or _lock_has_ended(lock_path(instance.root_directory, signature.process), signature)
    )


def remove_locks() -> None:
    """Removes the files of this process's locks. The locks are held until the process ends."""
    for path in list(_held):
        path.unlink(missing_ok=True)


def lock_path(home: str | Path, process: ProcessIdentity) -> Path:
    """The file that a process locks, in the folder of the instance's local artifacts."""
    return Path(home) / FOLDER / hashlib.blake2b(str(process).encode(), digest_size=8).hexdigest()


def _lock(path: Path) -> tuple[int, str]:
    """Locks the file for as long as this process lives; returns its inode and its file system. Raises `OSError`."""
    if path not in _held:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        _held[path] = (os.fstat(descriptor).st_ino, _filesystem(descriptor))
        # Processes that a code server starts for runs call no atexit functions.
        Finalize(None, path.unlink, kwargs={"missing_ok": True}, exitpriority=0)
    return _held[path]


def _lock_has_ended(path: Path, signature: Signature) -> bool:
    """Whether the file is the one that the process locked, and the kernel has released its lock."""
    boot, here = signature.process.boot, ProcessIdentity.here().boot
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        found = _filesystem(descriptor)
        one_kernel = boot == here or (signature.filesystem == found and found in OF_ONE_KERNEL)
        if not (boot and here and one_kernel) or os.fstat(descriptor).st_ino != signature.inode:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _filesystem(descriptor: int) -> str:
    """The kind of the file system that has an open file; "-" if it is not known. Raises `OSError`."""
    device = os.fstat(descriptor).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(FileNotFoundError), Path("/proc/self/mountinfo").open(encoding="utf-8") as mounts:
        for line in mounts:
            before, _, behind = line.partition(" - ")
            if before.split()[2] == wanted:
                return behind.split()[0]
    return "-"
