"""Run a model's first batches, so that no request pays for what only first calls do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from symphony.execution.devices.base import DeviceError
from symphony.execution.samples import sample_inputs

if TYPE_CHECKING:
    from symphony.execution.devices.base import LoadedModel


def warm_up(model: LoadedModel, device: str) -> None:
    """Run `warmup_count` batches of the smallest and of the largest size; raise DeviceError about one that fails."""
    config = model.config
    rng = np.random.default_rng(0)
    for size in sorted({1, config.batch_size_max}):
        inputs = sample_inputs(config, rng, size, model.sample)
        for _ in range(config.warmup_count):
            try:
                model.launch(inputs).wait()
            except (Exception, SystemExit, KeyboardInterrupt, GeneratorExit) as error:  # none of it may end the node
                raise DeviceError(
                    f'model "{config.name}": a batch of {size} failed on {device}: {type(error).__name__}: {error}; '
                    "mend the model or its model.toml"
                ) from error
