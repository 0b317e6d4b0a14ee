"""Tests that a bad terminal, environment, file or Dagster instance ends the command with one line and code 1 or 2."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from laion_assets.cli import main
from laion_assets.cli_options import errors
from laion_assets.terminal.guard import guarded
from laion_assets.terminal.instance import CONFIG_FILE
from laion_assets.text_file import read_text
from laion_assets.waiting import LOG

COMMAND = f"{sys.executable} -m laion_assets.cli"
POSTGRES = """
storage:
  postgres:
    postgres_db: {username: u, password: hunter2-s3cret, hostname: 127.0.0.1, db_name: d, port: 9}
"""


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Runs a line of bash, where `la` is the command."""
    script = f'set -o pipefail; la() {{ {COMMAND} "$@"; }}; {line}'
    given = {**os.environ, "LAION_DATASET": "sample", **environment}
    return subprocess.run(["bash", "-c", script], env=given, capture_output=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("line", "environment", "codes"),
    [
        ("la settings >&-", {}, {0}),
        ("la settings >&- 2>&- <&-", {}, {0}),
        ("la settings > /dev/full", {}, {1, 2}),
        ("la settings --json > /dev/full", {}, {1, 2}),
        ("la settings --dataset absent > /dev/full 2> /dev/full", {}, {2}),
        ("la settings | head -c 10", {}, {0, 1}),
        ("la settings", {"COLUMNS": "0", "TERM": "dumb"}, {0}),
        ("la settings", {"COLUMNS": "²", "LINES": "-1", "TERMINAL_WIDTH": "wide"}, {0}),
        ("la settings | wc -c", {"COLUMNS": "999999999"}, {0}),
        ("la --help", {"COLUMNS": "0", "TERMINAL_WIDTH": "wide"}, {0}),
        ("la settings --dataset '[/red]∞'", {"PYTHONIOENCODING": "ascii"}, {2}),
        ("la settings", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {0}),
        ("la settings", {"HOME": "/nowhere", "TZ": "Nonsense/Zone"}, {0}),
        ("LAION_DATA_DIR=$'/tmp/\\xff' la settings", {}, {0, 2}),
        ("mkdir gone; cd gone; rmdir ../gone; la settings", {}, {2}),
        ("la search --like 5", {"TZ": "Mars/Olympus", "LAION_DATA_DIR": "data"}, {2}),
        ("la search --like 5", {"TZ": "CET-1CEST", "LAION_DATA_DIR": "data"}, {2}),
        ("mkfifo pipe; la search --from pipe", {"LAION_DATA_DIR": "data"}, {2}),
        ("la search --from /dev/zero", {"LAION_DATA_DIR": "data"}, {2}),
        ("mkfifo pipe; la settings --dataset ./pipe", {}, {2}),
        ("la search --limit 1e9", {}, {2}),
        ("la search --no-such-option", {}, {2}),
        ("la no-such-command", {}, {2}),
        ("la clip check more", {}, {2}),
        ("la load", {}, {2}),
    ],
)
def test_no_terminal_and_no_environment_gives_a_traceback(
    line: str, environment: dict[str, str], codes: set[int], tmp_path: Path
) -> None:
    ended = shell(f"cd {tmp_path}; {line}", **environment)
    told = (ended.stdout + ended.stderr).decode("utf-8", "replace")
    assert ended.returncode in codes, told
    assert "Traceback" not in told and "Exception ignored" not in told and "unexpected error" not in told
    if ended.returncode:
        assert len(ended.stderr.splitlines()) <= 1


WITHOUT_RIGHTS = "" if os.geteuid() else "setpriv --bounding-set=-dac_override,-dac_read_search "
"""A prefix that drops these capabilities: with them, root may read and write the files of all users."""


