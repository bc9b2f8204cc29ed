"""Turn texts into token ids: `[processing] entry = "symphony.execution.tokens:TextTokens"`.

Reads the tokenizer.json of a Hugging Face checkpoint with the tokenizers library, which lets go of the GIL. Every
text becomes the same number of tokens, cut or padded behind a mask, so a batch's time depends on its size alone; or,
where model.toml lets their number vary, as many as it has.
Without torch and transformers, so that processes which only preprocess start quickly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from symphony.config import ModelConfig, TensorSpec
from symphony.config.lengths import VARIES
from symphony.execution.checkpoints import CONFIG, TOKENIZER, checkpoint_file, checkpoint_folder, read_json
from symphony.execution.trouble import ModelLoadError

IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
NAMES = (IDS, MASK, TYPES)
"""The tensors of a tokenised text, by the names that transformers and its exporters give them."""
TEXT_BYTES_PER_TOKEN = 128
"""Only this much of a text is read for each token kept: far more than they need, and a bound on the work."""
PAIR = 2

Array = np.ndarray[Any, Any]


class TextTokens:
    """Preprocess one request: its text, or its pair of texts, becomes `input_ids`, `attention_mask`, `token_type_ids`.

    The model's one input is BYTES of shape [1], [] or, for a pair, [2]; bytes that are not UTF-8 are replaced.
    `[[processing.inputs]]` declares those of the three that the network takes, INT64 [token_count], or [-1] with
    `length_buckets`.
    """

    def configure(self, config: ModelConfig) -> None:
        """Take what model.toml says."""
        self._config = config

    def load(self, folder: Path, parameters: Mapping[str, Any]) -> None:
        """Read the tokenizer; raise ModelLoadError if it is missing or model.toml does not fit it."""
        config = self._config
        text = text_input(config)
        if text is None:
            raise ModelLoadError(
                f'model "{config.name}": TextTokens takes one input of texts, and model.toml declares '
                f"{[spec.name for spec in config.inputs]}; declare one with datatype BYTES and shape [1]"
            )
        token_count = token_count_of(config, config.network.inputs)
        self._name = text.name
        self._tokenizer = Tokenizer(config, checkpoint_folder(config, folder), token_count, is_pair(text))
        ids = next(spec for spec in config.network.inputs if spec.name == IDS)
        if ids.shape == (VARIES,):
            self._tokenizer.let_vary(ids)

    def preprocess(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return int64[token_count] each for `bytes[1]` or `bytes[2]`; fewer where their number varies."""
        tokens = self._tokenizer(inputs[self._name].reshape(1, -1))
        return {name: rows[0] for name, rows in tokens.items()}


