"""Every key of model.toml is checked, and every fault said with file, key, value, limit and remedy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from symphony.config import DATATYPES, ModelConfig, parse_model_config
from symphony.config.document import FAULTS_SHOWN_MAX
from symphony.config.model_document import (
    BATCH_SIZE_LIMIT,
    DIMENSION_COUNT_MAX,
    ELEMENT_COUNT_MAX,
    ENTRY_CHARS_MAX,
    PARAMETER_COUNT_MAX,
    TENSOR_COUNT_MAX,
    EmulatedDocument,
    ExecutionDocument,
    ModelDocument,
    ProcessingDocument,
    TensorDocument,
)
from symphony.errors import ConfigError

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
FILE = "models/m/model.toml"
HEAD = 'name = "m"\nslo_ms = 50\nmax_batch_size = 8\n'
PYTHON = HEAD + 'format = "python"\nentry = "model.py:M"\n'
EMULATED = HEAD + 'format = "emulated"\n'
TENSORS = (
    '[[inputs]]\nname = "x"\ndatatype = "FP32"\nshape = [4]\n[[outputs]]\nname = "y"\ndatatype = "INT64"\nshape = []\n'
)
LINE = "[emulated]\nalpha_ms = 1.0\nbeta_ms = 5\n"


def parse(text: str) -> ModelConfig:
    """Return the model that `text` describes."""
    return parse_model_config(text, FILE)


def faults(text: str) -> list[str]:
    """Return the sentences with which `text` is refused; every one names the file."""
    with pytest.raises(ConfigError) as caught:
        parse(text)
    lines = str(caught.value).split("\n")
    assert all(line.startswith(FILE) for line in lines)
    return [line.removeprefix(f"{FILE}: ") for line in lines]


def only_fault(text: str) -> str:
    """Return the one sentence with which `text` is refused."""
    (fault,) = faults(text)
    return fault


def with_key(key: str, value: str) -> str:
    """Return a good model.toml in which a top-level key has this value."""
    kept = [line for line in PYTHON.splitlines() if not line.startswith(f"{key} =")]
    return "\n".join([*kept, f"{key} = {value}", TENSORS])


def test_shortest_model_has_the_defaults() -> None:
    """What may be left out has the value that docs/models.md names."""
    config = parse(PYTHON + TENSORS)
    assert (config.name, config.version, config.slo_ms, config.batch_size_max) == ("m", "1", 50.0, 8)
    assert (config.format, config.entry, config.device_kinds) == ("python", "model.py:M", ("cpu", "cuda"))
    assert (config.warmup_count, config.priority_default, config.queue_count_max) == (3, 4, 4096)
    assert (config.run_timeout_ms, dict(config.parameters), config.emulated) == (10_000.0, {}, None)
    assert [(one.name, one.datatype, one.shape, one.allow_nan) for one in (*config.inputs, *config.outputs)] == [
        ("x", "FP32", (4,), True),
        ("y", "INT64", (), True),
    ]


def test_every_key_arrives() -> None:
    """Nothing that is written is lost."""
    config = parse(
        PYTHON.replace('"m"', '"a.B_c-9"')
        + 'version = "12"\ndevices = ["cuda"]\nwarmup_count = 0\npriority_default = 8\nqueue_count_max = 7\n'
        'run_timeout_ms = 2.5\n[parameters]\na = "t"\nb = 2\nc = 0.5\nd = true\n'
        + TENSORS.replace("shape = [4]", "shape = [1, 8, 8]\nallow_nan = false")
    )
    assert (config.name, config.version, config.device_kinds) == ("a.B_c-9", "12", ("cuda",))
    assert (config.warmup_count, config.priority_default, config.queue_count_max) == (0, 8, 7)
    assert config.run_timeout_ms == 2.5
    assert dict(config.parameters) == {"a": "t", "b": 2, "c": 0.5, "d": True}
    assert type(config.parameters["b"]) is int and type(config.parameters["d"]) is bool
    assert (config.inputs[0].shape, config.inputs[0].allow_nan) == ((1, 8, 8), False)


def test_emulated_model_needs_no_entry() -> None:
    """And runs on emulated devices only."""
    config = parse(EMULATED + TENSORS + LINE + "jitter = 0.1\nseed = 7\nhang_every = 3\n")
    assert config.device_kinds == ("emulated",)
    assert config.emulated is not None
    assert (config.emulated.alpha_ms, config.emulated.beta_ms, config.emulated.latency_ms) == (1.0, 5.0, None)
    assert (config.emulated.jitter, config.emulated.seed, config.emulated.hang_every) == (0.1, 7, 3)
    table = parse(EMULATED + TENSORS + "[emulated]\nlatency_ms = [1, 1, 2, 2, 2, 2, 2, 2.5]\n").emulated
    assert table is not None and table.latency_ms == (1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.5)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_of_the_protocol_is_taken(datatype: str) -> None:
    """All of the Open Inference Protocol's."""
    assert parse(PYTHON + TENSORS.replace("FP32", datatype)).inputs[0].datatype == datatype


