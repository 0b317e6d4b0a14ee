"""Tests of the search service in deploy/: compose, Kubernetes and systemd agree, and their options are accepted."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml

from laion_assets.service.protection import OPEN_PATHS
from laion_assets_tests.conftest import REPOSITORY
from laion_assets_tests.postgres import free_port

DEPLOY = REPOSITORY / "deploy"
UNIT = DEPLOY / "laion-assets-serve.service"
COMMAND = ["laion-assets", "serve", "--host", "0.0.0.0", "--port", "1234"]  # noqa: S104 - in a container
PROGRAM = Path(sys.executable).with_name("laion-assets")


def compose() -> dict[str, Any]:
    """Returns the compose file's service."""
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "docker-compose.yaml").read_text())["services"]["search"]
    return found


def manifests() -> dict[str, dict[str, Any]]:
    """Returns the Kubernetes objects by kind."""
    return {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "search.yaml").read_text())}


def container() -> dict[str, Any]:
    """Returns the Kubernetes container."""
    (found,) = manifests()["Deployment"]["spec"]["template"]["spec"]["containers"]
    return dict(found)


def test_containers_run_the_same_command_on_the_same_port() -> None:
    assert compose()["command"] == container()["args"] == COMMAND
    assert compose()["ports"] == ["127.0.0.1:1234:1234"]
    assert [port["containerPort"] for port in container()["ports"]] == [1234]
    assert "EXPOSE 1234 " in (DEPLOY / "Dockerfile").read_text()
    ended = subprocess.run([PROGRAM, "serve", "--help"], capture_output=True, text=True, check=True)
    assert all(option in ended.stdout for option in COMMAND if option.startswith("--"))


def test_probes_ask_what_needs_no_token() -> None:
    asked = [container()[f"{kind}Probe"]["httpGet"]["path"] for kind in ("readiness", "liveness")]
    asked += re.findall(r":1234(/\w+)", " ".join(compose()["healthcheck"]["test"]))
    assert len(asked) == 3
    assert set(asked) <= set(OPEN_PATHS)


def test_containers_have_no_rights_and_write_nowhere() -> None:
    assert compose()["read_only"] is True
    assert compose()["cap_drop"] == container()["securityContext"]["capabilities"]["drop"] == ["ALL"]
    assert container()["securityContext"]["readOnlyRootFilesystem"] is True
    assert [volume.rpartition(":")[2] for volume in compose()["volumes"]] == ["ro", "ro"]
    assert all(mount.get("readOnly") for mount in container()["volumeMounts"] if mount["name"] == "kept")
    uid = re.findall(r"--uid (\d+)", (DEPLOY / "Dockerfile").read_text())
    assert [str(manifests()["Deployment"]["spec"]["template"]["spec"]["securityContext"]["runAsUser"])] == uid


def test_the_kubernetes_objects_are_what_its_api_takes_and_find_each_other() -> None:
    client = pytest.importorskip("kubernetes.client", reason="kubernetes is of the optional package laion_assets[k8s]")
    api = client.ApiClient()
    for kind, model in (("Deployment", "V1Deployment"), ("Service", "V1Service")):
        given = manifests()[kind]
        read = api.deserialize(SimpleNamespace(data=json.dumps(given)), model)
        assert api.sanitize_for_serialization(read) == given, "a field that the API does not have is dropped by it"
    labels = manifests()["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert manifests()["Service"]["spec"]["selector"].items() <= labels.items()
    assert manifests()["Deployment"]["spec"]["selector"]["matchLabels"] == labels


def test_kubernetes_has_the_secret_and_the_claim_of_the_charts_values() -> None:
    values = (DEPLOY / "helm-values.yaml").read_text()
    (volume,) = [
        one for one in manifests()["Deployment"]["spec"]["template"]["spec"]["volumes"] if one["name"] == "kept"
    ]
    assert f"metadata: {{name: {volume['persistentVolumeClaim']['claimName']}}}" in values
    for variable in container()["env"]:
        secret = variable.get("valueFrom", {}).get("secretKeyRef", {})
        if secret.get("name") == "laion-assets":
            assert f"--from-literal={secret['key']}=" in values
    chart = yaml.safe_load(values)["dagster-user-deployments"]["deployments"][0]
    assert [one["configMapRef"] for one in container()["envFrom"]] == chart["envConfigMaps"]
    assert [one["name"] for one in chart["envConfigMaps"]] == re.findall(r"configmap (\S+) --from-env-file", values)
    datasets = {"name": "datasets", "mountPath": "/datasets", "readOnly": True}
    assert datasets in chart["volumeMounts"]
    assert datasets in container()["volumeMounts"]
    kept = {mount["subPath"] for mount in chart["volumeMounts"] if mount["name"] == "kept"}
    assert {mount["subPath"] for mount in container()["volumeMounts"] if mount["name"] == "kept"} <= kept


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_unit_and_finds_little_exposed(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={PROGRAM}", UNIT.read_text()), encoding="utf-8")
    for command in (["verify", "--man=no"], ["security", "--offline=true", "--threshold=25"]):
        ended = subprocess.run(["systemd-analyze", *command, unit], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout[-500:] + ended.stderr
        assert "Unknown" not in ended.stderr


def test_the_units_command_answers_and_ends_by_the_signal_that_systemd_sends(tmp_path: Path) -> None:
    (start,) = re.findall(r"(?m)^ExecStart=\S+ (.+)$", UNIT.read_text())
    port = free_port()
    arguments = start.replace("1234", str(port)).split()
    environment = {**os.environ, "LAION_DATASET": "sample", "LAION_DATA_DIR": str(tmp_path), "LAION_SERVE_TOKEN": "a"}
    process = subprocess.Popen([PROGRAM, *arguments], cwd=tmp_path, env=environment)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                assert httpx.get(f"http://127.0.0.1:{port}/config.json").json()["tokenNeeded"] is True
                break
            except httpx.ConnectError:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        # systemd treats both codes as a clean exit.
        assert process.wait(30) in (0, -signal.SIGTERM)
    finally:
        process.kill()
