"""`symphony profile` measures, shows, saves, draws, and says in one sentence why it cannot."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from symphony.cli.profile import profile_command
from symphony.errors import ConfigError
from symphony.execution.devices import CpuDevice
from symphony.execution.profiler import ProfileStore, fingerprint
from symphony.execution.repository import read_model_config
from symphony.profiles import LatencyProfile

TENSORS = (
    '[[inputs]]\nname = "x"\ndatatype = "FP32"\nshape = [4]\n[[outputs]]\nname = "y"\ndatatype = "FP32"\nshape = [4]\n'
)
DOUBLE = "class Model:\n    def predict(self, batch):\n        return {'y': batch['x'] * 2}\n"


@pytest.fixture(autouse=True)
def own_cache_and_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Keep away from the user's cache, and give torch back its threads."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def make_model(tmp_path: Path, source: str = DOUBLE, batch_size_max: int = 4) -> Path:
    """Write a python model and return its folder."""
    folder = tmp_path / "double"
    folder.mkdir()
    (folder / "model.toml").write_text(
        f'name = "double"\nslo_ms = 1000\nmax_batch_size = {batch_size_max}\nformat = "python"\n'
        f'entry = "model.py:Model"\n{TENSORS}'
    )
    (folder / "model.py").write_text(source)
    return folder


def make_emulated(tmp_path: Path, slo_ms: float = 50) -> Path:
    """Write an emulated model with l(b) = b + 5 ms and return its folder."""
    folder = tmp_path / "emulated"
    folder.mkdir()
    (folder / "model.toml").write_text(
        f'name = "em"\nslo_ms = {slo_ms}\nmax_batch_size = 100\nformat = "emulated"\n{TENSORS}'
        "[emulated]\nalpha_ms = 1\nbeta_ms = 5\n"
    )
    return folder


def profile(*arguments: object) -> Result:
    """Run the command quietly; what it raises is raised here."""
    return CliRunner().invoke(profile_command, [*map(str, arguments), "--quiet"], catch_exceptions=False)


def fault(*arguments: object) -> str:
    """Return the sentence with which the command ends."""
    with pytest.raises(ConfigError) as caught:
        profile(*arguments)
    return str(caught.value)


def test_profile_is_measured_shown_and_saved_for_the_server(tmp_path: Path) -> None:
    """The server finds it under the same device, torch and fingerprint."""
    folder = make_model(tmp_path)
    shown = profile(folder, "--budget-s", 0.1, "--threads", 1).output
    for text in ("double version 1, on cpu x1 threads", "median ms", "p99 ms", "items/s", "alpha", "beta"):
        assert text in shown
    assert (
        "staggered on 1 such device: batches of 4, " in shown and "staggered on 8 such devices: batches of 4" in shown
    )
    assert f"saved in {folder / 'profiles' / 'cpu-x1-threads.json'}" in shown
    mark = fingerprint(read_model_config(folder, folder), folder)
    saved = ProfileStore(folder).load(CpuDevice(0, 1).model, torch.__version__, mark)
    assert saved is not None and saved.batch_sizes == (1, 2, 3, 4)


def test_figures_are_written_as_json(tmp_path: Path) -> None:
    """All that is shown, and the profile itself."""
    file = tmp_path / "figures.json"
    profile(make_model(tmp_path), "--budget-s", 0.1, "--threads", 1, "--json", file)
    figures = json.loads(file.read_text())
    measured = LatencyProfile.from_json(json.dumps(figures["profile"]), str(file))
    assert figures["table_ms"] == [value / 1e6 for value in measured.table_ns(4)]
    assert figures["slo_ms"] == 1000.0 and figures["alpha_ms"] == measured.fit()[0] / 1e6
    assert [bound["gpu_count"] for bound in figures["staggered_bounds"]] == [1, 2, 4, 8]


def test_profile_of_an_emulated_model_is_its_declaration(tmp_path: Path) -> None:
    """Nothing is measured or saved."""
    folder, file = make_emulated(tmp_path), tmp_path / "figures.json"
    shown = profile(folder, "--json", file).output
    assert "em version 1, declared" in shown and "saved" not in shown
    assert "alpha 1.000 ms per request, beta 5.000 ms" in shown
    assert "staggered on 1 such device: batches of 20, 800 requests/s at SLO 50 ms" in shown
    assert "of 100 sizes shown; --json writes all" in shown
    assert json.loads(file.read_text())["table_ms"] == [size + 5.0 for size in range(1, 101)]
    assert [path.name for path in folder.iterdir()] == ["model.toml"]


def test_slo_that_no_batch_meets_is_said(tmp_path: Path) -> None:
    """(1 + 1/1) 6 ms is above 10 ms; with two devices 9 ms is not."""
    shown = profile(make_emulated(tmp_path, slo_ms=10)).output
    assert "staggered on 1 such device: no batch size has (1 + 1/1) l(b) <= SLO 10 ms" in shown
    assert "staggered on 2 such devices: batches of 1, 333 requests/s" in shown


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_profile_is_drawn(tmp_path: Path, suffix: str) -> None:
    """As an image of some size."""
    pytest.importorskip("matplotlib")
    file = tmp_path / f"plot.{suffix}"
    profile(make_emulated(tmp_path), "--plot", file)
    assert file.read_bytes().startswith(b"\x89PNG" if suffix == "png" else b"<?xml")


def test_missing_matplotlib_is_said_before_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "symphony.cli.profile_plot", raising=False)
    folder = make_model(tmp_path)
    assert "--plot needs matplotlib" in fault(folder, "--plot", tmp_path / "plot.png")
    assert not (folder / "profiles").exists()


def test_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """Before measuring, as far as one can know."""
    folder = make_model(tmp_path)
    for option in ("--json", "--plot"):
        assert "its folder does not exist; make it first" in fault(folder, option, tmp_path / "missing" / "file.png")
    assert not (folder / "profiles").exists()
    emulated = make_emulated(tmp_path)
    assert f"cannot write {tmp_path}: " in fault(emulated, "--json", tmp_path)
    pytest.importorskip("matplotlib")
    assert "name a .png, .svg or .pdf file" in fault(emulated, "--plot", tmp_path / "plot.unknown")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "gpu"], "--device: 'gpu' is no device"),
        (["--device", "2xcpu"], "names 2 devices; a profile is measured on one"),
        (["--device", "emulated"], "may run on cpu, cuda; name one of them"),
        (["--device", "cuda:0", "--threads", "2"], "--threads 2 is for cpu devices"),
    ],
)
def test_device_that_cannot_be_is_said(tmp_path: Path, arguments: list[str], said: str) -> None:
    """Not measured on another instead."""
    assert said in fault(make_model(tmp_path), *arguments)


def test_emulated_model_is_not_measured_on_a_device(tmp_path: Path) -> None:
    """It would measure nothing but the clock."""
    assert "its profile is declared, not measured" in fault(make_emulated(tmp_path), "--device", "cpu")


def test_folder_without_a_model_is_said(tmp_path: Path) -> None:
    """With the file that was looked for."""
    assert f"{tmp_path / 'nothing' / 'model.toml'} is not a file" in fault(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise ValueError('no luck')\n", "failed to load on cpu: ValueError: no luck"),
        (DOUBLE.replace("* 2", "[:, :1]"), "a batch of 1 failed on cpu:0: DeviceError"),
        (
            DOUBLE.replace("return", "assert len(batch['x']) < 4, 'too many'\n        return"),
            "a batch of 4 failed on cpu:0: AssertionError: too many",
        ),
    ],
)
def test_model_that_fails_is_said_and_not_saved(tmp_path: Path, source: str, said: str) -> None:
    """With the batch that failed."""
    folder = make_model(tmp_path, source)
    assert said in fault(folder)
    assert not (folder / "profiles").exists()


def test_profile_that_cannot_be_saved_is_still_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And said to be lost."""
    folder = make_model(tmp_path)
    (folder / "profiles").write_text("in the way")
    (tmp_path / "cache").write_text("in the way")
    shown = profile(folder, "--budget-s", 0.1, "--threads", 1).output
    assert "median ms" in shown
    assert "not saved: neither the model's folder nor the cache folder can be written" in shown


