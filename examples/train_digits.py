"""Train the example network for handwritten digits and write its weights into the example models' folders.

Takes a few seconds on a CPU and always gives the same network, to the digits that the README shows, on any processor
with AVX2 and any number of threads: the data set is inside scikit-learn, the split and the seed are fixed. It trains in
double precision: in single precision, the order in which a processor adds is enough to make two machines' networks
differ in the first digit. Writes `digits/model.safetensors` (format `python`), `digits_export/model.pt2` (the same
network for format `torch_export`) and `digits_png/model.pt2` (the same behind a decoder of pictures).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

MODELS = Path(__file__).parent / "models"
SEED = 0
HELD_OUT_SHARE = 0.25
EPOCH_COUNT = 25
BATCH_SIZE = 32


def split_digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return training and held-out images (float32[n, 1, 8, 8], 0 to 16), training and held-out labels (int64[n])."""
    digits = load_digits()
    images = digits.images.astype(np.float32)[:, None]
    labels = digits.target.astype(np.int64)
    return train_test_split(images, labels, test_size=HELD_OUT_SHARE, random_state=SEED, stratify=labels)


def example_model(name: str) -> ModuleType:
    """Import `models/<name>/model.py`; a model's folder is no package."""
    spec = importlib.util.spec_from_file_location(f"{name}_model", MODELS / name / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train(images: np.ndarray, labels: np.ndarray) -> torch.nn.Module:
    """Return a float32 `DigitsNet` trained on the images, in float64, with Adam from a fixed seed."""
    torch.manual_seed(SEED)
    network = example_model("digits").DigitsNet().double()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    step_count = EPOCH_COUNT * -(-len(images) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, step_count)
    inputs, targets = torch.from_numpy(images).double(), torch.from_numpy(labels)
    for _ in range(EPOCH_COUNT):
        for chosen in torch.randperm(len(inputs)).split(BATCH_SIZE):
            loss = torch.nn.functional.cross_entropy(network(inputs[chosen]), targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.float().eval()


@torch.inference_mode()
def accuracy(network: torch.nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images whose largest logit names the label."""
    return float((network(torch.from_numpy(images)).argmax(dim=1).numpy() == labels).mean())


def export(network: torch.nn.Module, path: Path) -> None:
    """Write the network as a `torch.export` program whose batch size is free."""
    example = (torch.zeros(2, 1, 8, 8),)
    program = torch.export.export(network, example, dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1024)},))
    torch.export.save(program, path)


def main() -> None:
    """Train, say how well it reads the held-out images, and write both files."""
    images, held_out_images, labels, held_out_labels = split_digits()
    network = train(images, labels)
    reached = accuracy(network, held_out_images, held_out_labels)
    print(f"digits: {reached:.1%} of {len(held_out_labels)} held-out images right (seed {SEED})")
    save_file(network.state_dict(), MODELS / "digits" / "model.safetensors")
    for name in ("digits_export", "digits_png"):
        export(network, MODELS / name / "model.pt2")


if __name__ == "__main__":
    main()
