"""What docs/cluster.md shows works, and the limits that it names are the ones that hold."""

from __future__ import annotations

import re
from typing import Any

import pytest

from symphony.cluster import limits
from tests.coordination.etcd_cluster import ROOT

PAGE = (ROOT / "docs" / "cluster.md").read_text()


async def test_example_runs_and_prints_the_member(capsys: pytest.CaptureFixture[str]) -> None:
    (shown,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    code = re.sub(r'"etcd://[^"]+"', '"memory:"', shown)
    code += "    if snapshot.is_fresh and snapshot.items:\n        break\nawait coordinator.close()\n"
    names: dict[str, Any] = {}
    exec("async def example():\n" + "".join(f"    {line}\n" for line in code.splitlines()), names)
    await names["example"]()
    assert capsys.readouterr().out.splitlines()[-1] == "['node-7-4c1f'] "


def test_limits_are_the_ones_that_hold() -> None:
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE))
    assert rows["a node's facts"] == f"{limits.FACTS_BYTES_MAX // 1024} KiB as JSON"
    assert rows["a document"] == f"{limits.DOCUMENT_BYTES_MAX // 1024} KiB as JSON"
    assert rows["entries of a kind"] == f"{limits.ENTRY_COUNT_MAX:,}"
    assert rows["node id, address"] == f"{limits.NODE_ID_CHARS_MAX}, {limits.ADDRESS_CHARS_MAX} characters"
