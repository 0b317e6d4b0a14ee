"""Tests how a process is told from another: one that this user may not see is not taken for one that has ended."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from laion_assets.machine import HOSTS_NAMESPACE, ProcessIdentity
from laion_assets_tests.conftest import REPOSITORY

NOBODY = "65534"
PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from laion_assets.machine import ProcessIdentity, is_gone
for identity, mark in (sys.argv[2:4], sys.argv[4:6]):
    print(ProcessIdentity.parse(identity).is_gone(), is_gone(mark))
"""
OTHER = """
import sys
sys.path.insert(0, sys.argv[1])
from laion_assets.machine import ProcessIdentity, process_mark
print(ProcessIdentity.here(), process_mark(), flush=True)
sys.stdin.read()
"""


def names_of(process: subprocess.Popen[str]) -> list[str]:
    """The identity and the mark that a process has printed."""
    assert process.stdout is not None
    return process.stdout.readline().split()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount /proc")
@pytest.mark.parametrize("hide", ["1", "2"])
def test_another_users_process_that_proc_hides_is_not_gone(hide: str) -> None:
    start = [sys.executable, "-S", "-c", OTHER, str(REPOSITORY)]
    with (
        subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as living,
        subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as ended,
    ):
        names = [*names_of(living), *names_of(ended)]
        ended.kill()
        ended.wait()
        hidden = f'mount -t proc -o hidepid={hide} proc /proc && exec setpriv --reuid={NOBODY} --regid={NOBODY} "$@"'
        look = ["--clear-groups", sys.executable, "-S", "-c", PROGRAM, str(REPOSITORY), *names]
        command = ["unshare", "-m", "sh", "-c", hidden, "sh", *look]
        said = subprocess.run(command, check=False, capture_output=True, text=True)
        living.kill()
    if "mount" in said.stderr:
        pytest.skip(f"/proc cannot be mounted here: {said.stderr.strip()}")
    assert said.stdout.splitlines() == ["False False", "True True"], said.stderr


def test_a_number_that_no_process_can_have_is_of_none() -> None:
    assert replace(ProcessIdentity.here(), process=2**40).is_gone()


def test_a_boot_that_could_not_be_read_is_not_an_earlier_one() -> None:
    here = replace(ProcessIdentity.here(), namespace=HOSTS_NAMESPACE)
    assert not replace(here, boot="").is_gone()
