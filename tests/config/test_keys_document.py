"""Every fault of a keys.toml is said, none shows what might be a key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symphony.config import hash_key, parse_keys
from symphony.errors import ConfigError

HASH = hash_key("sym_secret")
SMALLEST = f'[[keys]]\nname = "shop"\nsha256 = "{HASH}"\n'


def fault(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_keys(text, "keys.toml")
    return str(caught.value)


def test_smallest_key_may_infer_with_any_model_without_limits() -> None:
    (key,) = parse_keys(SMALLEST, "keys.toml")
    assert (key.name, key.sha256, key.scopes, key.models) == ("shop", HASH, ("infer",), ("*",))
    assert (key.rate, key.burst, key.in_flight_max, key.weight) == (0, 0, 0, 1)


def test_every_right_is_read() -> None:
    text = SMALLEST + 'scopes = ["infer", "metrics"]\nmodels = ["a*", "b"]\nrate = 5\nburst = 9\nweight = 2\n'
    (key,) = parse_keys(text + "in_flight_max = 3\n", "keys.toml")
    assert (key.scopes, key.models) == (("infer", "metrics"), ("a*", "b"))
    assert (key.rate, key.burst, key.in_flight_max, key.weight) == (5, 9, 3, 2)


def test_file_without_keys_lets_nobody_in() -> None:
    assert parse_keys("", "keys.toml") == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("rate = -1", "at least 0"),
        ("burst = 3", "burst' needs a rate"),
        ("weight = 0", "at least"),
        ("in_flight_max = 1.5", "whole number"),
        ('scopes = ["root"]', "scopes[0]"),
        ("scopes = []", "at least 1 entry"),
        ('model = ["x"]', "did you mean 'models'"),
        (SMALLEST, "two keys have the same name"),
    ],
)
def test_fault_is_said_with_its_remedy(change: str, said: str) -> None:
    assert said in fault(f"{SMALLEST}{change}\n")


def test_key_put_where_its_hash_belongs_is_refused_and_not_shown() -> None:
    said = fault('[[keys]]\nname = "shop"\nsha256 = "sym_secret"\n')
    assert "symphony keys new" in said
    assert "secret" not in said


@pytest.mark.parametrize("name", ["", "a b", "-a", "a" * 65, "ä"])
def test_name_that_would_break_a_log_line_is_refused(name: str) -> None:
    assert "name" in fault(f'[[keys]]\nname = "{name}"\nsha256 = "{HASH}"\n')


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_with_a_config_error(text: str) -> None:
    try:
        parse_keys(text, "keys.toml")
    except ConfigError as error:
        assert "keys.toml" in str(error)
