"""Hugging Face encoders give transformers' own answers, and a folder that cannot be served says what to do."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode

from symphony.config import ModelConfig, TensorSpec
from symphony.config.model import ExecutionSpec
from symphony.execution.formats import ModelLoadError, load_callable
from symphony.execution.samples import sample_inputs
from tests.encoder_files import (
    HIDDEN_SIZE,
    LABEL_COUNT,
    POSITION_COUNT,
    SHAPE,
    VOCABULARY,
    read_with_transformers,
    write_encoder,
    write_tokenizer,
)

TOKEN_COUNT = 8
TEXTS = ["the train leaves at six", "bread needs time", "", "trains", "a b c d e f g h i j k l", "größer 東京"]
PAIRS = [("the train leaves", "at six"), ("bread", "needs time and time and time and time"), ("", "")]
TEXT = TensorSpec("text", "BYTES", (1,))
IDS = (TensorSpec("input_ids", "INT64", (TOKEN_COUNT,)), TensorSpec("attention_mask", "INT64", (TOKEN_COUNT,)))
TYPES = TensorSpec("token_type_ids", "INT64", (TOKEN_COUNT,))
EMBEDDING = TensorSpec("embedding", "FP32", (HIDDEN_SIZE,))
LOGITS = TensorSpec("logits", "FP32", (LABEL_COUNT,))
PROBABILITIES = TensorSpec("probabilities", "FP32", (LABEL_COUNT,))


def make_config(**changes: Any) -> ModelConfig:
    """Return an encoder that embeds token ids."""
    return ModelConfig(
        **{
            "name": "m",
            "version": "1",
            "slo_ms": 50.0,
            "batch_size_max": 8,
            "inputs": IDS,
            "outputs": (EMBEDDING,),
            "format": "python",
            "entry": "symphony.execution.encoders:TextEncoder",
            "device_kinds": ("cpu",),
            "parameters": {"task": "embedding"},
            **changes,
        }
    )


def run(folder: Path, batch: Mapping[str, Any], **changes: Any) -> dict[str, torch.Tensor]:
    """Load the encoder and run one batch, as a device does."""
    predict = load_callable(make_config(**changes), folder, "cpu")
    with torch.inference_mode():
        return dict(predict(dict(batch)))


def fault(folder: Path, **changes: Any) -> str:
    """Return why the encoder cannot be loaded."""
    with pytest.raises(ModelLoadError) as caught:
        load_callable(make_config(**changes), folder, "cpu")
    assert str(caught.value).startswith('model "m": ')
    return str(caught.value)


def as_bytes(texts: list[Any]) -> dict[str, np.ndarray]:
    """Return texts, or pairs of texts, as a batch of BYTES."""
    rows = [[text] if isinstance(text, str) else [*text] for text in texts]
    batch = np.empty((len(rows), len(rows[0])), dtype=object)
    for place, row in enumerate(rows):
        batch[place] = [text.encode() for text in row]
    return {"text": batch}


def as_ids(folder: Path, texts: list[Any]) -> dict[str, torch.Tensor]:
    """Return the batch of token ids that transformers' tokenizer gives."""
    return dict(read_with_transformers(folder, texts, TOKEN_COUNT))


