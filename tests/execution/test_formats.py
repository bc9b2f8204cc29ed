"""Models of every format become the same callable, and one that cannot be loaded says which file and what to do."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from symphony.config import ModelConfig, TensorSpec
from symphony.errors import ConfigError
from symphony.execution.formats import ModelLoadError, load_callable

X = TensorSpec("x", "FP32", (4,))
Y = TensorSpec("y", "FP32", (2,))


def make_config(**changes: Any) -> ModelConfig:
    """Return a python model with x float32[4] in and y float32[2] out."""
    return ModelConfig(
        **{
            "name": "m",
            "version": "1",
            "slo_ms": 50.0,
            "batch_size_max": 8,
            "inputs": (X,),
            "outputs": (Y,),
            "format": "python",
            "entry": "model.py:Model",
            "device_kinds": ("cpu",),
            **changes,
        }
    )


def load_source(folder: Path, source: str, **changes: Any) -> Any:
    """Write model.py and load it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(source)
    return load_callable(make_config(**changes), folder, "cpu")


def load_fault(folder: Path, **changes: Any) -> str:
    """Return why the model cannot be loaded."""
    with pytest.raises(ModelLoadError) as caught:
        load_callable(make_config(**changes), folder, "cpu")
    assert isinstance(caught.value, ConfigError)
    assert str(caught.value).startswith('model "m"')
    return str(caught.value)