@pytest.mark.parametrize(
    ("key", "below", "least", "most", "above"),
    [
        ("slo_ms", "0.999", "1", "60000", "60000.1"),
        ("max_batch_size", "0", "1", f"{BATCH_SIZE_LIMIT}", f"{BATCH_SIZE_LIMIT + 1}"),
        ("warmup_count", "-1", "0", "1000", "1001"),
        ("priority_default", "0", "1", "8", "9"),
        ("queue_count_max", "0", "1", "1048576", "1048577"),
        ("run_timeout_ms", "0.5", "1", "3600000", "3600000.5"),
    ],
)
def test_number_is_taken_up_to_its_limits(key: str, below: str, least: str, most: str, above: str) -> None:
    """At the limits yes, beyond them no; the sentence says value and limit."""
    parse(with_key(key, least))
    parse(with_key(key, most))
    assert only_fault(with_key(key, below)) == f"key '{key}' is {below}: it must be at least {least}; raise it"
    assert only_fault(with_key(key, above)) == f"key '{key}' is {above}: it must be at most {most}; lower it"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("slo_ms", '"50"', "it must be a number; write it without quotes"),
        ("slo_ms", "true", "it must be a number"),
        ("slo_ms", "nan", "it must be a finite number"),
        ("slo_ms", "inf", "it must be a finite number"),
        ("max_batch_size", "8.0", "it must be a whole number"),
        ("max_batch_size", "true", "it must be a whole number"),
        ("name", '""', "1 to 128 of A-Z a-z 0-9 . _ -"),
        ("name", '".hidden"', "start with a letter or digit"),
        ("name", '"a/b"', "1 to 128"),
        ("name", '"naïve"', "1 to 128"),
        ("name", '"m\\n"', "1 to 128"),
        ("name", f'"{"a" * 129}"', "1 to 128"),
        ("name", '"stats"', "/v2/models/stats is a path of the inference protocol"),
        ("name", "3", "it must be text; put it in quotes"),
        ("version", "1", "it must be text; put it in quotes"),
        ("version", '"0"', "positive whole number"),
        ("version", '"01"', "positive whole number"),
        ("version", '"v1"', "positive whole number"),
        ("version", f'"{"9" * 19}"', "at most 18 digits"),
        ("format", '"keras"', "'python', 'torch_export', 'torchscript', 'onnx' or 'emulated'"),
        ("devices", "[]", "at least 1 entry"),
        ("devices", '"cpu"', "it must be a list"),
        ("devices", '["cpu", "cpu"]', "name each once"),
    ],
)
def test_wrong_value_is_refused_with_key_and_remedy(key: str, value: str, said: str) -> None:
    """Type, pattern or choice: the sentence says which."""
    fault = only_fault(with_key(key, value))
    assert fault.startswith(f"key '{key}' is ")
    assert said in fault


def test_unknown_kind_of_device_is_named_by_its_place() -> None:
    """The second of two."""
    assert only_fault(with_key("devices", '["cpu", "gpu"]')) == (
        "key 'devices[1]' is 'gpu': it must be 'cpu', 'cuda' or 'emulated'; choose one"
    )