@pytest.mark.skipif(not os.geteuid() and shutil.which("setpriv") is None, reason="root without setpriv(1)")
@pytest.mark.parametrize(
    ("made", "line", "said"),
    [
        ("mkdir -p data/clickhouse; chmod 500 data/clickhouse", "search --like 5", "Permission denied"),
        ("mkdir -p set/img_emb; chmod 000 set/img_emb", "describe set", "found Permission denied"),
        ("echo > d.toml; chmod 000 d.toml", "settings --dataset ./d.toml", "Permission denied"),
        ("mkdir gone; chmod 500 gone", "search --like 5 --html gone/x.html", ""),
        (f"mkdir home; cp {CONFIG_FILE} home/dagster.yaml; chmod 500 home", "status", ""),
    ],
)
def test_files_of_another_user_are_told_in_one_line(made: str, line: str, said: str, tmp_path: Path) -> None:
    command = f"{WITHOUT_RIGHTS}{COMMAND} {line}"
    environment = {"LAION_DATA_DIR": "data", "DAGSTER_HOME": str(tmp_path / "home")}
    ended = shell(f"cd {tmp_path}; {made}; {command}", **environment)
    (told,) = ended.stderr.decode().splitlines()
    assert ended.returncode == 2 and told.startswith("laion-assets: ") and said in told
    assert "unexpected error" not in told and "damaged" not in told


def test_a_pipe_that_the_shell_gave_is_read_as_a_file() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"a red car\r\n")
    os.close(writing)
    assert read_text(Path(f"/dev/fd/{reading}")) == "a red car\n"
    os.close(reading)


UNSET = """storage:
  postgres:
    postgres_db: {username: {env: NOBODY_SET_IT}, password: {env: NOR_THIS}, hostname: 127.0.0.1, db_name: d, port: 9}
"""


@pytest.fixture
def _waits_as_before() -> Iterator[None]:
    before = LOG.handlers, LOG.propagate
    yield
    LOG.handlers, LOG.propagate = before


@pytest.mark.usefixtures("_waits_as_before")
@pytest.mark.parametrize(
    ("config", "said"),
    [
        (UNSET, "found no value of NOBODY_SET_IT, NOR_THIS in the environment"),
        (
            "storage: {postgres: {postgres_db: {username: u}}}\n",
            "Missing required config entries ['db_name', 'hostname']",
        ),
        ("storage: {sqlite: {base_dir: x}}\nnonsense: [1\n", "dagster.yaml"),
        ("storagee: {}\n", "storagee"),
        ("- a\n- list\n", ""),
        ("\x00\x01", ""),
        (CONFIG_FILE.read_text(), "file is not a database"),
    ],
)
def test_an_instance_that_cannot_be_opened_is_one_line(
    config: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text(config)
    if config == CONFIG_FILE.read_text():
        for name in ("history/runs.db", "history/runs/index.db", "schedules/schedules.db"):
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_bytes(b"not a database" * 400)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setenv("LAION_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(sys, "argv", ["laion-assets", "status", "--dataset", "sample"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    (line,) = told.splitlines()
    assert line.startswith("laion-assets: ") and said in line
    assert "hunter2" not in line
    assert "object at 0x" not in line


def test_a_database_that_refuses_is_one_line_after_the_wait_for_it_is_told(tmp_path: Path) -> None:
    """dagster-postgres tries for about 10 s, and logs for each try what the last line says."""
    (tmp_path / "dagster.yaml").write_text(POSTGRES)
    ended = shell(f"cd {tmp_path}; la status", DAGSTER_HOME=str(tmp_path), LAION_DATA_DIR=str(tmp_path / "data"))
    waited, said = ended.stderr.decode().splitlines()
    assert ended.returncode == 2 and not ended.stdout
    assert (
        waited.startswith(f"waiting for the database of the Dagster instance {tmp_path}, until ") and "Ctrl-C" in waited
    )
    assert said.startswith("laion-assets: Dagster instance") and "Connection refused" in said
    assert "hunter2" not in waited + said


@pytest.mark.usefixtures("_waits_as_before")
def test_what_nobody_foresaw_is_one_line_with_its_traceback_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise KeyError("https://me:hunter2@host/x?sig=1")

    assert guarded(fail, errors) == 1
    (line,) = capsys.readouterr().err.splitlines()
    path = Path(line.rpartition(" ")[2])
    text = path.read_text(encoding="ascii")
    path.unlink()
    assert "Traceback" in text and "in fail" in text
    assert "hunter2" not in line + text.replace('me:hunter2@host/x?sig=1")', "")