def run(predict: Any, batch_size: int, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """Run a batch as a device does."""
    with torch.inference_mode():
        return dict(predict(inputs or {"x": torch.arange(4.0 * batch_size).reshape(batch_size, 4)}))


# ---- python ----------------------------------------------------------------------------------------------------


def test_class_is_loaded_and_called(tmp_path: Path) -> None:
    """`load` hears folder, device and parameters before `predict` is called."""
    (tmp_path / "factor.txt").write_text("3")
    predict = load_source(
        tmp_path,
        "import torch\n"
        "class Model:\n"
        "    def load(self, folder, device, parameters):\n"
        "        assert device == torch.device('cpu')\n"
        "        self.factor = int((folder / 'factor.txt').read_text()) * parameters['scale']\n"
        "    def predict(self, batch):\n"
        "        assert torch.is_inference_mode_enabled()\n"
        "        return {'y': batch['x'][:, :2] * self.factor}\n",
        parameters={"scale": 2},
    )
    assert run(predict, 2)["y"].tolist() == [[0.0, 6.0], [24.0, 30.0]]
    assert predict.sample is None


def test_class_hears_all_of_model_toml_before_it_loads(tmp_path: Path) -> None:
    predict = load_source(
        tmp_path,
        "class Model:\n"
        "    def configure(self, config):\n"
        "        self.width = config.outputs[0].shape[0]\n"
        "    def load(self, folder, device, parameters):\n"
        "        self.factor = 10 * self.width\n"
        "    def predict(self, batch):\n"
        "        return {'y': batch['x'][:, : self.width] * self.factor}\n",
    )
    assert run(predict, 1)["y"].tolist() == [[0.0, 20.0]]


def test_factory_may_return_an_object_or_a_function(tmp_path: Path) -> None:
    """And a class without `load` is fine."""
    source = (
        "class Model:\n    def predict(self, batch):\n        return {'y': batch['x'][:, :2]}\n"
        "def make_object():\n    return Model()\n"
        "def make_function():\n    return lambda batch: {'y': batch['x'][:, 2:]}\n"
    )
    assert run(load_source(tmp_path, source), 1)["y"].tolist() == [[0.0, 1.0]]
    assert run(load_source(tmp_path, source, entry="model.py:make_object"), 1)["y"].tolist() == [[0.0, 1.0]]
    assert run(load_source(tmp_path, source, entry="model.py:make_function"), 1)["y"].tolist() == [[2.0, 3.0]]


def test_module_is_put_in_evaluation_mode(tmp_path: Path) -> None:
    """Dropout must not answer requests."""
    predict = load_source(
        tmp_path,
        "import torch\n"
        "class Model(torch.nn.Module):\n"
        "    def predict(self, batch):\n"
        "        return {'y': torch.nn.functional.dropout(batch['x'][:, :2], 0.9, self.training)}\n",
    )
    assert run(predict, 4)["y"].equal(torch.arange(16.0).reshape(4, 4)[:, :2])


@pytest.mark.parametrize("source", ["import sys; sys.exit(3)", "raise KeyboardInterrupt", "raise GeneratorExit"])
def test_model_that_would_end_its_thread_raises_an_exception_instead(tmp_path: Path, source: str) -> None:
    predict = load_source(tmp_path, f"class Model:\n    def predict(self, batch):\n        {source}\n")
    with pytest.raises(RuntimeError, match="a model must raise Exceptions only"):
        run(predict, 1)


def test_bytes_arrive_as_numpy_objects(tmp_path: Path) -> None:
    """Torch has no text."""
    predict = load_source(
        tmp_path,
        "import torch\n"
        "class Model:\n"
        "    def predict(self, batch):\n"
        "        return {'y': torch.tensor([[len(t) for t in row] for row in batch['x']], dtype=torch.float32)}\n",
    )
    texts = np.array([[b"a", b"bcd"]], dtype=object)
    assert run(predict, 1, x=texts)["y"].tolist() == [[1.0, 3.0]]  # type: ignore[arg-type]


def test_own_samples_are_offered(tmp_path: Path) -> None:
    """For warm-up and profiling."""
    predict = load_source(
        tmp_path,
        "class Model:\n"
        "    def predict(self, batch):\n        return {}\n"
        "    def sample(self, rng):\n        return {'x': rng.integers(5, 6, 4)}\n",
    )
    assert predict.sample is not None
    assert predict.sample(np.random.default_rng(0))["x"].tolist() == [5, 5, 5, 5]


def test_class_in_a_package_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From wherever Python finds it."""
    package = tmp_path / "site" / "symphony_test_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("def make():\n    return lambda batch: {'y': batch['x'][:, :2]}\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    predict = load_callable(make_config(entry="symphony_test_package.inner:make"), tmp_path, "cpu")
    assert run(predict, 1)["y"].tolist() == [[0.0, 1.0]]
    assert "No module named 'symphony_test_missing'" in load_fault(tmp_path, entry="symphony_test_missing:make")


def constant(value: int) -> str:
    """Return the source of a model that answers `value`, which it looks up in its own module when asked."""
    return (
        "import sys, torch\n"
        f"VALUE = {value}\n"
        "class Model:\n"
        "    def predict(self, batch):\n"
        "        value = sys.modules[type(self).__module__].VALUE\n"
        "        return {'y': torch.full((len(batch['x']), 2), float(value))}\n"
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"name": "a"}, {"name": "b"}),
        ({"name": "a-b"}, {"name": "a.b"}),
        ({"name": "a_b"}, {"name": "a-b"}),
        ({"name": "a", "version": "11"}, {"name": "a1", "version": "1"}),
        ({"version": "1"}, {"version": "2"}),
        ({}, {}),
    ],
)
def test_models_with_the_same_file_name_do_not_collide(
    tmp_path: Path, first: dict[str, str], second: dict[str, str]
) -> None:
    """Neither through the name nor the version, nor in two repositories."""
    one = load_source(tmp_path / "1", constant(1), **first)
    two = load_source(tmp_path / "2", constant(2), **second)
    assert run(one, 1)["y"].tolist() == [[1.0, 1.0]]
    assert run(two, 1)["y"].tolist() == [[2.0, 2.0]]


def test_file_does_not_hide_a_package_of_its_name(tmp_path: Path) -> None:
    """A model called json.py leaves json alone."""
    import json

    (tmp_path / "json.py").write_text(constant(1))
    load_callable(make_config(entry="json.py:Model"), tmp_path, "cpu")
    assert sys.modules["json"] is json
    assert str(tmp_path) not in sys.path


def test_file_beside_the_model_is_imported_relatively(tmp_path: Path) -> None:
    """Two models may each have a `helper`."""
    source = (
        "import torch\nfrom .helper import VALUE\nfrom . import helper\n"
        "class Model:\n    def predict(self, batch):\n        return {'y': torch.full((1, 2), VALUE + helper.VALUE)}\n"
    )
    for name, value in (("a", 1.0), ("b", 2.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "helper.py").write_text(f"VALUE = {value}\n")
    a = load_source(tmp_path / "a", source, name="a")
    b = load_source(tmp_path / "b", source, name="b")
    assert run(a, 1)["y"].tolist() == [[2.0, 2.0]]
    assert run(b, 1)["y"].tolist() == [[4.0, 4.0]]


def test_reload_reads_model_and_neighbours_anew(tmp_path: Path) -> None:
    """And the one loaded before goes on as it was."""
    source = (
        "import torch\nfrom .helper import VALUE\n"
        "class Model:\n    def predict(self, batch):\n        return {'y': torch.full((1, 2), VALUE)}\n"
    )
    helper = tmp_path / "helper.py"
    helper.write_text("VALUE = 1.0\n")
    before = load_source(tmp_path, source)
    helper.write_text("VALUE = 2.0 + 0.0\n")
    after = load_source(tmp_path, source)
    assert run(before, 1)["y"].tolist() == [[1.0, 1.0]]
    assert run(after, 1)["y"].tolist() == [[2.0, 2.0]]


def test_failed_reload_leaves_the_serving_model_its_modules(tmp_path: Path) -> None:
    """The one that serves still finds itself, and nothing half-made stays behind."""
    serving = load_source(tmp_path, constant(1))
    known = {name for name in sys.modules if name.startswith("symphony_model_m_")}
    with pytest.raises(ModelLoadError):
        load_source(tmp_path, "VALUE = 7\nraise ValueError('halfway')\n")
    assert {name for name in sys.modules if name.startswith("symphony_model_m_")} == known
    assert run(serving, 1)["y"].tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("class Modell:\n    pass\n", "model.py has no 'Model'; change entry in model.toml"),
        ("raise ValueError('no luck')\n", "failed to load on cpu: ValueError: no luck"),
        ("def broken(:\n", "SyntaxError"),
        ("import symphony_test_missing\n", "No module named 'symphony_test_missing'"),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3"),
        ("class Model:\n    def __init__(self, needed):\n        pass\n", "TypeError"),
        ("class Model:\n    def load(self, *_):\n        open('/nowhere/weights')\n", "FileNotFoundError"),
        ("class Model:\n    pass\n", "gave Model without a plain predict(batch) method; add one"),
        ("def Model():\n    pass\n", "gave NoneType without a plain predict(batch) method"),
        ("class Model:\n    async def predict(self, batch):\n        pass\n", "without a plain predict(batch) method"),
    ],
)
def test_faulty_code_is_a_load_error_that_names_it(tmp_path: Path, source: str, said: str) -> None:
    """Never the code's own exception, never the end of the process."""
    (tmp_path / "model.py").write_text(source)
    fault = load_fault(tmp_path)
    assert "model.py" in fault and said in fault


# ---- files -----------------------------------------------------------------------------------------------------

FILE_FORMATS = [("python", "model.py:Model"), ("torch_export", "model.pt2"), ("torchscript", "model.pt")]


@pytest.mark.parametrize(("form", "entry"), FILE_FORMATS)
def test_missing_file_is_named(tmp_path: Path, form: str, entry: str) -> None:
    """With where it should be."""
    file = tmp_path / entry.split(":")[0]
    assert f"{file} does not exist; put it there or change entry" in load_fault(tmp_path, format=form, entry=entry)


@pytest.mark.parametrize(("form", "entry"), FILE_FORMATS)
def test_file_outside_the_folder_is_not_read(tmp_path: Path, form: str, entry: str) -> None:
    """However it is reached."""
    name = entry.split(":")[0]
    (tmp_path / name).write_text("raise SystemError('read')\n")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / name).symlink_to(tmp_path / name)
    assert "leads out of its folder" in load_fault(folder, format=form, entry=entry)
    assert "leads out of its folder" in load_fault(folder, format=form, entry=f"../{entry}")