def own_pooling(network: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the mean of the last hidden states over real tokens, text by text without padding."""
    rows = []
    for place in range(len(batch["input_ids"])):
        real = batch["attention_mask"][place].bool()
        hidden = network(input_ids=batch["input_ids"][place, real][None]).last_hidden_state
        rows.append(hidden[0].mean(dim=0))
    return torch.stack(rows)


@torch.inference_mode()
def test_mean_of_hidden_states_is_that_of_each_text_alone(tmp_path: Path) -> None:
    network = write_encoder(tmp_path)
    batch = as_ids(tmp_path, TEXTS)
    expected = own_pooling(network, batch)
    assert torch.pdist(expected).min() > 0.1  # texts are told apart
    found = run(tmp_path, batch, parameters={"task": "embedding", "normalise": False})["embedding"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    normalised = run(tmp_path, batch)["embedding"]
    torch.testing.assert_close(normalised, torch.nn.functional.normalize(expected, dim=1), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_hidden_state_of_first_token_is_the_embedding_where_asked(tmp_path: Path) -> None:
    network = write_encoder(tmp_path)
    batch = as_ids(tmp_path, TEXTS)
    found = run(tmp_path, batch, parameters={"task": "embedding", "pooling": "cls", "normalise": False})["embedding"]
    torch.testing.assert_close(found, network(**batch).last_hidden_state[:, 0], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["Bert", "Roberta", "DistilBert", "MPNet", "Electra"])
def test_classification_is_that_of_transformers(kind: str, tmp_path: Path) -> None:
    """Also of a network that knows no types of tokens."""
    network = write_encoder(tmp_path, f"{kind}ForSequenceClassification", num_labels=LABEL_COUNT)
    batch = as_ids(tmp_path, TEXTS)
    batch.pop("token_type_ids")
    expected = network(**batch).logits
    for inputs, given in (((TEXT,), as_bytes(TEXTS)), (IDS, batch)):
        parameters = {"task": "classification"} | ({"token_count": TOKEN_COUNT} if inputs == (TEXT,) else {})
        found = run(tmp_path, given, inputs=inputs, outputs=(LOGITS, PROBABILITIES), parameters=parameters)
        torch.testing.assert_close(found["logits"], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found["probabilities"], expected.softmax(-1), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_labels_that_do_not_exclude_each_other_have_probabilities_of_their_own(tmp_path: Path) -> None:
    network = write_encoder(
        tmp_path, "BertForSequenceClassification", num_labels=LABEL_COUNT, problem_type="multi_label_classification"
    )
    batch = as_ids(tmp_path, TEXTS)
    found = run(tmp_path, batch, outputs=(PROBABILITIES,), parameters={"task": "classification"})
    assert found.keys() == {"probabilities"}
    torch.testing.assert_close(found["probabilities"], network(**batch).logits.sigmoid(), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_each_token_is_classified_as_by_transformers(tmp_path: Path) -> None:
    network = write_encoder(tmp_path, "BertForTokenClassification", num_labels=LABEL_COUNT)
    batch = as_ids(tmp_path, TEXTS)
    outputs = (TensorSpec("logits", "FP32", (TOKEN_COUNT, LABEL_COUNT)),)
    found = run(tmp_path, batch, outputs=outputs, parameters={"task": "token_classification"})
    torch.testing.assert_close(found["logits"], network(**batch).logits, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_pair_of_texts_is_read_as_one_with_the_types_of_its_tokens(tmp_path: Path) -> None:
    """As those that rank an answer by its question do."""
    network = write_encoder(tmp_path, "BertForSequenceClassification", num_labels=1)
    batch = as_ids(tmp_path, PAIRS)
    assert batch["token_type_ids"].any()
    expected = network(**batch).logits
    outputs = (TensorSpec("logits", "FP32", (1,)),)
    ranking = {"task": "classification"}
    texts = (TensorSpec("text", "BYTES", (2,)),)
    read_here = run(
        tmp_path, as_bytes(PAIRS), inputs=texts, outputs=outputs, parameters=ranking | {"token_count": TOKEN_COUNT}
    )
    torch.testing.assert_close(read_here["logits"], expected, atol=1e-5, rtol=1e-5)
    as_tokens = run(tmp_path, batch, inputs=(*IDS, TYPES), outputs=outputs, parameters=ranking)
    torch.testing.assert_close(as_tokens["logits"], expected, atol=1e-5, rtol=1e-5)


def test_texts_that_go_in_give_what_their_ids_give(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    parameters = {"task": "embedding", "token_count": TOKEN_COUNT}
    found = run(tmp_path, as_bytes(TEXTS), inputs=(TEXT,), parameters=parameters)["embedding"]
    torch.testing.assert_close(found, run(tmp_path, as_ids(tmp_path, TEXTS))["embedding"], atol=1e-6, rtol=0)


def test_id_that_the_network_does_not_know_spoils_its_own_request_alone(tmp_path: Path) -> None:
    """On a GPU it would end the process."""
    write_encoder(tmp_path)
    batch = as_ids(tmp_path, TEXTS)
    right = run(tmp_path, batch)["embedding"]
    batch["input_ids"][1, 2] = len(VOCABULARY)
    batch["input_ids"][3, 0] = -1
    found = run(tmp_path, batch)["embedding"]
    assert found[[1, 3]].isnan().all()
    torch.testing.assert_close(found[[0, 2, 4, 5]], right[[0, 2, 4, 5]], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "DistilBert", "ModernBert"])
def test_nothing_is_read_back_while_a_batch_runs(kind: str, tmp_path: Path) -> None:
    """So that it can be a CUDA graph; tensors without contents refuse to be looked at."""
    if int(transformers.__version__.split(".")[0]) < 5:
        pytest.skip("older versions of transformers look at the mask")
    write_encoder(tmp_path, f"{kind}Model")
    predict = load_callable(make_config(), tmp_path, "cpu")
    batch = {spec.name: torch.ones((4, TOKEN_COUNT), dtype=torch.int64) for spec in IDS}
    with torch.inference_mode(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        found = predict({name: mode.from_tensor(value) for name, value in batch.items()})
    assert found["embedding"].shape == (4, HIDDEN_SIZE)


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_outputs_come_in_the_declared_type_and_precision_is_heeded(datatype: str, tmp_path: Path) -> None:
    write_encoder(tmp_path)
    batch = as_ids(tmp_path, TEXTS)
    expected = run(tmp_path, batch)["embedding"]
    output = (TensorSpec("embedding", datatype, (HIDDEN_SIZE,)),)
    found = run(tmp_path, batch, outputs=output, execution=ExecutionSpec(precision="bf16"))["embedding"]
    assert found.dtype == {"FP16": torch.float16, "BF16": torch.bfloat16}[datatype]
    torch.testing.assert_close(found.float(), expected, atol=0.05, rtol=0)


@pytest.mark.parametrize("inputs", [IDS, (*IDS, TYPES), (TEXT,), (TensorSpec("text", "BYTES", (2,)),)])
def test_samples_are_requests_that_the_network_answers(inputs: tuple[TensorSpec, ...], tmp_path: Path) -> None:
    write_encoder(tmp_path)
    config = make_config(inputs=inputs, parameters={"task": "embedding", "token_count": TOKEN_COUNT})
    predict = load_callable(config, tmp_path, "cpu")
    rows = sample_inputs(config, np.random.default_rng(0), 5, predict.sample)
    batch: dict[str, Any] = {spec.name: np.stack([row[spec.name] for row in rows]) for spec in inputs}
    found = predict(
        {name: value if value.dtype == object else torch.from_numpy(value) for name, value in batch.items()}
    )
    assert torch.isfinite(found["embedding"]).all()
    assert torch.pdist(found["embedding"]).min() > 0


def test_load_opens_no_connection_and_draws_nothing_into_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the model tried to reach the network")

    write_encoder(tmp_path)
    capfd.readouterr()
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load_callable(make_config(), tmp_path, "cpu")
    assert "%|" not in "".join(capfd.readouterr())


# ---- weights and files -------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_checkpoint_in_parts_is_read(tmp_path: Path) -> None:
    network = write_encoder(tmp_path)
    batch = as_ids(tmp_path, TEXTS)
    (tmp_path / "model.safetensors").unlink()
    network.save_pretrained(tmp_path, max_shard_size="5KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    found = run(tmp_path, batch, parameters={"task": "embedding", "normalise": False})["embedding"]
    torch.testing.assert_close(found, own_pooling(network, batch), atol=1e-5, rtol=1e-5)


def test_pickled_weights_are_refused_unread_and_told_how_to_convert(tmp_path: Path) -> None:
    network = write_encoder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    said = fault(tmp_path)
    assert "has no model.safetensors, only pytorch_model.bin: a pickle can run any code" in said
    assert f"AutoModel.from_pretrained({str(tmp_path)!r}).save_pretrained({str(tmp_path)!r})" in said


def test_index_that_names_pickles_is_refused(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "pytorch_model-1.bin"}}))
    assert "names ['pytorch_model-1.bin']; its weight_map must name .safetensors files" in fault(tmp_path)


def test_part_outside_the_folder_is_refused(tmp_path: Path) -> None:
    write_encoder(tmp_path / "m")
    shutil.move(tmp_path / "m" / "model.safetensors", tmp_path / "other.safetensors")
    index = {"weight_map": {"a": "../other.safetensors"}}
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "leads out of its folder" in fault(tmp_path / "m")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_file_is_named(name: str, tmp_path: Path) -> None:
    write_encoder(tmp_path)
    (tmp_path / name).unlink()
    parameters = {"task": "embedding", "token_count": TOKEN_COUNT}
    assert f"{tmp_path / name} does not exist" in fault(tmp_path, inputs=(TEXT,), parameters=parameters)


def test_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    write_encoder(tmp_path / "m")
    shutil.move(tmp_path / "m" / "model.safetensors", tmp_path / "elsewhere")
    (tmp_path / "m" / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    assert "leads out of its folder; copy the file into it" in fault(tmp_path / "m")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_file_that_holds_something_else_is_refused(name: str, tmp_path: Path) -> None:
    write_encoder(tmp_path)
    (tmp_path / name).write_bytes(b"[1, 2")
    assert "cannot be " in fault(tmp_path)


def test_code_of_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    settings |= {"model_type": "strange", "auto_map": {k: f"own.{k}" for k in ("AutoConfig", "AutoModel")}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "cannot be loaded by transformers" in fault(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_adapter_is_refused(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "makes this an adapter; merge it into its model" in fault(tmp_path)


def test_head_that_the_checkpoint_lacks_is_not_made_up(tmp_path: Path) -> None:
    write_encoder(tmp_path, num_labels=LABEL_COUNT)
    said = fault(tmp_path, outputs=(LOGITS,), parameters={"task": "classification"})
    assert "lacks weights of AutoModelForSequenceClassification: classifier.bias, classifier.weight;" in said


def test_tokenizer_of_another_network_is_refused(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    write_tokenizer(tmp_path, VOCABULARY | {"beyond": len(VOCABULARY)})
    limit = len(VOCABULARY)
    assert f"gives ids up to {limit}, above the network's {limit - 1}; it is another network's" in fault(tmp_path)


def test_missing_transformers_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_encoder(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert 'not installed; run pip install "symphony-serve[transformers]"' in fault(tmp_path)


def test_missing_tokenizers_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_encoder(tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    said = fault(tmp_path, inputs=(TEXT,), parameters={"task": "embedding", "token_count": TOKEN_COUNT})
    assert "reading texts needs the package tokenizers, which is not installed" in said


# ---- files in a package ------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a package with an encoder in it, which may be found but must not be imported."""
    write_encoder(tmp_path / "site" / "tiny_encoder" / "files")
    (tmp_path / "site" / "tiny_encoder" / "__init__.py").write_text("raise RuntimeError('it was run')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return tmp_path / "site" / "tiny_encoder"


def test_files_are_found_in_a_package_without_running_it(package: Path, tmp_path: Path) -> None:
    batch = as_ids(package / "files", TEXTS)
    found = run(tmp_path, batch, parameters={"task": "embedding", "package": "tiny_encoder:files"})["embedding"]
    torch.testing.assert_close(found, run(package / "files", batch)["embedding"], atol=0, rtol=0)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("no_such_encoder:files", "names 'no_such_encoder', which is no installed package; install it"),
        ("tiny_encoder:other", "is no folder in that package"),
        ("tiny_encoder:../..", "is no folder in that package"),
        ("tiny_encoder.files", "must be the name of an installed package"),
        ("../tiny_encoder", "must be the name of an installed package"),
        ("string", "names 'string', which is no installed package"),
        ("", "must be the name of an installed package"),
        (7, "parameters.package is 7; it must be a text"),
    ],
)
def test_package_that_holds_no_files_is_refused(where: Any, said: str, package: Path, tmp_path: Path) -> None:
    assert said in fault(tmp_path, parameters={"task": "embedding", "package": where})


