"""A real Prometheus scrapes a real node: every query and alert that is documented or shipped is evaluated by it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.server.conftest import write_echo

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".tools" / "prometheus"
DEPLOY = ROOT / "deploy"
START_TIMEOUT_S = 30.0
SCRAPE_EVERY_S = 1
QUERIES = re.findall(
    r"^\| [^|]+ \| `(.+)` \|$", (ROOT / "docs" / "metrics.md").read_text().partition("## Questions")[2], re.MULTILINE
)
PAGES = (ROOT / "docs" / "metrics.md").read_text()
GRAFANA = json.loads((DEPLOY / "grafana" / "symphony.json").read_text())
EMPTY_IN_HEALTH = ("stale", "reason!=", 'outcome="late"', "> 1.2")
"""A query that asks for trouble finds none on a node without."""

pytestmark = [pytest.mark.sockets, pytest.mark.slow]


def tool(name: str) -> str:
    """Return the program's path; skip with the reason where it cannot be had."""
    found = shutil.which(name) or shutil.which(name, path=str(TOOLS / "usr" / "bin"))
    if found is None:
        missing = TOOLS / "missing"
        pytest.skip(missing.read_text().strip() if missing.exists() else f"no {name}: tests/tools/fetch_prometheus.sh")
    return found


def check(*command: str, text: str = "") -> None:
    """Run promtool; fail with what it says unless it is content."""
    done = subprocess.run(
        [tool("promtool"), *command],
        input=text,
        cwd=DEPLOY / "prometheus",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def expressions() -> list[str]:
    """Return the dashboard's queries as they are with every instance and model chosen."""
    found = [target["expr"] for panel in GRAFANA["panels"] for target in panel["targets"]]
    found += [annotation["expr"] for annotation in GRAFANA["annotations"]["list"]]
    return [expr.replace("$instance", ".*").replace("$model", ".*") for expr in found]


@contextlib.asynccontextmanager
async def prometheus(folder: Path, target: str) -> AsyncIterator[str]:
    """Run a Prometheus that scrapes `target` and evaluates the alerts; yield its address."""
    shutil.copy(DEPLOY / "prometheus" / "alerts.yaml", folder / "alerts.yaml")
    config = (DEPLOY / "prometheus" / "prometheus.yaml").read_text()
    assert config.count("127.0.0.1:8000") == 1
    config = config.replace("127.0.0.1:8000", target).replace(": 5s", f": {SCRAPE_EVERY_S}s")
    (folder / "prometheus.yaml").write_text(config)
    with socket.socket() as probe:  # it does not say which port it took when left to choose
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        tool("prometheus"),
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    draining: asyncio.Task[bytes] | None = None
    said = b""
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while b"ready to receive web requests" not in said:
                line = await process.stderr.readline()
                assert line, said.decode(errors="replace")
                said += line
        draining = asyncio.create_task(process.stderr.read())
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        if draining is not None:
            await draining


async def test_prometheus_evaluates_every_documented_query_and_every_alert(
    tmp_path: Path,
    run_node: Callable[..., Any],
) -> None:
    """Each query is valid and, unless it asks for trouble, has an answer about the node; each rule's health is ok."""
    tool("prometheus")
    assert len(QUERIES) >= 20 and len(expressions()) >= 20
    write_echo(tmp_path / "models")
    (tmp_path / "prometheus").mkdir()
    async with run_node("2xemulated") as node:
        await node.infer(0)  # a counter that is there from the first scrape on
        async with (
            prometheus(tmp_path / "prometheus", node.url.removeprefix("http://")) as url,
            aiohttp.ClientSession(f"{url}/") as session,
        ):

            async def ask(path: str, **parameters: str) -> Any:
                async with session.get(f"api/v1/{path}", params=parameters) as reply:
                    said = await reply.json()
                assert said["status"] == "success", (parameters, said)
                return said["data"]

            async def scrapes() -> float:
                found = (await ask("query", query='count_over_time(up{job="symphony"}[1m])'))["result"]
                return float(found[0]["value"][1]) if found else 0.0

            async with asyncio.timeout(60):
                while await scrapes() < 5:
                    await asyncio.gather(*(node.infer(number) for number in range(8)))
                    await asyncio.sleep(0.2)
            for query in [*QUERIES, *expressions()]:
                result = (await ask("query", query=query))["result"]
                is_about_trouble = any(part in query for part in (*EMPTY_IN_HEALTH, "ALERTS"))
                assert result or is_about_trouble, f"no answer to {query}"
            (group,) = (await ask("rules"))["groups"]
            async with asyncio.timeout(30):
                while any(rule["health"] == "unknown" for rule in group["rules"]):
                    await asyncio.sleep(0.2)
                    (group,) = (await ask("rules"))["groups"]
            assert len(group["rules"]) >= 10
            assert [(rule["name"], rule.get("lastError")) for rule in group["rules"] if rule["health"] != "ok"] == []
            assert [rule["name"] for rule in group["rules"] if rule["state"] == "firing"] == []
        async with node.session.get(f"{node.url}/metrics") as reply:
            check("check", "metrics", text=await reply.text())


def test_configuration_and_alert_rules_are_what_prometheus_expects() -> None:
    check("check", "config", "prometheus.yaml")


def test_each_alert_fires_in_its_trouble_and_none_on_a_healthy_node() -> None:
    check("test", "rules", "alerts_test.yaml")


def test_each_alert_says_what_to_do() -> None:
    rules = (DEPLOY / "prometheus" / "alerts.yaml").read_text()
    names = re.findall(r"alert: (\w+)", rules)
    assert re.findall(r"runbook: docs/metrics.md#(\w+)", rules) == [name.lower() for name in names]
    assert re.findall(r"^#### (\w+)$", PAGES, re.MULTILINE) == names


def test_every_metric_that_is_asked_for_is_documented() -> None:
    documented = set(re.findall(r"^\| `(symphony_\w+)`", PAGES, re.MULTILINE))
    asked = " ".join([*QUERIES, *expressions(), (DEPLOY / "prometheus" / "alerts.yaml").read_text()])
    names = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bsymphony_\w+", asked)}
    assert names <= documented