class Tokenizer:
    """A checkpoint's tokenizer, set to a fixed number of tokens."""

    def __init__(self, config: ModelConfig, folder: Path, token_count: int, pair: bool) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise ModelLoadError(
                f'model "{config.name}": reading texts needs the package tokenizers, which is not installed; run '
                'pip install "symphony-serve[transformers]"'
            ) from error
        file = checkpoint_file(config, folder, TOKENIZER)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain Exceptions
            raise ModelLoadError(
                f'model "{config.name}": {file} cannot be read by tokenizers {tokenizers.__version__}: {error}; '
                "save it again with transformers' AutoTokenizer"
            ) from error
        special_count = self._tokenizer.num_special_tokens_to_add(pair)
        if token_count <= special_count:
            raise ModelLoadError(
                f'model "{config.name}": token_count is {token_count}, and this tokenizer adds {special_count} tokens '
                f"to each request; choose at least {special_count + 1}"
            )
        self._config, self._pad = config, self._pad_id(config, folder)
        self._tokenizer.enable_truncation(token_count)
        self._tokenizer.enable_padding(length=token_count, direction="right", pad_id=self._pad)
        self._text_bytes_max = token_count * TEXT_BYTES_PER_TOKEN
        self.id_max = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
        """The largest id that it gives."""

    def __call__(self, texts: Array) -> dict[str, Array]:
        """Return each of `NAMES` as int64[b, token_count] for bytes[b, 1] or, pairs, bytes[b, 2]."""
        rows = [[self._decoded(text) for text in row] for row in texts]
        # The call for a single text keeps the GIL while it works; that for batches lets go of it.
        found = self._tokenizer.encode_batch_fast([row[0] if len(row) == 1 else tuple(row) for row in rows])
        return {
            IDS: np.array([one.ids for one in found], dtype=np.int64),
            MASK: np.array([one.attention_mask for one in found], dtype=np.int64),
            TYPES: np.array([one.type_ids for one in found], dtype=np.int64),
        }

    def let_vary(self, ids: TensorSpec) -> None:
        """Leave the padding to the node; raise ModelLoadError if it would not pad with this tokenizer's token."""
        if ids.pad != self._pad:
            raise ModelLoadError(
                f'model "{self._config.name}": "{ids.name}" is padded with {ids.pad:g}, and this tokenizer pads with '
                f"{self._pad}; set pad = {self._pad} in its table"
            )
        self._tokenizer.no_padding()

    def _decoded(self, text: bytes) -> str:
        return bytes(text)[: self._text_bytes_max].decode(errors="replace")

    def _pad_id(self, config: ModelConfig, folder: Path) -> int:
        """Return the id that fills up short texts; its mask is 0, yet some networks count positions by it."""
        if self._tokenizer.padding is not None:
            return int(self._tokenizer.padding["pad_id"])
        if (folder / CONFIG).is_file():
            found = read_json(config, checkpoint_file(config, folder, CONFIG)).get("pad_token_id")
            if type(found) is int and found >= 0:
                return found
        for token in ("[PAD]", "<pad>"):
            found = self._tokenizer.token_to_id(token)
            if found is not None:
                return int(found)
        raise ModelLoadError(
            f'model "{config.name}": neither {folder / TOKENIZER} nor {CONFIG} beside it says which token pads short '
            "texts; set pad_token_id in the second"
        )


def text_input(config: ModelConfig) -> TensorSpec | None:
    """Return the model's input when it is a text or a pair of texts and nothing else."""
    spec = config.inputs[0]
    fits = len(config.inputs) == 1 and spec.datatype == "BYTES" and spec.shape in ((), (1,), (PAIR,))
    return spec if fits else None


def is_pair(spec: TensorSpec) -> bool:
    """Return whether a request holds two texts, which are read as one sequence."""
    return spec.shape == (PAIR,)


def token_count_of(config: ModelConfig, specs: Sequence[TensorSpec]) -> int:
    """Return the length, the longest if it varies, that token ids are declared with.

    Raise ModelLoadError unless they are declared alike.

    `parameters.token_count` need not be given beside them, but must not differ.
    """
    unknown = [spec.name for spec in specs if spec.name not in NAMES]
    missing = [name for name in (IDS, MASK) if name not in {spec.name for spec in specs}]
    if unknown or missing:
        raise ModelLoadError(
            f'model "{config.name}": its network takes {[spec.name for spec in specs]}; token ids go in as "{IDS}" and '
            f'"{MASK}", and "{TYPES}" where the network reads that: declare those, INT64 of one shape [token_count]'
        )
    for spec in specs:
        if spec.datatype != "INT64" or len(spec.shape) != 1 or spec.shape != specs[0].shape:
            raise ModelLoadError(
                f'model "{config.name}": "{spec.name}" is declared {spec.datatype}{list(spec.shape)}; it must be INT64 '
                f"[token_count], the same for {[one.name for one in specs]}"
            )
    (count,) = specs[0].shape
    if count == VARIES:
        count = config.length_buckets[-1]
    given = config.parameters.get("token_count", count)
    if given != count:
        raise ModelLoadError(
            f'model "{config.name}": parameters.token_count is {given!r}, and "{specs[0].name}" is declared with '
            f"{count}; leave the parameter out"
        )
    return count