# ---- what model.toml declares ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({}, "parameters.task is missing; it must be one of ['embedding', 'classification', 'token_classification']"),
        ({"task": "embeding"}, "parameters.task is 'embeding'; it must be one of"),
        ({"task": "embedding", "pooling": "max"}, "parameters.pooling is 'max'; it must be one of ['mean', 'cls']"),
        ({"task": "embedding", "normalise": 1}, "parameters.normalise is 1; it must be true or false"),
        ({"task": "embedding", "normalize": True}, "parameters.normalize is unknown to a text encoder"),
        ({"task": "embedding", "token_count": True}, "parameters.token_count is True; it must be a whole number"),
        ({"task": "embedding", "token_count": 9}, 'token_count is 9, and "input_ids" is declared with 8; leave'),
        ({"task": "classification", "pooling": "cls"}, "parameters.pooling does nothing with task"),
    ],
)
def test_parameter_that_is_wrong_is_named(parameters: dict[str, Any], said: str, tmp_path: Path) -> None:
    write_encoder(tmp_path)
    assert said in fault(tmp_path, parameters=parameters)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (IDS[:1], "declare those, INT64 of one shape"),
        ((*IDS, TensorSpec("ids", "INT64", (TOKEN_COUNT,))), "declare those, INT64 of one shape"),
        ((IDS[0], TensorSpec("attention_mask", "INT64", (9,))), '"attention_mask" is declared INT64[9]'),
        ((IDS[0], TensorSpec("attention_mask", "FP32", (TOKEN_COUNT,))), '"attention_mask" is declared FP32[8]'),
        ((TensorSpec("text", "BYTES", (3,)),), "its network takes ['text']; token ids go in as"),
        ((TEXT,), "parameters.token_count is missing"),
    ],
)
def test_input_that_is_no_tokens_and_no_text_is_refused(
    inputs: tuple[TensorSpec, ...], said: str, tmp_path: Path
) -> None:
    write_encoder(tmp_path)
    assert said in fault(tmp_path, inputs=inputs)


