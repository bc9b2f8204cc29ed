"""Run Triton's perf_analyzer, a load generator that others wrote, against a node: a sweep, and Poisson arrivals.

    python bench/perf_analyzer.py                 (make perf-analyzer)

It is fetched once into build/perf_analyzer: the wheel from PyPI, and where this machine's C library is older than the
one it needs (2.38), Debian 13's libraries beside it; nothing is installed. The model is emulated, so the figures are of
the node and of perf_analyzer, which share the machine. What it measured is printed as perf_analyzer says it; the
command fails unless every point of both runs was measured. perf_analyzer gives up at the first request that gets no
outputs, and it asks again only when it was answered. So the policy is `eager` here: the default waits for company as
long as the SLO allows, which a client that waits for each answer sees as latency. `--policy deferred` shows that.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "perf_analyzer"
VERSION = "2.60.0"
GLIBC_NEEDED = (2, 38)
WHEEL_PLATFORM = "manylinux_2_38_x86_64"
DEBIAN = "deb http://deb.debian.org/debian trixie main\n"
LIBRARIES = ("libc6", "libstdc++6", "libgcc-s1", "zlib1g", "libssl3t64", "libzstd1")
LIBRARY_FOLDER = FOLDER / "root" / "usr" / "lib" / "x86_64-linux-gnu"
PROGRAM = FOLDER / "perf_analyzer" / "bin" / "perf_analyzer"
MODEL = """
name = "emulated"
slo_ms = 200
max_batch_size = 32
format = "emulated"
[emulated]
alpha_ms = 0.2
beta_ms = 2.0
[[inputs]]
name = "x"
datatype = "FP32"
shape = [64]
[[outputs]]
name = "y"
datatype = "FP32"
shape = [16]
"""


def has_own_libraries() -> bool:
    """Say whether this machine's C library is new enough."""
    name, version = platform.libc_ver()
    return name == "glibc" and tuple(map(int, version.split(".")[:2])) >= GLIBC_NEEDED


def fetch() -> None:
    """Fetch perf_analyzer, and the libraries that it needs and this machine lacks."""
    if platform.machine() != "x86_64":
        raise SystemExit(f"perf_analyzer comes for x86_64 only, this is {platform.machine()}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not PROGRAM.exists():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        wanted = ["--only-binary=:all:", "--platform", WHEEL_PLATFORM, f"perf-analyzer=={VERSION}"]
        subprocess.run([*pip, *wanted, "--dest", str(FOLDER)], check=True)
        (wheel,) = FOLDER.glob("perf_analyzer-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(FOLDER)
        PROGRAM.chmod(0o755)
    if not has_own_libraries() and not (LIBRARY_FOLDER / "libzstd.so.1").exists():
        fetch_libraries()


def fetch_libraries() -> None:
    """Unpack Debian 13's libraries into the folder, with apt's own check of their signatures."""
    if shutil.which("apt-get") is None:
        raise SystemExit(
            f"perf_analyzer needs glibc {GLIBC_NEEDED[0]}.{GLIBC_NEEDED[1]}, this machine has "
            f"{platform.libc_ver()[1]} and no apt-get to fetch a newer one with; use Debian 13, Ubuntu 24.04 or newer"
        )
    for name in ("lists/partial", "cache/archives/partial", "debs"):
        (FOLDER / name).mkdir(parents=True, exist_ok=True)
    (FOLDER / "sources.list").write_text(DEBIAN)
    options = {
        "Dir::Etc::sourcelist": FOLDER / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": FOLDER / "lists",
        "Dir::Cache": FOLDER / "cache",
        "APT::Sandbox::User": "",
    }
    apt = ["apt-get", "-qq", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "download", *LIBRARIES], check=True, cwd=FOLDER / "debs")
    for package in (FOLDER / "debs").glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(FOLDER / "root")], check=True)


def command() -> list[str]:
    """Return how perf_analyzer is started here."""
    if has_own_libraries():
        return [str(PROGRAM)]
    loader = LIBRARY_FOLDER / "ld-linux-x86-64.so.2"
    return [str(loader), "--library-path", str(LIBRARY_FOLDER), str(PROGRAM)]


def measure(address: str, table: Path, *options: str) -> list[dict[str, str]]:
    """Run perf_analyzer on the model; print what it says; return the rows of its CSV."""
    words = [*command(), "-m", "emulated", "-u", address, "--percentile=99", "-f", str(table), *options]
    print("perf_analyzer", *words[len(command()) :], flush=True)
    subprocess.run(words, check=True, timeout=600)
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def served(root: Path, policy: str) -> tuple[subprocess.Popen[str], str]:
    """Start a node with the model; return it and its address once it is ready."""
    (root / "models" / "emulated").mkdir(parents=True)
    (root / "models" / "emulated" / "model.toml").write_text(MODEL)
    symphony = [sys.executable, "-c", "from symphony.cli.main import main; main()", "serve", "--port", "0"]
    flags = ["--repository", str(root / "models"), "--devices", "1xemulated", "--policy", policy]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    node = subprocess.Popen([*symphony, *flags], stderr=subprocess.PIPE, text=True, env=environment)
    address = ""
    assert node.stderr is not None
    for line in node.stderr:
        address = line.split("http://")[1].strip() if "listening on http://" in line else address
        if "ready: emulated" in line:
            return node, address
    raise SystemExit("the node did not become ready")


def show(title: str, rows: list[dict[str, str]], key: str) -> None:
    """Print the points of one run."""
    print(f"\n{title:>11}  inferences/s  p99 ms")
    for row in sorted(rows, key=lambda row: float(row[key])):
        p99_ms = float(row["p99 latency"]) / 1000
        print(f"{row[key]:>11}  {float(row['Inferences/Second']):12.0f}  {p99_ms:6.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="measure for a moment only")
    parser.add_argument("--policy", default="eager", choices=["eager", "deferred"])
    arguments = parser.parse_args()
    is_smoke = arguments.smoke
    fetch()
    interval = ["--measurement-interval", "500" if is_smoke else "3000", "--max-trials", "20"]
    # The figures of a moment vary; how much, a smoke test does not care.
    interval += ["--stability-percentage", "90" if is_smoke else "20"]
    concurrencies = "1:2" if is_smoke else "1:16:5"
    rates = "100" if is_smoke else "100:500:200"
    with tempfile.TemporaryDirectory() as folder:
        node, address = served(Path(folder), arguments.policy)
        try:
            table = Path(folder) / "table.csv"
            sweep = measure(address, table, "--concurrency-range", concurrencies, *interval)
            poisson = ["--request-distribution", "poisson", "--request-rate-range", rates]
            arrivals = measure(address, table, *poisson, "-H", "symphony-slo-ms:150", *interval)
        finally:
            node.terminate()
            node.wait(30)
    show("concurrency", sweep, "Concurrency")
    show("Poisson /s", arrivals, "Request Rate")
    wanted = (2, 1) if is_smoke else (4, 3)
    if (len(sweep), len(arrivals)) != wanted:
        raise SystemExit(f"measured {len(sweep)} and {len(arrivals)} points, expected {wanted[0]} and {wanted[1]}")


if __name__ == "__main__":
    main()