def test_progress_is_shown_unless_quiet(tmp_path: Path) -> None:
    """On standard error, so that the table can be kept."""
    arguments = [str(make_model(tmp_path)), "--budget-s", "0.1", "--threads", "1"]
    result = CliRunner().invoke(profile_command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "staggered" in result.stdout and "staggered" not in result.stderr


def make_varying(tmp_path: Path) -> Path:
    """Write a model whose requests are 8 or 16 long and return its folder."""
    folder = make_model(tmp_path)
    text = (folder / "model.toml").read_text().replace("[4]", "[-1]")
    (folder / "model.toml").write_text(f"length_buckets = [8, 16]\n{text}")
    return folder


def test_each_length_has_a_profile_of_its_own(tmp_path: Path) -> None:
    """Of several the longest is measured, unless another is named."""
    folder = make_varying(tmp_path)
    assert "cpu-x1-threads-length-16.json" in profile(folder, "--budget-s", 0.1, "--threads", 1).output
    assert "cpu-x1-threads-length-8.json" in profile(folder, "--budget-s", 0.1, "--threads", 1, "--length", 8).output


def test_a_length_that_is_no_bucket_is_refused(tmp_path: Path) -> None:
    assert '--length 9: model "double": choose one of [8, 16]' in fault(make_varying(tmp_path), "--length", 9)


def test_a_length_is_refused_where_none_varies(tmp_path: Path) -> None:
    assert "its requests do not vary in length; leave it out" in fault(make_model(tmp_path), "--length", 9)