def test_types_of_tokens_are_refused_where_the_network_takes_none(tmp_path: Path) -> None:
    write_encoder(tmp_path, "DistilBertModel")
    assert 'a distilbert takes no "token_type_ids"; leave that input out' in fault(tmp_path, inputs=(*IDS, TYPES))


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (TensorSpec("embedding", "FP32", (17,)), "declared FP32[17], but the network's hidden size is 16; declare it"),
        (
            TensorSpec("embedding", "INT64", (16,)),
            "declared INT64[16], but the network's hidden size is 16; declare it",
        ),
        (
            TensorSpec("logits", "FP32", (16,)),
            'output "logits" is unknown with task = "embedding"; declare \'embedding\'',
        ),
    ],
)
def test_output_that_the_network_does_not_give_is_refused(output: TensorSpec, said: str, tmp_path: Path) -> None:
    write_encoder(tmp_path)
    assert said in fault(tmp_path, outputs=(output,))


def test_number_of_labels_is_checked(tmp_path: Path) -> None:
    write_encoder(tmp_path, "BertForSequenceClassification", num_labels=LABEL_COUNT)
    said = fault(tmp_path, outputs=(TensorSpec("logits", "FP32", (2,)),), parameters={"task": "classification"})
    assert "declared FP32[2], but the network has 3 labels; declare it FP32 or FP16 or BF16, of shape [3]" in said


