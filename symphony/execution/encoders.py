"""Serve a Hugging Face text encoder without code: `entry = "symphony.execution.encoders:TextEncoder"`.

Its files are those that `save_pretrained` writes: config.json, model.safetensors and, where texts go in,
tokenizer.json. Nothing is fetched, nothing is unpickled, no code of the checkpoint is run.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from symphony.config import ModelConfig
from symphony.execution.checkpoints import TOKENIZER, check_weights, checkpoint_folder
from symphony.execution.dtypes import TORCH_DTYPES
from symphony.execution.encoder_settings import AUTO_CLASSES, check_fit, read_settings, table_sizes
from symphony.execution.tokens import IDS, MASK, NAMES, Tokenizer, is_pair, text_input, token_count_of
from symphony.execution.trouble import ModelLoadError

NAMES_SHOWN_MAX = 5
"""A checkpoint may lack hundreds of weights; an error names so many."""


class TextEncoder:
    """A network that turns each request's tokens into an embedding, or into the logits of labels.

    Takes token ids (`input_ids`, `attention_mask`, perhaps `token_type_ids`), or one input of texts, which it then
    tokenises in the device's thread. A request with an id that the network has no row for is answered with NaN.
    """

    def configure(self, config: ModelConfig) -> None:
        """Take what model.toml says."""
        self._config = config

    def load(self, folder: Path, device: torch.device | str, parameters: Mapping[str, Any]) -> None:
        """Read the checkpoint onto `device`, in float32; raise ModelLoadError where model.toml does not fit it."""
        config = self._config
        self._settings = read_settings(config)
        self._text = text_input(config)
        self._token_count = self._count_tokens()
        self._device = torch.device(device)
        source = checkpoint_folder(config, folder)
        check_weights(config, source)
        network = self._read(source)
        self._takes = list(inspect.signature(network.forward).parameters)
        check_fit(config, self._settings.task, self._token_count, network, self._takes)
        self._sizes = table_sizes(network)
        self._is_each_label = network.config.num_labels == 1 or (
            getattr(network.config, "problem_type", None) == "multi_label_classification"
        )
        self._tokenizer = self._read_tokenizer(source)
        self.network = network.to(self._device, torch.float32).eval()

    def predict(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Return the declared outputs [b, *shape] of a batch of texts or of token ids."""
        tokens = self._tokens_of(batch)
        mask = tokens[MASK]
        is_known = torch.ones(len(mask), dtype=torch.bool, device=mask.device)
        # On a GPU, reading beyond a table ends the process; and what reads no result back can be a CUDA graph.
        for name in tokens.keys() & self._sizes.keys():
            within = tokens[name].clamp(0, self._sizes[name] - 1)
            is_known &= (within == tokens[name]).all(dim=1)
            tokens[name] = within
        found = self._outputs_of(self.network(**tokens), mask)
        outputs = {}
        for spec in self._config.outputs:
            value = found[spec.name]
            row_is_known = is_known.reshape(-1, *[1] * (value.dim() - 1))
            outputs[spec.name] = torch.where(row_is_known, value, torch.nan).to(TORCH_DTYPES[spec.datatype])
        return outputs

    def sample(self, rng: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
        """Return one request: as many words as tokens are kept, or random ids of which the last is padding."""
        if self._text is not None:
            texts = np.empty(self._text.shape, dtype=object)
            for at in np.ndindex(*self._text.shape):
                texts[at] = " ".join(map(str, rng.integers(0, 10, self._token_count))).encode()
            return {self._text.name: texts}
        shape = (self._token_count,)
        found = {spec.name: np.zeros(shape, dtype=np.int64) for spec in self._config.inputs}
        found[IDS] = rng.integers(0, self._sizes[IDS], shape)
        # Without padding a network may take a shorter way than most requests do.
        found[MASK][: max(1, self._token_count - 1)] = 1
        return found

    def _tokens_of(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        if self._text is None or self._tokenizer is None:
            return {name: batch[name] for name in NAMES if name in batch}
        texts = batch[self._text.name]
        found = self._tokenizer(texts.reshape(len(texts), -1))
        return {name: torch.from_numpy(rows).to(self._device) for name, rows in found.items() if name in self._takes}

    def _outputs_of(self, result: Any, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return every output of the task, float32[b, ...]."""
        if self._settings.task != "embedding":
            logits = result.logits.float()
            return {"logits": logits, "probabilities": logits.sigmoid() if self._is_each_label else logits.softmax(-1)}
        hidden = result.last_hidden_state.float()
        if self._settings.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            weight = mask.unsqueeze(-1).float()
            pooled = (hidden * weight).sum(dim=1) / weight.sum(dim=1)
        return {"embedding": torch.nn.functional.normalize(pooled, dim=1) if self._settings.normalise else pooled}

    def _count_tokens(self) -> int:
        if self._text is None:
            return token_count_of(self._config, self._config.inputs)
        if self._settings.token_count is None:
            raise self._fault("parameters.token_count is missing; say to how many tokens texts are cut or padded")
        return self._settings.token_count

    def _read(self, source: Path) -> Any:
        """Return transformers' network; raise ModelLoadError if it cannot be had whole."""
        try:
            import transformers
        except ImportError as error:
            raise self._fault(
                f"{self._config.entry} needs the package transformers, which is not installed; run "
                'pip install "symphony-serve[transformers]"'
            ) from error
        auto_class = AUTO_CLASSES[self._settings.task]
        try:
            with _without_progress_bar(transformers.utils.logging):
                network, report = getattr(transformers, auto_class).from_pretrained(
                    str(source),
                    local_files_only=True,
                    use_safetensors=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                )
        except Exception as error:
            raise self._fault(
                f"{source} cannot be loaded by transformers {transformers.__version__} as {auto_class}: "
                f"{type(error).__name__}: {error}; save it again with save_pretrained, or change parameters.task"
            ) from error
        # transformers makes up at random what a checkpoint lacks. The pooler is not used.
        missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
        if missing:
            shown = ", ".join(missing[:NAMES_SHOWN_MAX]) + " ..." * (len(missing) > NAMES_SHOWN_MAX)
            raise self._fault(
                f"{source} lacks weights of {auto_class}: {shown}; it was trained for something else than task = "
                f'"{self._settings.task}": change the task or the checkpoint'
            )
        return network

    def _read_tokenizer(self, source: Path) -> Tokenizer | None:
        """Return the tokenizer if texts go in. Where ids do, one that is there is checked to be this network's."""
        if self._text is None and not (source / TOKENIZER).exists():
            return None
        tokenizer = Tokenizer(
            self._config, source, self._token_count, pair=self._text is not None and is_pair(self._text)
        )
        if tokenizer.id_max >= self._sizes[IDS]:
            raise self._fault(
                f"{source / TOKENIZER} gives ids up to {tokenizer.id_max}, above the network's {self._sizes[IDS] - 1}; "
                "it is another network's: put its own there"
            )
        return None if self._text is None else tokenizer

    def _fault(self, text: str) -> ModelLoadError:
        return ModelLoadError(f'model "{self._config.name}": {text}')


@contextmanager
def _without_progress_bar(logging: Any) -> Iterator[None]:
    """Keep transformers from drawing into the node's log."""
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()
