"""Write small encoders as Hugging Face's save_pretrained does, with random weights and a tokenizer of a few words."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = [
    "the",
    "train",
    "leaves",
    "at",
    "six",
    "bread",
    "needs",
    "time",
    "##s",
    *string.digits,
    *string.ascii_lowercase,
]
VOCABULARY = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
HIDDEN_SIZE = 16
POSITION_COUNT = 12
LABEL_COUNT = 3
SHAPE = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": HIDDEN_SIZE,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": POSITION_COUNT,
    "pad_token_id": 0,
    # Else a network this small with small random weights answers much the same to everything.
    "initializer_range": 0.3,
}


def write_encoder(folder: Path, network: str = "BertModel", **changes: Any) -> Any:
    """Save the network of that class of transformers, and a tokenizer; return it."""
    torch.manual_seed(0)
    made = getattr(transformers, network)
    encoder = made(made.config_class(**(SHAPE | changes))).eval()
    encoder.save_pretrained(folder)
    write_tokenizer(folder)
    return encoder


def write_tokenizer(folder: Path, vocabulary: dict[str, int] = VOCABULARY) -> None:
    """Save a tokenizer of BERT's kind; that it pads with 0 stands in config.json alone."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))


def read_with_transformers(folder: Path, texts: list[Any], token_count: int) -> Any:
    """Return what transformers' own tokenizer makes of the texts, or pairs of texts."""
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="[PAD]")
    firsts, seconds = (texts, None) if isinstance(texts[0], str) else map(list, zip(*texts, strict=True))
    return tokenizer(
        firsts,
        seconds,
        padding="max_length",
        truncation=True,
        max_length=token_count,
        return_tensors="pt",
        return_token_type_ids=True,
    )
