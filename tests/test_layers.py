"""Hold the layers of docs/architecture.md: a unit imports only from lower ones, and the pure ones stay pure.

The table in that page is the source; this file reads it. Checked are `.py` (by syntax tree) and `.pyx` and `.pxd` (by
statement, with strings and comments taken out), and the C++ headers of csrc/, which know neither Python nor clocks.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PURE_LAYER_MAX = 3
"""Layers up to this one take time and randomness as arguments."""
PURE_UNITS = frozenset({"sim"})
"""Units of higher layers that do so, too."""

IMPURE_MODULES = frozenset(
    """
    aiohttp asyncio concurrent datetime httptools importlib multiprocessing queue random sched secrets select selectors
    signal socket socketserver ssl subprocess threading time torch urllib uvloop
    """.split()  # noqa: SIM905 - a list of one name a line would be longer than the checker
)
IMPURE_CIMPORTS = frozenset(
    {
        *("cpython.pylifecycle", "cpython.pythread", "cpython.time", "libc.time", "libcpp.random"),
        *("posix.fcntl", "posix.signal", "posix.time", "posix.unistd"),
    }
)
IMPURE_HEADERS = re.compile(
    r"(c?time|chrono|mutex|pthread|random|c?signal|thread|unistd|sys/(epoll|eventfd|select|socket|time|timerfd))(\.h)?"
)
PACKAGES_BY_LAYER = {
    0: frozenset[str](),
    1: frozenset({"cython", "libc", "libcpp", "cpython", "msgpack", "numpy", "pydantic"}),
    2: frozenset({"cython", "libc", "libcpp", "cpython", "msgpack", "numpy", "pydantic", "prometheus_client"}),
    3: frozenset({"cython", "libc", "libcpp", "cpython", "msgpack", "numpy", "pydantic"}),
}
"""What each pure layer may use beside the standard library; higher layers may use every dependency."""


@dataclass(frozen=True)
class Import:
    """One imported name in full (`symphony.core.events.Dispatch`, `time`), or a C header (`<time.h>`), and its line."""

    name: str
    line: int
    is_cimport: bool = False


def read_layers(page: str) -> dict[str, int]:
    """Return unit name -> layer from the table of docs/architecture.md."""
    layers: dict[str, int] = {}
    for number, units in re.findall(r"^\| (\d+) \| ([^|]*) \|", page, re.MULTILINE):
        for unit in re.findall(r"`symphony\.(\w+)`", units):
            layers[unit] = int(number)
    return layers


def python_imports(source: str, package: str) -> Iterator[Import]:
    """Yield what Python source imports, wherever in the file; `package` resolves relative imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = resolve("." * node.level + (node.module or ""), package)
            for alias in node.names:
                yield Import(f"{base}.{alias.name}", node.lineno)


def cython_imports(source: str, package: str) -> Iterator[Import]:
    """Yield what Cython source imports, cimports and takes from C headers."""
    for line, statement in cython_statements(source):
        if found := re.match(r"from\s+(\.*[\w.]*)\s+(c?)import\s+(.+)", statement):
            base = resolve(found[1], package)
            for name in found[3].strip("() ").split(","):
                if name.strip():
                    yield Import(f"{base}.{name.split()[0]}", line, bool(found[2]))
        elif found := re.match(r"(c?)import\s+(.+)", statement):
            for name in found[2].split(","):
                yield Import(name.split()[0], line, bool(found[1]))
        elif found := re.match(r"cdef\s+extern\s+from\s+[\"']?(<[^>]+>|[^\"'\s]+)", statement):
            yield Import(found[1] if found[1].startswith("<") else f"<{found[1]}>", line)


