"""The digits network is reproducible, reads held-out images, and is the same in both formats."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
ACCURACY_MIN = 0.97


@pytest.fixture(scope="module")
def training(example_module):
    return example_module("train_digits")


@pytest.fixture(scope="module")
def split(training):
    return training.split_digits()


@pytest.fixture(scope="module")
def network(training, split):
    return training.train(split[0], split[2])


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory, training):
    """Return a copy of the model's folder with freshly trained weights."""
    folder = tmp_path_factory.mktemp("digits")
    shutil.copy(EXAMPLES / "models" / "digits" / "model.py", folder)
    training.save_file(network.state_dict(), folder / "model.safetensors")
    return folder


def test_training_reads_held_out_images(training, split, network) -> None:
    assert training.accuracy(network, split[1], split[3]) >= ACCURACY_MIN


def test_split_keeps_held_out_images_apart(split) -> None:
    seen = {image.tobytes() for image in split[0]}
    assert not [image for image in split[1] if image.tobytes() in seen]
    assert len(split[1]) == len(split[3]) == 450


def test_training_gives_the_same_weights_again(training, split, network, monkeypatch) -> None:
    monkeypatch.setattr(training, "EPOCH_COUNT", 1)
    first, second = (training.train(split[0], split[2]).state_dict() for _ in range(2))
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], atol=0, rtol=0)


def test_served_class_gives_the_networks_logits(example_module, split, network, folder) -> None:
    model = example_module("models/digits/model").Digits()
    model.load(folder, "cpu", {})
    images = split[1][:32]
    logits = model.predict({"image": torch.from_numpy(images)})["logits"]
    assert logits.shape == (32, 10)
    torch.testing.assert_close(logits, network(torch.from_numpy(images)), atol=1e-5, rtol=0)


def test_missing_weights_name_the_remedy(example_module, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"examples/train_digits\.py"):
        example_module("models/digits/model").Digits().load(tmp_path, "cpu", {})


@pytest.mark.slow
def test_export_gives_the_networks_logits_at_every_batch_size(training, split, network, tmp_path) -> None:
    training.export(network, tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    for batch_size in (1, 2, 3, 7, 32):
        images = torch.from_numpy(split[1][:batch_size])
        torch.testing.assert_close(program(images), network(images), atol=1e-5, rtol=0)


def test_weights_in_the_example_folder_read_held_out_images(example_module, training, split) -> None:
    path = EXAMPLES / "models" / "digits" / "model.safetensors"
    if not path.exists():
        pytest.skip("the weights are made by `make` or examples/train_digits.py")
    network = example_module("models/digits/model").DigitsNet()
    network.load_state_dict(load_file(path))
    assert training.accuracy(network.eval(), split[1], split[3]) >= ACCURACY_MIN