@pytest.mark.parametrize("key", ["name", "slo_ms", "max_batch_size", "format", "inputs", "outputs"])
def test_missing_key_is_named(key: str) -> None:
    """Each that has no default."""
    text = re.sub(rf"^{key} = .*\n", "", PYTHON + TENSORS, count=1, flags=re.MULTILINE)
    text = text.replace(f"[[{key}]]", f"[[{'outputs' if key == 'inputs' else 'inputs'}]]").replace('"y"', '"z"')
    assert f"key '{key}' is missing; add it" in faults(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (with_key("slo", "5"), "key 'slo' is unknown; did you mean 'slo_ms'?"),
        (with_key("batch_size_max", "5"), "key 'batch_size_max' is unknown; did you mean 'max_batch_size'?"),
        (
            PYTHON + TENSORS.replace("[4]", '[4]\ndtype = "x"'),
            "key 'inputs[0].dtype' is unknown; did you mean 'datatype'?",
        ),
        (EMULATED + TENSORS + LINE + "jiter = 1\n", "key 'emulated.jiter' is unknown; did you mean 'jitter'?"),
    ],
)
def test_unknown_key_is_refused_with_the_nearest_known_one(text: str, said: str) -> None:
    """At every depth."""
    assert only_fault(text) == said


def test_unknown_key_without_a_near_one_lists_those_known() -> None:
    """So that nobody has to look them up."""
    assert only_fault(with_key("qqq", "1")).startswith("key 'qqq' is unknown; known keys are name, version, slo_ms")


def test_all_faults_are_said_at_once() -> None:
    """Those of single keys, at any depth, and those of keys that do not go together."""
    text = with_key("slo_ms", "0").replace('"FP32"', '"float32"').replace('"model.py:M"', '"../model.py:M"') + LINE
    found = faults(text + "betta_ms = 3\n")
    assert len(found) == 5
    for start in (
        "key 'slo_ms'",
        "key 'inputs[0].datatype'",
        "key 'emulated.betta_ms'",
        "table [emulated]",
        "key 'entry'",
    ):
        assert any(fault.startswith(start) for fault in found), start


def test_very_many_faults_are_counted_instead() -> None:
    """A message stays readable."""
    found = faults(PYTHON + TENSORS + "[parameters]\n" + "".join(f"p{i} = []\n" for i in range(50)))
    assert len(found) == FAULTS_SHOWN_MAX + 1
    assert found[-1] == f"and {50 - FAULTS_SHOWN_MAX} more faults; mend these first"


VARYING = TENSORS.replace("[4]", "[-1, 3]")


def test_dimension_that_varies_is_taken_with_its_buckets() -> None:
    config = parse(f"length_buckets = [16, 64]\n{PYTHON}{VARYING}")
    assert config.inputs[0].shape == (-1, 3) and config.length_buckets == (16, 64)
    assert config.at_length(16).inputs[0].shape == (16, 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PYTHON + VARYING, "key 'length_buckets' is missing: input 'x' varies in length (-1); say which lengths"),
        (f"length_buckets = [8]\n{PYTHON}{TENSORS}", "no input of the network varies in length; leave it out"),
        (f"length_buckets = [8, 4]\n{PYTHON}{VARYING}", "lengths from 1 to 1048576 that ascend; write for example"),
        (f"length_buckets = [0]\n{PYTHON}{VARYING}", "lengths from 1 to 1048576 that ascend"),
        (f"length_buckets = [1048577]\n{PYTHON}{VARYING}", "lengths from 1 to 1048576 that ascend"),
        (
            f"length_buckets = [8]\n{PYTHON}" + TENSORS.replace("[4]", "[-1, -1]"),
            "one dimension of a tensor may vary (-1), not several",
        ),
        (
            f"length_buckets = [1048576]\n{PYTHON}" + TENSORS.replace("[4]", "[-1, 1024]"),
            "would have 1073741824 elements at length 1048576, above 268435456; make it smaller",
        ),
        (PYTHON + TENSORS.replace("[]", "[-1]"), "output 'y' varies in length (-1): no input of the network does"),
    ],
)
def test_lengths_that_do_not_go_together_are_refused_with_what_to_do(text: str, said: str) -> None:
    assert said in only_fault(text)


