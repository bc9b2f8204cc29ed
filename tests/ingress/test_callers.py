"""Who calls, and what each may do."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symphony.config import KeyConfig, hash_key
from symphony.errors import Reason, SymphonyError
from symphony.ingress.buckets import TokenBucket
from symphony.ingress.callers import NOBODY, PEERS_MAX, TEXTS_REMEMBERED_MAX, Caller, Callers

S = 1_000_000_000


def key(name: str = "shop", text: str = "sym_a", **rights) -> KeyConfig:
    return KeyConfig(name, hash_key(text), **rights)


def refused(call, *arguments) -> SymphonyError:
    with pytest.raises(SymphonyError) as caught:
        call(*arguments)
    return caught.value


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer sym_a"},
        {"authorization": "bearer  sym_a "},
        {"authorization": "sym_a"},
        {"x-api-key": "sym_a"},
    ],
)
def test_key_is_known_in_either_header(headers) -> None:
    callers = Callers([key(), key("other", "sym_b")])
    for _ in range(2):  # the second time from memory
        caller = callers.identify(headers)
        assert caller.key is not None
        assert caller.key.name == "shop"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer "},
        {"authorization": "Bearer sym_A"},
        {"authorization": "Bearer sym_ä"},
        {"authorization": "Basic c3ltX2E="},
        {"authorization": "Bearer " + "x" * 100_000},
        {"x-api-key": hash_key("sym_a")},
        {"authorization": "Bearer wrong", "x-api-key": "sym_a"},
    ],
)
def test_anything_else_is_unauthorized_and_never_shown(headers) -> None:
    error = refused(Callers([key()]).identify, headers)
    assert error.reason is Reason.UNAUTHORIZED
    assert not any(value and value.split()[-1] in error.message for value in headers.values() if value.strip())


@given(st.text(max_size=300))
def test_any_header_is_refused_or_known(text: str) -> None:
    callers = Callers([key()])
    if text.removeprefix("Bearer ").strip() != "sym_a":
        assert refused(callers.identify, {"authorization": text}).reason is Reason.UNAUTHORIZED


def test_wrong_keys_are_not_remembered() -> None:
    callers = Callers([key()])
    for number in range(TEXTS_REMEMBERED_MAX + 10):
        refused(callers.identify, {"x-api-key": f"wrong {number}"})
    assert len(callers._by_text) == 0


def test_empty_key_file_lets_nobody_in() -> None:
    assert refused(Callers([]).identify, {"x-api-key": "sym_a"}).reason is Reason.UNAUTHORIZED


def test_models_are_matched_by_patterns_and_case() -> None:
    caller = Caller("key:shop", key(models=("digits*", "echo")))
    for name, is_allowed in [("digits", True), ("digits_2", True), ("echo", True), ("Echo", False), ("echo2", False)]:
        assert caller.may_use(name) is is_allowed
    error = refused(caller.check, "infer", "secret", 0)
    assert (error.reason, error.model) == (Reason.FORBIDDEN, "secret")


def test_scope_that_a_key_lacks_is_forbidden() -> None:
    caller = Caller("key:shop", key(scopes=("metrics",)))
    caller.check("metrics", None, 0)
    assert refused(caller.check, "manage", None, 0).reason is Reason.FORBIDDEN


def test_rate_is_kept_and_the_wait_is_computed() -> None:
    caller = Caller("key:shop", key(rate=10.0, burst=5.0))
    let_in = 0
    for millisecond in range(2000):
        try:
            caller.check("infer", "m", millisecond * S // 1000)
            let_in += 1
        except SymphonyError as error:
            assert error.reason is Reason.RATE_LIMITED
            assert error.retry_after_s is not None
            assert 0 < error.retry_after_s <= 0.1
    assert let_in in (24, 25)  # five at once, then ten a second


def test_requests_of_one_call_are_all_charged() -> None:
    caller = Caller("key:shop", key(rate=10.0))
    caller.check("infer", "m", 0)
    caller.charge(29)  # thirty in one call
    error = refused(caller.check, "infer", "m", S)
    assert error.retry_after_s == pytest.approx(1.1)
    caller.check("infer", "m", S + round(1.2 * S))


def test_clock_that_steps_back_gives_nothing() -> None:
    bucket = TokenBucket(1.0, 1.0)
    assert bucket.take(10 * S)
    assert not bucket.take(5 * S)
    assert not bucket.take(10 * S)
    assert bucket.take(11 * S)


@given(st.floats(0.1, 1000), st.floats(0, 100), st.lists(st.integers(0, 10**9), max_size=200))
def test_bucket_never_lets_in_more_than_burst_and_rate(rate: float, burst: float, steps_ns: list[int]) -> None:
    bucket = TokenBucket(rate, burst)
    now_ns = taken = 0
    for step_ns in steps_ns:
        now_ns += step_ns
        taken += bucket.take(now_ns)
    assert taken <= bucket.burst + rate * now_ns / 1e9 + 1e-6


def test_calls_in_flight_are_limited() -> None:
    caller = Caller("key:shop", key(in_flight_max=2))
    caller.in_flight = 1
    assert caller.refusal() is None
    caller.in_flight = 2
    error = caller.refusal()
    assert error is not None
    assert error.reason is Reason.RATE_LIMITED


def test_keys_that_stay_keep_what_they_spent_and_others_go() -> None:
    callers = Callers([key(rate=1.0), key("gone", "sym_b")])
    shop = callers.identify({"x-api-key": "sym_a"})
    callers.identify({"x-api-key": "sym_b"})
    shop.in_flight = 3
    shop.check("infer", "m", 0)
    callers.replace([key(rate=1.0, models=("x",))])
    assert callers.identify({"x-api-key": "sym_a"}) is shop
    assert shop.in_flight == 3
    assert refused(shop.check, "infer", "x", 0).reason is Reason.RATE_LIMITED
    assert refused(shop.check, "infer", "m", 0).reason is Reason.FORBIDDEN
    assert refused(callers.identify, {"x-api-key": "sym_b"}).reason is Reason.UNAUTHORIZED


def test_without_keys_callers_are_told_apart_by_address() -> None:
    callers = Callers()
    one, two = callers.peer(("10.0.0.1", 5000)), callers.peer(("10.0.0.2", 5000))
    assert one is not two
    assert callers.peer(("10.0.0.1", 6000)) is one
    assert callers.identify({}, one) is one
    assert callers.identify({}) is NOBODY


def test_ipv6_customer_is_one_caller_whatever_his_address() -> None:
    callers = Callers()
    one = callers.peer(("2001:db8:1:2::1", 1, 0, 0))
    assert callers.peer(("2001:db8:1:2:ffff::9", 1, 0, 0)).id == one.id
    assert callers.peer(("2001:db8:1:3::1", 1, 0, 0)).id != one.id
    assert callers.peer(("::ffff:10.0.0.1", 1, 0, 0)).id == callers.peer(("10.0.0.1", 1)).id


def test_addresses_remembered_are_bounded() -> None:
    callers = Callers()
    for number in range(3 * PEERS_MAX):
        callers.peer((f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1))
    assert len(callers._peers) <= PEERS_MAX
    busy = Callers()
    for number in range(PEERS_MAX + 10):
        busy.peer((f"10.0.{number >> 8}.{number & 255}", 1)).in_flight = 1
    assert busy.peer(("11.0.0.1", 1)).id == "peers"


@pytest.mark.parametrize("address", [None, "", "/run/socket", (), ("no address", 1), ("fe80::1%eth0", 1, 0, 2)])
def test_any_peer_has_a_caller(address: object) -> None:
    assert Callers().peer(address).id.startswith("peer:")


def test_text_of_a_key_is_in_no_representation() -> None:
    callers = Callers([key(text="sym_very_secret")])
    caller = callers.identify({"x-api-key": "sym_very_secret"})
    gc.collect()
    assert "very_secret" not in repr(caller) + repr(callers) + repr(caller.key)
