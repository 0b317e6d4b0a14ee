"""Tests the package with several versions of Dagster, each in a separate environment, with the tests that use Dagster.

    python -m laion_assets_tests.dagster_versions 1.12.22 1.13.28

writes docs/dagster_versions.md. It needs uv and a package registry, and takes 5 to 20 minutes for each version.
"""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from laion_assets_tests.conftest import REPOSITORY

REPORT = REPOSITORY / "docs" / "dagster_versions.md"
TESTS = (
    "test_dagster_internals.py",
    "test_component.py",
    "test_resources.py",
    "automation/test_definitions.py",
    "automation/test_queue.py",
    "automation/test_milestones.py",
    "automation/test_schedules.py",
    "assets/test_chain.py",
    "execution",
    "health",
)
"""Tests that depend most on Dagster: private names, definitions, component, chain, executor, records of runs."""

FOLLOW_DAGSTER = ("dagster", "gql", "graphene", "graphql", "click", "starlette", "protobuf", "grpcio", "pytz", "antlr4")
"""Packages whose versions Dagster limits. constraints.txt is applied to all other packages."""

HEAD = """# Versions of Dagster

`pyproject.toml` allows the versions between the first and the last of this table. Each ran in an environment of its
own, with `dagster-webserver` of the same version: `python -m laion_assets_tests.dagster_versions VERSION …`. The tests
are those of private names, definitions, component, chain, executor, queue, conditions, schedules and records of runs.
Versions from 1.12.18 to 1.12.21 fail where `post_processing` of a component meets the source asset. 1.12.12 and older
ones cannot filter checks by partition.

| Dagster | Python | tests | took | on |
|---|---|---|---|---|
"""


def install(version: str, folder: Path) -> Path:
    """Makes an environment with this version and returns its Python. Raises `CalledProcessError` if that fails."""
    constraints = folder / "constraints.txt"
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    constraints.write_text("".join(line for line in lines if not line.startswith(FOLLOW_DAGSTER)))
    overrides = folder / "overrides.txt"
    overrides.write_text(f"dagster=={version}\ndagster-webserver=={version}\n")
    python = folder / "bin" / "python"
    subprocess.run(["uv", "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(folder)], check=True)
    subprocess.run(
        [
            *("uv", "pip", "install", "--quiet", "--python", str(python)),
            *("--constraint", str(constraints), "--build-constraint", str(constraints), "--override", str(overrides)),
            *("--editable", f"{REPOSITORY}[dev]"),
        ],
        check=True,
    )
    return python


def tested(python: Path) -> str:
    """Runs the tests and returns pytest's last line: the numbers of passed and failed tests."""
    tests = [str(REPOSITORY / "laion_assets_tests" / name) for name in TESTS]
    command = [str(python), "-W", "ignore", "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", ended.stdout, re.MULTILINE)
    for name in failed:
        sys.stderr.write(f"  {name}\n")
    last = (ended.stdout.strip().splitlines() or ended.stderr.strip().splitlines() or ["nothing ran"])[-1]
    return re.sub(r" in [\d.]+s.*", "", last).strip("= ")


def row(version: str) -> str:
    """Tests one version and returns its row of the table."""
    with tempfile.TemporaryDirectory(prefix=f"dagster-{version}-") as folder:
        python = install(version, Path(folder))
        begun = time.monotonic()
        result = tested(python)
    took = f"{time.monotonic() - begun:.0f} s"
    return f"| {version} | {sys.version.split()[0]} | {result} | {took} | {datetime.date.today().isoformat()} |"


def main(versions: list[str]) -> int:
    """Tries each version, lowest first. Returns 1 if a test failed."""
    rows = []
    for version in sorted(versions, key=lambda text: [int(part) for part in text.split(".")]):
        rows.append(row(version))
        print(rows[-1], flush=True)  # a version takes minutes, and the command may be stopped after it
        REPORT.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")
    return int(any("failed" in one or "error" in one for one in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