@pytest.mark.parametrize(("form", "entry"), FILE_FORMATS[1:])
def test_file_of_another_kind_is_refused_with_a_remedy(tmp_path: Path, form: str, entry: str) -> None:
    """Not torch's own exception."""
    (tmp_path / entry).write_bytes(b"not a model")
    fault = load_fault(tmp_path, format=form, entry=entry)
    assert str(tmp_path / entry) in fault and "torch.export" in fault


def test_emulated_model_cannot_be_loaded_here(tmp_path: Path) -> None:
    """It has no code."""
    assert 'format "emulated" runs on emulated devices only' in load_fault(tmp_path, format="emulated", entry="")


# ---- torch.export ----------------------------------------------------------------------------------------------


class TwoInputs(torch.nn.Module):
    """a @ w + b, and the sum of a; in the form asked for."""

    def __init__(self, form: str = "tuple") -> None:
        super().__init__()
        self.form = form
        self.linear = torch.nn.Linear(4, 2)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> Any:
        y, total = self.linear(a) + b, a.sum(1)
        return {"tuple": (y, total), "list": [y, total], "dict": {"total": total, "y": y}, "tensor": y}[self.form]


INPUTS = (TensorSpec("b", "FP32", (4,)), TensorSpec("a", "FP32", (2,)))
"""Names that sort the other way than they stand: the order decides."""
OUTPUTS = (Y, TensorSpec("total", "FP32", ()))
DYNAMIC = {"format": "torch_export", "entry": "model.pt2", "inputs": INPUTS, "outputs": OUTPUTS}