@pytest.mark.parametrize("shape", ["[-2]", "[0]", "[3, 0]"])
def test_dimension_below_one_is_refused(shape: str) -> None:
    """A request has no empty tensors."""
    assert "each dimension must be at least 1" in only_fault(PYTHON + TENSORS.replace("[4]", shape))


def test_shape_is_taken_up_to_its_limits() -> None:
    """In dimensions and in elements, counted without overflow."""
    most = "[" + ", ".join(["1"] * DIMENSION_COUNT_MAX) + "]"
    parse(PYTHON + TENSORS.replace("[4]", most))
    assert f"at most {DIMENSION_COUNT_MAX} entries" in only_fault(PYTHON + TENSORS.replace("[4]", most[:-1] + ", 1]"))
    parse(PYTHON + TENSORS.replace("[4]", f"[{ELEMENT_COUNT_MAX}]"))
    assert f"above {ELEMENT_COUNT_MAX}" in only_fault(PYTHON + TENSORS.replace("[4]", f"[{ELEMENT_COUNT_MAX + 1}]"))
    assert "above" in only_fault(PYTHON + TENSORS.replace("[4]", "[" + ", ".join(["9223372036854775807"] * 8) + "]"))


def test_tensors_need_names_that_differ() -> None:
    """Within the inputs and within the outputs; an input and an output may share one."""
    twice = TENSORS.replace("[[outputs]]", "[[inputs]]").replace('"y"', '"x"')
    assert "name 'x' stands twice" in faults(PYTHON + twice)[0]
    assert parse(PYTHON + TENSORS.replace('"y"', '"x"')).outputs[0].name == "x"


def test_tensors_are_taken_up_to_their_number() -> None:
    """So many inputs and no more."""

    def inputs(count: int) -> str:
        return "".join(f'[[inputs]]\nname = "x{i}"\ndatatype = "BOOL"\nshape = []\n' for i in range(count))

    outputs = TENSORS[TENSORS.index("[[outputs]]") :]
    assert len(parse(PYTHON + inputs(TENSOR_COUNT_MAX) + outputs).inputs) == TENSOR_COUNT_MAX
    assert f"at most {TENSOR_COUNT_MAX} entries" in only_fault(PYTHON + inputs(TENSOR_COUNT_MAX + 1) + outputs)


def test_single_brackets_are_explained() -> None:
    """The usual slip."""
    assert only_fault(PYTHON + TENSORS.replace("[[inputs]]", "[inputs]")) == (
        "key 'inputs' is one table: it must be a list of tables; write [[inputs]] above each"
    )


@pytest.mark.parametrize("entry", ["model.py:M", "a/b-c.py:_M1", "package:M", "package.module:make", "_p._m:M"])
def test_python_entry_is_a_file_or_a_package(entry: str) -> None:
    """And what is in it."""
    assert parse(PYTHON.replace("model.py:M", entry) + TENSORS).entry == entry


@pytest.mark.parametrize(
    "entry",
    [
        *("", "model.py", "M", "../m.py:M", "a/../../m.py:M", "/m.py:M", "~/m.py:M", "m.py:", "m.py:a.b", "a..b:M"),
        *("a/b:M", ".hidden.py:M", "m.py:M M", "m.py:M\\n", "c:\\\\m.py:M"),
    ],
)
def test_python_entry_that_leads_out_or_nowhere_is_refused(entry: str) -> None:
    """With the two forms that work."""
    fault = only_fault(PYTHON.replace("model.py:M", entry) + TENSORS)
    assert fault.startswith("key 'entry' is ")
    assert "'file.py:Class'" in fault and "'package.module:Class'" in fault