def cython_statements(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, statement) of Cython source without comments and docstrings, bracketed lines joined."""
    blank = lambda found: "\n" * found[0].count("\n")  # noqa: E731 - keeps line numbers right
    source = re.sub(r"\"\"\".*?\"\"\"|'''.*?'''", blank, source, flags=re.DOTALL)
    held, held_line = "", 0
    for line, written in enumerate(source.splitlines(), 1):
        text = re.sub(r"(^|\s)#.*", "", written).strip()
        held, held_line = (f"{held} {text}", held_line) if held else (text, line)
        if held.endswith("\\"):
            held = held[:-1]
        elif not re.match(r"(from|c?import)\b", held) or held.count("(") <= held.count(")"):
            for statement in held.split(";"):
                yield held_line, statement.strip()
            held = ""


def resolve(module: str, package: str) -> str:
    """Return the absolute name of a possibly relative `module` imported in `package`."""
    level = len(module) - len(module.lstrip("."))
    if level == 0:
        return module
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - level + 1], *filter(None, [module[level:]])])


def faults(path: str, source: str, layers: dict[str, int]) -> list[str]:
    """Return one sentence for each import of the file that its layer forbids; `path` is relative to the root."""
    parts = Path(path).with_suffix("").parts
    unit = parts[1]
    if unit == "__init__":
        return []  # the front door names what it shows; nothing in the package may import it
    if unit not in layers:
        return [f"{path}: unit symphony.{unit} is in no layer; add it to the table in docs/architecture.md"]
    layer = layers[unit]
    package = ".".join(parts[:-1])
    read = python_imports if path.endswith(".py") else cython_imports
    return [
        f"{path}:{found.line}: layer {layer} may not use {found.name}: {why}"
        for found in read(source, package)
        if (why := fault_of(found, unit, layer, layers))
    ]


def fault_of(found: Import, unit: str, layer: int, layers: dict[str, int]) -> str:
    """Say why this import is forbidden in `unit`, or return an empty string."""
    root, _, rest = found.name.partition(".")
    if root == "symphony":
        target = rest.partition(".")[0]
        if target == unit:
            return ""
        if target not in layers:
            return "" if layer == max(layers.values()) else "only the top layer may import the package's front door"
        return "" if layers[target] < layer else f"symphony.{target} is in layer {layers[target]}, not below"
    if layer > PURE_LAYER_MAX and unit not in PURE_UNITS:
        return ""
    if found.name.startswith("<"):
        return "a clock, thread, socket or random header" if IMPURE_HEADERS.fullmatch(found.name[1:-1]) else ""
    if root in IMPURE_MODULES:
        return "clocks, sockets, threads, torch and random live in layer 4 and above"
    if found.is_cimport and any(f"{found.name}.".startswith(f"{name}.") for name in IMPURE_CIMPORTS):
        return "clocks, sockets, threads and random live in layer 4 and above"
    if root in sys.stdlib_module_names or root in PACKAGES_BY_LAYER[min(layer, PURE_LAYER_MAX)]:
        return ""
    return f"layer {layer} may use {', '.join(sorted(PACKAGES_BY_LAYER[layer])) or 'the standard library only'}"


def header_faults(path: str, source: str) -> list[str]:
    """Return one sentence for each line of a C++ header that knows Python, a clock, a thread or chance."""
    code = re.sub(r"/\*.*?\*/", lambda found: "\n" * found[0].count("\n"), source, flags=re.DOTALL)
    wrong = []
    for line, written in enumerate(code.splitlines(), 1):
        text = written.split("//")[0]
        if found := re.match(r"\s*#\s*include\s*[<\"]([^>\"]+)[>\"]", text):
            if found[1].endswith("Python.h") or IMPURE_HEADERS.fullmatch(found[1]):
                wrong.append(f"{path}:{line}: csrc may not include {found[1]}")
        elif found := re.search(
            r"\b(std::chrono|clock_gettime|gettimeofday|__rdtscp?|std::rand|Py[A-Z]\w+_\w+)\b", text
        ):
            wrong.append(f"{path}:{line}: csrc may not use {found[1]}")
    return wrong


LAYERS = read_layers((ROOT / "docs" / "architecture.md").read_text())
SOURCES = [
    path.relative_to(ROOT).as_posix()
    for path in sorted((ROOT / "symphony").rglob("*"))
    if path.suffix in {".py", ".pyx", ".pxd"}
]
HEADERS = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "csrc").rglob("*.h"))]


def test_table_names_every_unit() -> None:
    units = {path.split("/")[1] for path in SOURCES if path.count("/") > 1}
    assert units <= LAYERS.keys()
    assert LAYERS["errors"] == 0
    assert LAYERS["cli"] == max(LAYERS.values())


@pytest.mark.parametrize("path", SOURCES)
def test_source_imports_only_lower_layers(path: str) -> None:
    assert faults(path, (ROOT / path).read_text(), LAYERS) == []


@pytest.mark.parametrize("path", HEADERS)
def test_header_knows_neither_python_nor_clocks(path: str) -> None:
    assert header_faults(path, (ROOT / path).read_text()) == []


SAMPLE_LAYERS = {
    "errors": 0,
    "units": 0,
    "core": 1,
    "wire": 1,
    "driver": 3,
    "loop": 4,
    "client": 4,
    "server": 5,
    "cli": 6,
}

BAD = [
    ("symphony/core/a.py", "import time"),
    ("symphony/core/a.py", "import numpy, threading as t"),
    ("symphony/core/a.py", "from time import monotonic_ns"),
    ("symphony/core/a.py", "def f():\n    import asyncio.events"),
    ("symphony/core/a.py", "from symphony.wire import decode"),
    ("symphony/core/a.py", "from symphony import wire"),
    ("symphony/core/a.py", "from ..wire import decode"),
    ("symphony/core/a.py", "from .. import wire"),
    ("symphony/core/a.py", "import symphony.loop.thread as t"),
    ("symphony/core/a.py", "import aiohttp"),
    ("symphony/core/a.py", "import prometheus_client"),
    ("symphony/core/a.py", "if TYPE_CHECKING:\n    from torch import Tensor"),
    ("symphony/units.py", "import numpy"),
    ("symphony/units.py", "from symphony.errors import Reason"),
    ("symphony/loop/a.py", "from symphony.client import Client"),
    ("symphony/loop/a.py", "from symphony import Client"),
    ("symphony/server/a.py", "import symphony.cli.main"),
    ("symphony/strange/a.py", ""),
    ("symphony/driver/a.pyx", "cimport posix.time"),
    ("symphony/driver/a.pyx", "from posix.time cimport clock_gettime, timespec"),
    ("symphony/driver/a.pyx", "from posix cimport time as clock"),
    ("symphony/driver/a.pyx", "from libc.time cimport time"),
    ("symphony/driver/a.pyx", "from libc cimport time"),
    ("symphony/driver/a.pyx", "x = 1; import time"),
    ("symphony/driver/a.pyx", "from symphony.loop.thread cimport (\n    Loop,  # the loop\n    Wake,\n)"),
    ("symphony/driver/a.pyx", "from symphony.units import \\\n    ms_to_ns\nimport socket"),
    ("symphony/driver/a.pxd", "cimport symphony.loop.thread"),
    ("symphony/driver/a.pxd", "from symphony cimport loop"),
    ("symphony/driver/a.pxd", 'cdef extern from "<time.h>" nogil:\n    long time(long*)'),
    ("symphony/driver/a.pxd", 'cdef extern from "sys/timerfd.h":\n    pass'),
    ("symphony/driver/a.pxd", "cdef extern from *:\n    pass\ncdef extern from '<chrono>' namespace 'std':\n    pass"),
]

GOOD = [
    (
        "symphony/core/a.py",
        '"""import time"""\nimport numpy as np\nfrom symphony.errors import Reason\nfrom .events import Drop',
    ),
    ("symphony/core/a.py", "from symphony import errors\nfrom symphony.core import events\nimport symphony.units"),
    ("symphony/core/timekeeping.py", "from symphony.core.time import Epoch"),
    ("symphony/__init__.py", "from symphony.client import Client"),
    ("symphony/cli/a.py", "from symphony import Client\nimport time, torch"),
    ("symphony/loop/a.pyx", "from posix.time cimport clock_gettime\nfrom symphony.driver.driver cimport Driver"),
    (
        "symphony/driver/a.pyx",
        '"""Doc.\n\nimport time\n"""\n# import time\nfrom libc.stdint cimport int64_t\ncimport cython',
    ),
    (
        "symphony/driver/a.pyx",
        "from symphony.core.scheduler cimport Scheduler\ncdef int important = 1\nimports = (1,\n2)",
    ),
    ("symphony/driver/a.pxd", 'cdef extern from "symphony/mpsc_ring.h" namespace "symphony" nogil:\n    pass'),
]


@pytest.mark.parametrize(("path", "source"), BAD)
def test_checker_sees_forbidden_import(path: str, source: str) -> None:
    assert len({fault.split(": ")[0] for fault in faults(path, source, SAMPLE_LAYERS)}) == 1


@pytest.mark.parametrize(("path", "source"), GOOD)
def test_checker_accepts_lower_import(path: str, source: str) -> None:
    assert faults(path, source, SAMPLE_LAYERS) == []


def test_checker_gives_line_of_import() -> None:
    source = '"""Two\nlines."""\nfrom libc.stdint cimport (\n    int32_t,\n)\nimport time\n'
    assert faults("symphony/core/a.pyx", source, SAMPLE_LAYERS)[0].startswith(
        "symphony/core/a.pyx:6: layer 1 may not use time"
    )


@pytest.mark.parametrize(
    "source",
    [
        "#include <Python.h>",
        '#include "Python.h"',
        "# include <chrono>",
        "#include <time.h>",
        "#include <thread>",
        "auto now = std::chrono::steady_clock::now();",
        "clock_gettime(CLOCK_MONOTONIC, &ts);",
        "Py_INCREF_(x); PyObject_Call(f);",
    ],
)
def test_checker_sees_header_that_knows_too_much(source: str) -> None:
    assert len(header_faults("csrc/a.h", source)) == 1


def test_checker_accepts_plain_header() -> None:
    source = (
        "// no clock_gettime, no Python.h\n#include <atomic>\n/* std::chrono */\n#include <cstdint>\nint64_t now_ns;\n"
    )
    assert header_faults("csrc/a.h", source) == []