def export(folder: Path, module: torch.nn.Module, size_max: int | None = 8, size_min: int = 1) -> None:
    """Write model.pt2 with a batch dimension from `size_min` to `size_max`; None: fixed at 3."""
    shapes = None
    if size_max is not None:
        batch = torch.export.Dim("batch", min=size_min, max=size_max)
        shapes = ({0: batch}, {0: batch})
    example = (torch.zeros(3, 4), torch.zeros(3, 2))
    torch.export.save(torch.export.export(module.eval(), example, dynamic_shapes=shapes), folder / "model.pt2")


@pytest.mark.parametrize("form", ["tuple", "list", "dict"])
def test_exported_model_answers_every_batch_size(tmp_path: Path, form: str) -> None:
    """Inputs go in by position, outputs come back by the names of model.toml."""
    module = TwoInputs(form)
    export(tmp_path, module)
    predict = load_callable(make_config(**DYNAMIC), tmp_path, "cpu")
    for size in range(1, 9):
        b, a = torch.randn(size, 4), torch.randn(size, 2)
        found = run(predict, size, a=a, b=b)
        with torch.inference_mode():
            assert torch.allclose(found["y"], module.linear(b) + a, atol=1e-6)
        assert torch.allclose(found["total"], b.sum(1), atol=1e-6)
        assert tuple(found["y"].shape) == (size, 2) and tuple(found["total"].shape) == (size,)


def test_exported_model_may_return_one_tensor(tmp_path: Path) -> None:
    """Without a tuple around it."""
    export(tmp_path, TwoInputs("tensor"))
    predict = load_callable(make_config(**DYNAMIC | {"outputs": (Y,)}), tmp_path, "cpu")
    assert run(predict, 2, b=torch.zeros(2, 4), a=torch.zeros(2, 2)).keys() == {"y"}


def test_exported_model_with_another_number_of_outputs_is_said(tmp_path: Path) -> None:
    """With both numbers."""
    export(tmp_path, TwoInputs())
    predict = load_callable(make_config(**DYNAMIC | {"outputs": (Y,)}), tmp_path, "cpu")
    with pytest.raises(ValueError, match=r"returned 2 outputs, model.toml declares 1: \['y'\]"):
        run(predict, 2, b=torch.zeros(2, 4), a=torch.zeros(2, 2))


@pytest.mark.parametrize("marker", [torch.export.Dim.AUTO, torch.export.Dim.DYNAMIC])
def test_export_with_an_inferred_dimension_is_taken(tmp_path: Path, marker: Any) -> None:
    """Torch notes a least size of 2 for it, but runs 1."""
    example = (torch.zeros(3, 4), torch.zeros(3, 2))
    program = torch.export.export(TwoInputs().eval(), example, dynamic_shapes=({0: marker}, {0: marker}))
    torch.export.save(program, tmp_path / "model.pt2")
    predict = load_callable(make_config(**DYNAMIC, batch_size_max=4096), tmp_path, "cpu")
    for size in (1, 2, 100):
        assert len(run(predict, size, b=torch.zeros(size, 4), a=torch.zeros(size, 2))["y"]) == size


