"""Tests of the files in deploy/: they match their schemas, agree with each other, pin versions and have no secrets.

docs/operations.md says how the image was built and run. No Kubernetes cluster was available for these tests.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._config import validate_config
from dagster._core.instance.config import dagster_instance_config_schema

from laion_assets.plan.kept_plan import plan_path
from laion_assets.recall.figures import recall_folder
from laion_assets.settings import Settings, load_settings
from laion_assets.terminal.runs import LOCATION
from laion_assets_tests.conftest import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
COMPOSE = DEPLOY / "docker-compose.yaml"


def read(name: str) -> Any:
    """Reads a YAML file of deploy/."""
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


def constraint(package: str) -> str:
    """Returns the version that constraints.txt pins."""
    found = re.search(rf"^{package}==(\S+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    assert found
    return found[1]


def env_names(value: Any) -> set[str]:
    """Returns the names of all `{env: NAME}` in a Dagster configuration."""
    if isinstance(value, list):
        return {name for each in value for name in env_names(each)}
    if not isinstance(value, dict):
        return set()
    if set(value) == {"env"} and isinstance(value["env"], str):
        return {value["env"]}
    return {name for each in value.values() for name in env_names(each)}


def test_the_compose_file_holds_against_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def _docker_compose() -> list[str] | None:
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) is None:
            continue
        if subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0:
            return command
    return None


@pytest.mark.skipif(_docker_compose() is None, reason="docker compose is not installed")
def test_docker_compose_takes_the_file(tmp_path: Path) -> None:
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    shutil.copy(DEPLOY / "settings.env.example", tmp_path / "deploy" / "settings.env")
    (tmp_path / ".env").write_text("DAGSTER_PG_PASSWORD=a\nCLICKHOUSE_PASSWORD=b\n")
    file = str(tmp_path / "deploy" / COMPOSE.name)
    command = [*(_docker_compose() or []), "--env-file", str(tmp_path / ".env"), "-f", file, "config", "-q"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_images_are_pinned_to_a_version() -> None:
    images = [service["image"] for service in read("docker-compose.yaml")["services"].values()]
    images.append(re.findall(r"^FROM (\S+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)[0])
    assert all(re.search(r":\d+\.\d+", image) for image in images), images


def test_every_variable_of_the_compose_file_is_in_the_example() -> None:
    wanted = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    example = re.findall(r"^(\w+)=$", (DEPLOY / ".env.example").read_text(), re.MULTILINE)
    assert wanted == set(example)


def test_settings_are_in_a_file_that_git_ignores_and_that_code_and_search_read() -> None:
    services = read("docker-compose.yaml")["services"]
    needed = {name: _env_files(service, required=True) for name, service in services.items()}
    assert {name for name, files in needed.items() if files == ["./settings.env"]} == {"code", "search"}
    files = [name for service in services.values() for name in _env_files(service)]
    mounted = re.findall(r"- (?:\$\{\w+:-)?(\./\w+)\}?:/\w+:ro", COMPOSE.read_text())
    assert set(mounted) == {"./datasets", "./shards"}
    ignored = {line.rstrip("/") for line in (REPOSITORY / ".gitignore").read_text().split()}
    assert {f"/deploy/{name.removeprefix('./')}" for name in [*files, *mounted, ".env"]} <= ignored
    # What compose sets would silently go before the same setting of the file.
    given = set(re.findall(r"(?m)^(?:# )?(LAION_\w+)=", (DEPLOY / "settings.env.example").read_text()))
    assert {"LAION_SOURCE", "LAION_DATASET", "LAION_TABLE"} <= given
    assert given.isdisjoint({*services["code"]["environment"], *services["search"]["environment"]})


def _env_files(service: dict[str, Any], *, required: bool = False) -> list[str]:
    found = [{"path": one} if isinstance(one, str) else one for one in service.get("env_file", [])]
    return [one["path"] for one in found if not required or one.get("required", True)]


def test_no_password_is_written_down() -> None:
    passwords = {
        (name, variable): str(value)
        for name, service in read("docker-compose.yaml")["services"].items()
        for variable, value in service.get("environment", {}).items()
        if "PASSWORD" in variable
    }
    assert len(passwords) >= 3
    assert {key: value for key, value in passwords.items() if not value.startswith("${")} == {}
    assert "assword:" not in (DEPLOY / "helm-values.yaml").read_text().replace("postgresqlPassword:", "assword:")
    assert set(read("helm-values.yaml")["postgresql"]) == {
        "enabled",
        "postgresqlHost",
        "postgresqlUsername",
        "postgresqlDatabase",
        "service",
    }


def test_dagsters_configuration_is_one_and_its_variables_are_those_of_the_containers() -> None:
    configuration = read("dagster.yaml")
    checked = validate_config(dagster_instance_config_schema(), configuration)
    assert checked.success, checked.errors
    given = set(read("docker-compose.yaml")["x-dagster"]["environment"])
    in_image = set(re.findall(r"(\w+)=/", (DEPLOY / "Dockerfile").read_text()))
    assert env_names(configuration) <= given | in_image


def test_the_workspace_asks_the_code_locations_container() -> None:
    (location,) = read("workspace.yaml")["load_from"]
    server = location["grpc_server"]
    assert server["host"] in read("docker-compose.yaml")["services"]
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert f'"-p", "{server["port"]}", "-m", "laion_assets.definitions"' in dockerfile
    # The daemon finds the code server of a run by this name, also if `laion-assets load` submitted the run.
    assert server["location_name"] == LOCATION


def test_every_setting_that_is_given_exists() -> None:
    names = set(re.findall(r"\bLAION_[A-Z_]+\b", "".join(path.read_text() for path in DEPLOY.glob("*.*"))))
    known = {f"LAION_{field.upper()}" for field in Settings.model_fields} | {"LAION_DATASET"}
    assert names <= known


def test_the_chart_and_its_images_are_of_the_version_that_is_pinned() -> None:
    values = read("helm-values.yaml")
    version = constraint("dagster")
    assert values["dagsterWebserver"]["image"]["tag"] == values["dagsterDaemon"]["image"]["tag"] == version
    assert f"--version {version} " in (DEPLOY / "helm-values.yaml").read_text()


def test_the_charts_run_launcher_is_one_that_dagster_takes() -> None:
    launcher = pytest.importorskip("dagster_k8s", reason="dagster-k8s is the optional package of laion_assets[k8s]")
    values = read("helm-values.yaml")["runLauncher"]
    assert values["type"] == launcher.K8sRunLauncher.__name__
    given = {_snake(name): value for name, value in values["config"]["k8sRunLauncher"].items()}
    configuration = {
        **given,
        "run_k8s_config": {_snake(name): value for name, value in given["run_k8s_config"].items()},
        "service_account_name": "dagster",
        "instance_config_map": "dagster-instance",
        "dagster_home": "/opt/dagster/dagster_home",
        "postgres_password_secret": "dagster-postgresql-secret",
    }
    checked = validate_config(launcher.K8sRunLauncher.config_type(), configuration)
    assert checked.success, checked.errors


def test_the_images_user_can_write_what_pods_mount() -> None:
    job = pytest.importorskip("dagster_k8s.job", reason="dagster-k8s is the optional package of laion_assets[k8s]")
    values = read("helm-values.yaml")
    (uid,) = re.findall(r"--uid (\d+)", (DEPLOY / "Dockerfile").read_text())
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    assert deployment["podSecurityContext"] == {"fsGroup": int(uid)}
    more = values["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]
    made = job.construct_dagster_k8s_job(
        job.DagsterK8sJobConfig(
            job_image="an-image",
            dagster_home="/opt/dagster/dagster_home",
            instance_config_map="dagster-instance",
            postgres_password_secret=None,
        ),
        ["a-command"],
        "a-run",
        user_defined_k8s_config=job.UserDefinedDagsterK8sConfig.from_dict(
            {_snake(name): value for name, value in more.items()}
        ),
    )
    assert made.spec.template.spec.security_context.fs_group == int(uid)


def test_what_must_outlive_a_pod_lies_on_a_claim_and_not_on_its_scratch_disk() -> None:
    (deployment,) = read("helm-values.yaml")["dagster-user-deployments"]["deployments"]
    claims = {volume["name"] for volume in deployment["volumes"] if "persistentVolumeClaim" in volume}
    kept = {mount["mountPath"] for mount in deployment["volumeMounts"] if mount["name"] in claims}
    (data,) = [one["value"] for one in deployment["env"] if one["name"] == "LAION_DATA_DIR"]
    settings = load_settings(dataset_name="sample", data_dir=Path(data), clip_dir=None)
    assert kept == {str(recall_folder(settings)), f"{data}/clip", str(plan_path(settings).parent)}


def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda found: f"_{found[1].lower()}", name)