@pytest.mark.parametrize("form", ["torch_export", "torchscript", "onnx"])
def test_exported_model_names_a_file(form: str) -> None:
    """Inside the folder."""
    head = HEAD + f'format = "{form}"\n'
    assert parse(head + 'entry = "model.pt2"\n' + TENSORS).entry == "model.pt2"
    for entry in ("", "../model.pt2", "/model.pt2", "model.pt2:M"):
        assert f'format = "{form}" needs a file' in only_fault(head + f'entry = "{entry}"\n' + TENSORS)


def test_onnx_model_is_shown_a_file_of_its_own_kind() -> None:
    assert "such as 'model.onnx'" in only_fault(HEAD + 'format = "onnx"\n' + TENSORS)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("precision", f'"{precision}"') for precision in ("fp16", "bf16", "autocast_fp16", "autocast_bf16")),
        *(("channels_last", "true"), ("compile", "true")),
    ],
)
def test_onnx_model_is_not_run_in_another_way_than_its_file_has_it(key: str, value: str) -> None:
    """Each of them is done by torch."""
    head = HEAD + 'format = "onnx"\nentry = "model.onnx"\n' + TENSORS
    fault = only_fault(f"{head}[execution]\n{key} = {value}\n")
    assert fault.startswith(f"key 'execution.{key}' is ")
    assert "ONNX Runtime runs the file as it is; export the model that way instead, or leave it out" in fault
    assert parse(f'{head}[execution]\nprecision = "as_loaded"\ncuda_graphs = false\n').format == "onnx"


def test_entry_is_taken_up_to_its_length() -> None:
    """And said once beyond it."""
    parse(PYTHON.replace("model.py", "m" * (ENTRY_CHARS_MAX - 5) + ".py") + TENSORS)
    assert "at most 512 characters" in only_fault(
        PYTHON.replace("model.py", "m" * (ENTRY_CHARS_MAX - 4) + ".py") + TENSORS
    )


def test_emulated_table_goes_with_the_emulated_format_only() -> None:
    """Needed there, refused elsewhere."""
    assert only_fault(PYTHON + TENSORS + LINE).startswith('table [emulated] is not allowed with format = "python"')
    assert only_fault(EMULATED + TENSORS).startswith("table [emulated] is missing")


def test_emulated_model_has_no_code_and_no_real_device() -> None:
    """Both are said."""
    text = EMULATED + 'entry = "model.py:M"\ndevices = ["cpu", "emulated"]\n' + TENSORS + LINE
    assert [fault[: fault.index(":")] for fault in faults(text)] == [
        "key 'entry' is 'model.py",
        "key 'devices' is ['cpu', 'emulated']",
    ]


def test_real_model_does_not_run_on_emulated_devices() -> None:
    """They have nothing to run it with."""
    assert 'leave "emulated" out' in only_fault(with_key("devices", '["cpu", "emulated"]'))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("", "give either alpha_ms and beta_ms"),
        ("alpha_ms = 1", "must both be given"),
        ("alpha_ms = 0\nbeta_ms = 0", "not both be 0"),
        ("alpha_ms = 1\nbeta_ms = 1\nlatency_ms = [1, 1, 1, 1, 1, 1, 1, 1]", "give either alpha_ms and beta_ms"),
        ("latency_ms = [1, 1, 1, 1, 1, 1, 1, 0.9]", "must not fall"),
        ("latency_ms = [0, 1, 1, 1, 1, 1, 1, 1]", "must be positive"),
        ("latency_ms = [1, 2]", "has 2 entries: it must have max_batch_size = 8"),
        ("alpha_ms = -1\nbeta_ms = 1", "it must be at least 0"),
        ("alpha_ms = 1\nbeta_ms = 60001", "it must be at most 60000"),
        ("latency_ms = [1, 1, 1, 1, 1, 1, 1, 60001]", "it must be at most 60000"),
        ("alpha_ms = 1\nbeta_ms = 1\njitter = 1.1", "it must be at most 1"),
        ("alpha_ms = 1\nbeta_ms = 1\nfail_every = -1", "it must be at least 0"),
    ],
)
def test_emulated_profile_that_cannot_be_is_refused(table: str, said: str) -> None:
    """A line or a table, not both; positive, and not falling."""
    assert said in only_fault(EMULATED + TENSORS + f"[emulated]\n{table}\n")