@pytest.mark.parametrize(
    ("network", "limit"), [("BertModel", POSITION_COUNT), ("DistilBertModel", 12), ("RobertaModel", POSITION_COUNT - 2)]
)
def test_more_tokens_than_the_network_has_positions_for_are_refused(network: str, limit: int, tmp_path: Path) -> None:
    """RoBERTa's positions begin behind the id that pads, here 1."""
    write_encoder(tmp_path, network, **({"pad_token_id": 1} if network == "RobertaModel" else {}))

    def inputs(count: int) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(spec.name, "INT64", (count,)) for spec in IDS)

    full = {"input_ids": torch.full((2, limit), 5), "attention_mask": torch.ones((2, limit), dtype=torch.int64)}
    assert torch.isfinite(run(tmp_path, full, inputs=inputs(limit))["embedding"]).all()
    said = fault(tmp_path, inputs=inputs(limit + 1))
    assert f"token_count is {limit + 1}, above the {limit} positions of the network; choose {limit} or less" in said


def test_network_that_reads_no_text_is_refused(tmp_path: Path) -> None:
    write_encoder(tmp_path, "ViTModel", image_size=8, patch_size=4)
    assert "a vit is no text encoder; write a model.py for it" in fault(tmp_path)


def test_network_that_also_decodes_is_refused(tmp_path: Path) -> None:
    write_encoder(tmp_path, "BartModel", d_model=16, **{key: SHAPE[key] for key in ("vocab_size",)})
    assert "a bart is no text encoder; write a model.py for it" in fault(tmp_path)
