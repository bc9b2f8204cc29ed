"""The pages say only what is there: links lead somewhere, named tests exist, an example shown is one that is served."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from symphony.config import parse_model_config

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
GUARANTEES = (ROOT / "docs" / "guarantees.md").read_text()
SHOWN_MODELS = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "models.md").read_text(), re.DOTALL)
SECURITY = (ROOT / "docs" / "security.md").read_text()
NAMED_TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", GUARANTEES + SECURITY)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize(("file", "name"), NAMED_TESTS)
def test_test_that_holds_a_guarantee_exists(file: str, name: str) -> None:
    functions = {
        node.name
        for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert name in functions


@pytest.mark.parametrize("text", [found for found in SHOWN_MODELS if "max_batch_size" in found])
def test_model_shown_in_full_can_be_read(text: str) -> None:
    assert parse_model_config(text, "docs/models.md").name in text


def test_every_guarantee_names_a_test() -> None:
    rows = [row for row in GUARANTEES.splitlines() if row.startswith("| ") and not row.startswith("| guarantee")]
    assert len(rows) >= 10
    assert [row for row in rows if not re.search(r"`tests/[\w/]+\.py::\w+`", row)] == []


def test_every_threat_names_a_test() -> None:
    rows = SECURITY.partition("## Threats")[2].partition("## What")[0].strip().splitlines()[2:]
    assert len(rows) >= 20
    assert [row for row in rows if not re.search(r"`tests/[\w/]+\.py::\w+`", row)] == []


def test_readme_shows_the_example_model_as_it_is() -> None:
    (shown,) = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    served = tomllib.loads((ROOT / "examples" / "models" / "minilm" / "model.toml").read_text())
    assert tomllib.loads(shown) == served