def test_parameters_are_plain_values() -> None:
    """One sentence for each that is not, and not too many."""
    found = faults(PYTHON + TENSORS + "[parameters]\na = [1]\nb = {c = 1}\nd = nan\ne = 2020-01-01\nf = 1\n")
    assert [fault.split(" is ")[0] for fault in found] == [f"key 'parameters.{name}'" for name in "abde"]
    most = "[parameters]\n" + "".join(f"p{i} = {i}\n" for i in range(PARAMETER_COUNT_MAX))
    assert len(parse(PYTHON + TENSORS + most).parameters) == PARAMETER_COUNT_MAX
    assert f"at most {PARAMETER_COUNT_MAX} entries" in only_fault(PYTHON + TENSORS + most + "last = 1\n")


def test_long_value_is_cut_in_the_message() -> None:
    """A message stays readable."""
    assert len(only_fault(with_key("name", '"' + "é" * 10_000 + '"'))) < 300


@pytest.mark.parametrize("text", ["=", "a = ", "[", "\x00", 'name = "m', "x = " + "1" * 5000, "x = " + "[" * 3000])
def test_what_is_not_toml_is_said(text: str) -> None:
    """With the place."""
    assert " is not valid TOML: " in faults(text)[0]


def test_configuration_cannot_be_changed() -> None:
    """It is shared between threads."""
    with pytest.raises(AttributeError):
        parse(PYTHON + TENSORS).name = "other"  # type: ignore[misc]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def to_toml(value: object) -> str:
    """Return `value` in TOML's inline form."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{to_toml(str(key))} = {to_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(to_toml, value)) + "]"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(char):08x}" for char in value) + '"'
    return str(value).lower() if not isinstance(value, float) else repr(value)


@given(st.sampled_from([*ModelDocument.model_fields, "other"]), VALUES)
@example("emulated", [1])
@example("inputs", [{"shape": ["x"]}, 3])
@example("format", {"a": 1})
def test_any_value_of_any_key_is_taken_or_refused_in_words(key: str, value: object) -> None:
    """Never anything but ConfigError."""
    text = "\n".join(line for line in PYTHON.splitlines() if not line.startswith(f"{key} ="))
    try:
        parse(f"{text}\n{key} = {to_toml(value)}\n{TENSORS if key not in ('inputs', 'outputs') else ''}")
    except ConfigError as error:
        assert FILE in str(error)


@given(st.text())
def test_any_text_is_taken_or_refused_in_words(text: str) -> None:
    """Never anything but ConfigError."""
    with pytest.raises(ConfigError, match=re.escape(FILE)):
        parse(text)


def test_page_shows_a_model_and_faults_as_they_are() -> None:
    """What docs/models.md shows is what one gets."""
    page = PAGE.read_text()
    (shown,) = re.findall(r"```toml\n([^`]*?\[emulated\].*?)```", page, re.DOTALL)
    (said,) = re.findall(r"```text\n(models/dig.*?)```", page, re.DOTALL)
    assert parse(shown).emulated is not None
    slip = PYTHON.replace("slo_ms", "slo_mss") + TENSORS.replace("[4]", "[-1, 3]")
    expected = said.replace("models/digits/model.toml: ", "").splitlines()
    assert set(expected) <= set(faults(slip))


def test_page_explains_every_key_and_no_other() -> None:
    """docs/models.md has a row for each."""
    page = PAGE.read_text()
    tables = {
        "## model.toml": ModelDocument,
        "### Inputs and outputs": TensorDocument,
        "### Execution": ExecutionDocument,
        "### Processing": ProcessingDocument,
        "### Emulated models": EmulatedDocument,
    }
    for heading, schema in tables.items():
        section = re.split(r"^##", page.split(f"{heading}\n")[1], flags=re.MULTILINE)[0]
        rows = re.findall(r"^\| `([^`]+)`", section, re.MULTILINE)
        assert sorted(rows) == sorted(schema.model_fields), heading
