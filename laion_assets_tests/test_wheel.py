"""Tests a new user's steps: install the wheel, make a project, add two datasets with `dg`, see them in the webserver.

One dataset is then removed. The wheel is built and installed; all other packages are those of the test environment.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import site
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from laion_assets_tests.automation.services import wait_for
from laion_assets_tests.conftest import REPOSITORY
from laion_assets_tests.postgres import free_port

NEEDED = ("hatchling", "dagster_dg_cli")
pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED), reason=f"{' and '.join(NEEDED)} are not installed"
)

FILES = {
    "pyproject.toml": '[project]\nname = "shop"\nversion = "0.1.0"\n\n[tool.dg]\ndirectory_type = "project"\n\n'
    '[tool.dg.project]\nroot_module = "shop"\n',
    "shop/__init__.py": "",
    "shop/defs/__init__.py": "",
    "shop/definitions.py": "from pathlib import Path\n\nimport dagster as dg\n\n\n@dg.definitions\n"
    "def defs() -> dg.Definitions:\n    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)\n",
}
"""The files that `create-dagster project` writes, without comments."""

SECRET = "hunter2"  # noqa: S105 - it must appear nowhere

CODE_LOCATION = """{
  repositoriesOrError { ... on RepositoryConnection { nodes {
    assetNodes { assetKey { path } groupName owners { ... on TeamAssetOwner { team } }
      assetChecksOrError { ... on AssetChecks { checks { name executionForLatestMaterialization { status } } } }
      partitionStats { numMaterialized numPartitions } }
    schedules { name cronSchedule } sensors { name } jobs { name }
    allTopLevelResourceDetails { name resourceType configuredValues { key value type } } } } }
  poolConfig: instance { concurrencyLimits { concurrencyKey slotCount } } }"""


@dataclass(frozen=True)
class Project:
    """A folder with a virtual environment, as after `python -m venv` and `pip install laion_assets`."""

    root: Path
    environment: dict[str, str]

    @property
    def python(self) -> Path:
        return self.root / ".venv" / "bin" / "python"

    def run(self, *arguments: str) -> str:
        """Runs Python in the folder and returns its output."""
        command = [str(self.python), "-W", "ignore", *arguments]
        ended = subprocess.run(
            command, cwd=self.root, env=self.environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert ended.returncode == 0, f"{' '.join(arguments)}\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
        return ended.stdout

    def dg(self, *arguments: str) -> str:
        """Runs a command of `dg`."""
        return self.run("-c", "from dagster_dg_cli.cli import main; main()", *arguments)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Project:
    root = tmp_path_factory.mktemp("stranger") / "shop"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    home = root / ".dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text((REPOSITORY / "dagster.yaml").read_text())
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("LAION_", "PYTHONPATH", "DAGSTER"))
    }
    environment = {
        **kept,
        "VIRTUAL_ENV": str(root / ".venv"),
        "DAGSTER_HOME": str(home),
        "SHOP_URL": f"http://me:{SECRET}@192.0.2.1:8123/shop",
    }
    made = Project(root, environment)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root / ".venv")], check=True)
    packages = Path(made.run("-c", "import site; print(site.getsitepackages()[0])").strip())
    (packages / "of_the_tests.pth").write_text("\n".join(site.getsitepackages()))
    _install(wheel, made.python)
    return made


def _install(wheel: Path, python: Path) -> None:
    if shutil.which("uv"):
        command = ["uv", "pip", "install", "--quiet", "--python", str(python), "--no-deps", "--offline", str(wheel)]
    else:
        command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", str(wheel)]
    subprocess.run(command, check=True, capture_output=True)


@dataclass(frozen=True)
class Webserver:
    """The webserver of the project."""

    url: str

    def query(self, query: str, **variables: Any) -> Any:
        answer = httpx.post(f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=120)
        assert SECRET not in answer.text
        assert "errors" not in answer.json(), answer.json()["errors"]
        return answer.json()["data"]

    def location(self) -> dict[str, Any]:
        (repository,) = self.query(CODE_LOCATION)["repositoriesOrError"]["nodes"]
        return dict(repository)

    def assets(self) -> dict[str, dict[str, Any]]:
        return {"/".join(node["assetKey"]["path"]): node for node in self.location()["assetNodes"]}

    def answers(self) -> bool | None:
        try:
            return httpx.get(f"{self.url}/server_info", timeout=5).status_code == 200 or None
        except httpx.TransportError:
            return None


@pytest.fixture(scope="module")
def webserver(project: Project, sample_folder: Path) -> Iterator[Webserver]:
    """The webserver of a project: two datasets with one loaded shard each, and one only declared, on a server."""
    for name in ("pictures", "others"):
        project.dg(
            "scaffold", "defs", "laion_assets.EmbeddingDataset", name,
            *("--dataset", "sample", "--source", str(sample_folder)),
        )  # fmt: skip
    elsewhere = project.root / "shop" / "defs" / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "defs.yaml").write_text(
        "type: laion_assets.EmbeddingDataset\nattributes:\n  dataset: sample\n  clickhouse: '{{ env.SHOP_URL }}'\n"
    )
    for name, shard in (("pictures", "1"), ("others", "2")):
        project.dg("launch", "--job", f"{name}_load_shards", "--partition", shard)
    port = free_port()
    command = [
        str(project.python),
        "-W",
        "ignore",
        "-m",
        "dagster_webserver",
        "-p",
        str(port),
        "-m",
        "shop.definitions",
    ]
    with (project.root / "webserver.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=project.root, env=project.environment, stdout=log, stderr=log, start_new_session=True
        )
        found = Webserver(f"http://127.0.0.1:{port}")
        try:
            wait_for(found.answers, seconds=180, what="the webserver")
            yield found
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def test_what_is_installed_is_the_wheel(project: Project) -> None:
    assert Path(project.run("-c", "import laion_assets; print(laion_assets.__file__)").strip()).is_relative_to(
        project.root
    )


def test_the_ui_shows_each_dataset_with_its_prefix_schedules_and_checks(webserver: Webserver) -> None:
    location, assets = webserver.location(), webserver.assets()
    for name in ("pictures", "others", "elsewhere"):
        of_dataset = {key for key in assets if key.startswith(f"{name}/")}
        assert len(of_dataset) == 10
        assert f"{name}_load_next_shards" in {schedule["name"] for schedule in location["schedules"]}
        assert f"{name}_index_at_milestones" in {sensor["name"] for sensor in location["sensors"]}
        assert f"{name}_load_shards" in {job["name"] for job in location["jobs"]}
    assert len(assets) == 30
    for name in ("pictures", "others"):
        partition = assets[f"{name}/clickhouse_partition"]
        assert partition["partitionStats"]["numMaterialized"] == 1
        (check,) = partition["assetChecksOrError"]["checks"]
        assert check["name"] == "partition_matches_parquet"


def test_the_ui_shows_resources_and_no_password(webserver: Webserver) -> None:
    resources = {one["name"]: one for one in webserver.location()["allTopLevelResourceDetails"]}
    assert set(resources) >= {"pictures_embedding_table", "others_embedding_table", "pictures_shard_store"}
    shown = {value["key"]: value for value in resources["elsewhere_embedding_table"]["configuredValues"]}
    assert (shown["url"]["type"], shown["url"]["value"]) == ("ENV_VAR", "SHOP_URL")


def test_a_dataset_that_is_removed_leaves_the_other_whole(project: Project, webserver: Webserver) -> None:
    shutil.rmtree(project.root / "shop" / "defs" / "others")
    shutil.rmtree(project.root / "data" / "others")
    webserver.query(
        "mutation { reloadWorkspace { __typename ... on Workspace { locationEntries { loadStatus } } } }",
    )
    wait_for(
        lambda: not any(key.startswith("others/") for key in webserver.assets()) or None, seconds=60, what="reload"
    )
    assets = webserver.assets()
    assert len(assets) == 20
    assert assets["pictures/clickhouse_partition"]["partitionStats"]["numMaterialized"] == 1
    assert not any(name.startswith("others") for name in (one["name"] for one in webserver.location()["schedules"]))
    counted = project.run(
        "-c",
        "import dagster as dg\nfrom shop.definitions import defs\n"
        "found = defs().get_repository_def().get_top_level_resources()\n"
        "with dg.build_resources({'table': found['pictures_embedding_table']}) as resources:\n"
        "    with resources.table.connect() as db:\n"
        "        print(db.one(f'SELECT uniqExact(shard), count() > 0 FROM {db.table}'))",
    )
    assert counted.strip() == "(1, 1)"
    assert sorted(path.name for path in (project.root / "data").iterdir()) == ["pictures"]
