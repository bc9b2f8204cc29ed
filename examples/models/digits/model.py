"""Read handwritten digits: a network of 42,000 weights for the 8x8 images of scikit-learn's digits data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

WEIGHTS = "model.safetensors"
BRIGHTNESS_MAX = 16.0


class DigitsNet(nn.Module):
    """Map `image` float32[b, 1, 8, 8], values 0 to 16, to `logits` float32[b, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(32 * 4 * 4, 72),
            nn.ReLU(),
            nn.Linear(72, 10),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.layers(image / BRIGHTNESS_MAX)


class Digits:
    """Serve a trained `DigitsNet`."""

    def load(self, folder: Path, device: torch.device | str, parameters: Mapping[str, Any]) -> None:
        """Read the weights beside this file; raise FileNotFoundError, with the remedy, before they were made."""
        path = Path(folder) / WEIGHTS
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: make it with `python examples/train_digits.py`")
        self.device = torch.device(device)
        self.network = DigitsNet()
        self.network.load_state_dict(load_file(path))
        self.network.to(self.device).eval()

    @torch.inference_mode()
    def predict(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return `logits` float32[b, 10] for `image` float32[b, 1, 8, 8]."""
        return {"logits": self.network(torch.as_tensor(batch["image"]).to(self.device))}
