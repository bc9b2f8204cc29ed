import pytest
from hypothesis import given
from hypothesis import strategies as st

from symphony.errors import Reason, SymphonyError
from symphony.ingress.deadline import check_timeout, parse_timeout_ms

MS = 1_000_000
MAX_NS = 600_000 * MS


@pytest.mark.parametrize(
    ("text", "expected_ns"),
    [("50", 50 * MS), (" 2.5 ", 2_500_000), ("1e2", 100 * MS), ("600000", MAX_NS), ("0.000001", 1), ("+7", 7 * MS)],
)
def test_header_in_milliseconds_is_read(text, expected_ns):
    assert parse_timeout_ms(text, "X-Request-Timeout-Ms", MAX_NS, "m") == expected_ns


@pytest.mark.parametrize(
    "text",
    [
        *("", "soon", "nan", "inf", "-inf", "1_000", "0x10", "１０", "5 ms", "--1"),
        *("-1", "0", "-0", "0.0000001", "600000.1", "1e308", "9" * 32, "9" * 40),
    ],
)
def test_header_that_is_no_usable_number_is_bad_input(text):
    with pytest.raises(SymphonyError) as caught:
        parse_timeout_ms(text, "X-Request-Timeout-Ms", MAX_NS, "m")
    assert caught.value.reason is Reason.BAD_INPUT
    assert 'model "m": header X-Request-Timeout-Ms is' in caught.value.message
    assert caught.value.model == "m"


@given(st.text(max_size=50))
def test_any_header_text_is_a_duration_or_bad_input(text):
    try:
        timeout_ns = parse_timeout_ms(text, "h", MAX_NS, "m")
    except SymphonyError as error:
        assert error.reason is Reason.BAD_INPUT
    else:
        assert 0 < timeout_ns <= MAX_NS


@pytest.mark.parametrize("timeout_ns", [1, 50 * MS, MAX_NS])
def test_timeout_within_its_limits_is_kept(timeout_ns):
    assert check_timeout(timeout_ns, MAX_NS, "m") == timeout_ns


@pytest.mark.parametrize("timeout_ns", [-(10**30), -1, 0, MAX_NS + 1, 10**40])
def test_timeout_outside_its_limits_is_bad_input(timeout_ns):
    with pytest.raises(SymphonyError, match="allowed is above 0 and at most 600000 ms") as caught:
        check_timeout(timeout_ns, MAX_NS, "m")
    assert caught.value.reason is Reason.BAD_INPUT
