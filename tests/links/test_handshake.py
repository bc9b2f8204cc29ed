"""The handshake: two holders of the key find each other; nobody else does, whatever of it is altered or repeated."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symphony.links.clocks import RoundTrip
from symphony.links.faults import HandshakeError
from symphony.links.handshake import KEY_BYTES_MAX, KEY_BYTES_MIN, Acceptor, ClusterKey, Dialer, Greeting, Identity
from symphony.links.limits import HANDSHAKE_BYTES_MAX, LinkLimits

KEY = ClusterKey(b"k" * 32)
LIMITS = LinkLimits()


def new_dialer(key: ClusterKey = KEY, node: str = "a", peer: str = "b", nonce: bytes = b"1" * 32) -> Dialer:
    return Dialer(Identity(node, 1), peer, key, LIMITS, nonce)


def new_acceptor(key: ClusterKey = KEY, node: str = "b", nonce: bytes = b"2" * 32) -> Acceptor:
    return Acceptor(Identity(node, 2), key, LinkLimits(call_count_max=7), nonce)


def greet(dialer: Dialer, acceptor: Acceptor, alter=lambda number, payload: payload) -> Greeting:
    hello = alter(0, dialer.hello(100))
    welcome = alter(1, acceptor.greeted(hello, 1_050, lambda: 1_060))
    proof = alter(2, dialer.welcomed(welcome, 200, lambda: 210))
    return acceptor.proved(proof, 1_170)


def test_two_holders_of_the_key_know_each_other_and_their_clocks() -> None:
    dialer, acceptor = new_dialer(), new_acceptor()
    peer = greet(dialer, acceptor)
    assert (peer.identity, peer.limits) == (Identity("a", 1), LIMITS)
    assert dialer.peer.identity == Identity("b", 2)
    assert dialer.peer.limits.call_count_max == 7
    assert dialer.round_trip == RoundTrip(100, 1_050, 1_060, 200)
    assert acceptor.round_trip == RoundTrip(1_060, 200, 210, 1_170)


def test_longest_greeting_fits_the_limit_of_a_stranger() -> None:
    dialer, acceptor = new_dialer(node="ä" * 64, peer="b" * 128), new_acceptor(node="b" * 128)
    hello = dialer.hello(0)
    assert len(hello) < len(acceptor.greeted(hello, 0, lambda: 0)) <= HANDSHAKE_BYTES_MAX


def test_dialer_with_another_key_is_refused() -> None:
    other = ClusterKey(b"K" * 32)
    with pytest.raises(HandshakeError, match="does not hold this cluster's key"):
        greet(new_dialer(key=other), new_acceptor())
    # One that skips the check of the other side does not get further.
    dialer, acceptor = new_dialer(), new_acceptor()
    welcome = acceptor.greeted(dialer.hello(0), 0, lambda: 0)
    forged = dialer.welcomed(welcome, 0, lambda: 0)[:16]
    with pytest.raises(HandshakeError, match="does not hold this cluster's key"):
        acceptor.proved(forged + other.mac("symphony link 1 proof", dialer.hello(0), welcome, forged), 0)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2), st.data())
def test_altered_byte_anywhere_ends_the_handshake(which, data) -> None:
    def alter(number: int, payload: bytes) -> bytes:
        if number != which:
            return payload
        index = data.draw(st.integers(0, len(payload) - 1))
        changed = bytes([payload[index] ^ data.draw(st.integers(1, 255))])
        return payload[:index] + changed + payload[index + 1 :]

    with pytest.raises(HandshakeError):
        greet(new_dialer(), new_acceptor(), alter)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2), st.binary(max_size=400))
def test_random_bytes_end_the_handshake(which, text) -> None:
    with pytest.raises(HandshakeError):
        greet(new_dialer(), new_acceptor(), lambda number, payload: text if number == which else payload)


def test_repeated_proof_is_refused_in_another_conversation() -> None:
    kept: list[bytes] = []
    greet(new_dialer(), new_acceptor(), lambda number, payload: kept.append(payload) or payload)
    again = new_acceptor(nonce=b"3" * 32)
    again.greeted(kept[0], 1_050, lambda: 1_060)
    with pytest.raises(HandshakeError, match="does not hold"):
        again.proved(kept[2], 1_170)


def test_welcome_of_another_conversation_is_refused() -> None:
    kept: list[bytes] = []
    greet(new_dialer(), new_acceptor(), lambda number, payload: kept.append(payload) or payload)
    again = new_dialer(nonce=b"3" * 32)
    again.hello(100)
    with pytest.raises(HandshakeError, match="does not hold"):
        again.welcomed(kept[1], 200, lambda: 210)


def test_what_a_node_says_of_itself_is_not_taken_from_its_mirror() -> None:
    dialer, mirror = new_dialer(), new_acceptor(node="b")
    hello = dialer.hello(0)
    welcome = mirror.greeted(hello, 0, lambda: 0)
    with pytest.raises(HandshakeError):
        mirror.proved(welcome[-48:], 0)


def test_greeting_for_another_node_is_refused() -> None:
    with pytest.raises(HandshakeError, match="for 'c' came here"):
        greet(new_dialer(peer="c"), new_acceptor())


def test_node_that_answers_under_another_id_is_refused() -> None:
    dialer, acceptor = new_dialer(peer="c"), new_acceptor(node="b")
    hello = dialer.hello(0)
    said = Greeting(b"2" * 32, Identity("b", 2), "a", LIMITS, 0, 0).pack()
    with pytest.raises(HandshakeError, match=r"dialled 'c' and reached 'b'"):
        dialer.welcomed(said + KEY.mac("symphony link 1 welcome", hello, said), 0, lambda: 0)
    with pytest.raises(HandshakeError, match="a proof"):
        acceptor.proved(b"x" * 48, 0)


def test_node_that_uses_our_id_is_refused() -> None:
    with pytest.raises(HandshakeError, match="calls itself 'b', too"):
        greet(new_dialer(node="b", peer="b"), new_acceptor())


@pytest.mark.parametrize("node", ["", "x" * 129, "a\nb"], ids=["empty", "long", "unprintable"])
def test_id_that_cannot_be_is_refused(node) -> None:
    with pytest.raises(ValueError, match="a node's id"):
        Identity(node, 0)


def test_key_is_neither_shown_nor_pickled() -> None:
    key = ClusterKey(b"secret-secret-secret-secret-secret")
    assert "secret" not in repr(key) + str(key) + f"{key}"
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(key)


def test_key_is_taken_at_its_limits_and_refused_beyond() -> None:
    ClusterKey(bytes(KEY_BYTES_MIN))
    ClusterKey(bytes(KEY_BYTES_MAX))
    for size in (0, KEY_BYTES_MIN - 1, KEY_BYTES_MAX + 1):
        with pytest.raises(ValueError, match=f"has {size} bytes"):
            ClusterKey(bytes(size))
