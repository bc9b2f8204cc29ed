"""The commands that the README and CI name exist, and the README's examples are the ones under test."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))
PAGES = ["README.md", "CONTRIBUTING.md", ".ci/run", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_page_names_only_targets_that_exist(page: str) -> None:
    named = set(re.findall(r"^(?:    )?make ([a-z-]+)|`make ([a-z-]+)`", (ROOT / page).read_text(), re.MULTILINE))
    assert {first or second for first, second in named} <= TARGETS


def test_readme_shows_the_two_commands_on_its_first_screen() -> None:
    first_screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:30])
    assert "make serve" in first_screen
    assert "make test" in first_screen


def test_help_lists_every_target() -> None:
    listed = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert {line.split()[0] for line in listed.splitlines()} == TARGETS


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_target_is_phony_and_says_what_it_does(target: str) -> None:
    assert re.search(rf"^\.PHONY:.* {target}\b", MAKEFILE, re.MULTILINE)
    assert re.search(rf"^{target}:[^\n]*  ## \w", MAKEFILE, re.MULTILINE)


def test_ci_runs_what_people_run() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert re.findall(r"^make .*", script, re.MULTILINE) == ["make lint", "make test"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