def test_export_with_a_fixed_batch_is_refused_at_load(tmp_path: Path) -> None:
    """Not at the first batch of another size."""
    export(tmp_path, TwoInputs(), size_max=None)
    fault = load_fault(tmp_path, **DYNAMIC)
    assert 'input "b" was exported with a fixed batch of 3; export it with a dynamic first dimension' in fault


def test_export_for_smaller_batches_is_refused_at_load(tmp_path: Path) -> None:
    """And one for exactly as large ones is not."""
    export(tmp_path, TwoInputs(), size_max=7)
    load_callable(make_config(**DYNAMIC, batch_size_max=7), tmp_path, "cpu")
    assert "was exported for batches of 1 to 7; export it for 1 to max_batch_size = 8" in load_fault(
        tmp_path, **DYNAMIC
    )


def test_export_for_larger_batches_only_is_refused_at_load(tmp_path: Path) -> None:
    """A request may come alone."""
    export(tmp_path, TwoInputs(), size_min=3)
    assert "was exported for batches of 3 to 8" in load_fault(tmp_path, **DYNAMIC)


def test_export_with_other_inputs_is_refused_at_load(tmp_path: Path) -> None:
    """In number or in shape."""
    export(tmp_path, TwoInputs())
    assert "takes 2 inputs, model.toml declares 1" in load_fault(tmp_path, **DYNAMIC | {"inputs": INPUTS[:1]})
    fault = load_fault(tmp_path, **DYNAMIC | {"inputs": INPUTS[::-1]})
    assert 'input "a" was exported with shape' in fault and "model.toml declares [2]" in fault


class Positions(torch.nn.Module):
    """x plus its positions plus a constant: three ways in which a graph may name a device."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4))
        self.constant = torch.ones(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight + torch.arange(4.0, device=x.device) + self.constant


def test_exported_model_moves_to_the_device_with_all_it_names(tmp_path: Path) -> None:
    """Weights, constants, and tensors made on the way; the device "meta" stands for a GPU."""
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(Positions(), (torch.zeros(2, 4),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "model.pt2")
    config = make_config(format="torch_export", entry="model.pt2", outputs=(TensorSpec("y", "FP32", (4,)),))
    for device in ("cpu", "meta"):
        found = run(load_callable(config, tmp_path, device), 3, x=torch.zeros(3, 4, device=device))["y"]
        assert found.device.type == device and found.shape == (3, 4)


# ---- TorchScript -----------------------------------------------------------------------------------------------


def test_scripted_model_is_loaded_with_a_word_of_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is deprecated upstream."""
    module = TwoInputs()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = (torch.zeros(3, 4), torch.zeros(3, 2))
        torch.jit.save(torch.jit.trace(module.eval(), example), tmp_path / "model.pt")
    with caplog.at_level(logging.WARNING):
        predict = load_callable(
            make_config(**DYNAMIC | {"format": "torchscript", "entry": "model.pt"}), tmp_path, "cpu"
        )
    assert "TorchScript is deprecated upstream" in caplog.text
    for size in (1, 2, 8):
        found = run(predict, size, b=torch.ones(size, 4), a=torch.zeros(size, 2))
        assert found["total"].tolist() == [4.0] * size and found["y"].shape == (size, 2)


# ---- the page --------------------------------------------------------------------------------------------------


def test_examples_of_the_page_work(tmp_path: Path) -> None:
    """docs/models.md shows a class with safetensors and how to export; ONNX is in test_formats_onnx.py."""
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    source, exporting, _ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    save_file({"weight": torch.ones(3, 64), "bias": torch.zeros(3)}, tmp_path / "model.safetensors")
    (tmp_path / "labels.py").write_text("LABEL_COUNT = 3\n")
    predict = load_source(tmp_path, source, entry="model.py:Classifier")
    assert run(predict, 2, features=torch.ones(2, 64))["scores"].tolist() == [[64.0] * 3] * 2
    network = torch.nn.Flatten()
    exec(exporting.replace('"model.pt2"', "path"), {"torch": torch, "network": network, "path": tmp_path / "model.pt2"})
    spec = TensorSpec("x", "FP32", (1, 8, 8))
    config = make_config(format="torch_export", entry="model.pt2", inputs=(spec,), batch_size_max=64)
    assert run(load_callable(config, tmp_path, "cpu"), 1, x=torch.ones(64, 1, 8, 8))["y"].shape == (64, 64)
