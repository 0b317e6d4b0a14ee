"""Tests that a search in the page shows the same rows of the demo's table as the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from laion_assets.index.graphs import build_indexes
from laion_assets.table.connect import connect
from laion_assets.terminal.separate_settings import demo_settings
from laion_assets_tests.automation.browser import chromium_path
from laion_assets_tests.postgres import free_port
from laion_assets_tests.service.test_page import opened, wait_for_rows
from laion_assets_tests.table.loaded import load_sample

WORDS = "red bicycle"
PROGRAM = str(Path(sys.executable).with_name("laion-assets"))


@pytest.mark.skipif(chromium_path() is None, reason="Chromium is not installed")
def test_the_demo_in_the_page_and_at_the_command_line(tmp_path: Path) -> None:
    settings = demo_settings(tmp_path / "data" / "demo")
    load_sample(settings, {0: 1_500, 1: 700})
    with connect(settings) as db:
        build_indexes(db)
    port = free_port()
    process = subprocess.Popen([PROGRAM, "serve", "--demo", "--port", str(port)], cwd=tmp_path, env=os.environ)
    try:
        _wait_for(port, process)
        with opened(f"http://127.0.0.1:{port}") as page:
            page.get_by_role("searchbox").fill(WORDS)
            page.get_by_role("button", name="Search").click()
            shown = wait_for_rows(page)
            facts = page.locator(".card .facts").all_inner_texts()
    finally:
        process.terminate()
        process.wait(30)
    command = [PROGRAM, "search", "--demo", WORDS, "--limit", "40", "--json"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    expected = json.loads(said.stdout)["neighbours"]
    assert [int(re.findall(r"row (\d+)", fact)[0]) for fact in facts] == [row["id"] for row in expected]
    assert shown == [" ".join(row["caption"].split()) or "no caption" for row in expected]


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{port}/config.json").raise_for_status()
        except httpx.ConnectError:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
        else:
            return
