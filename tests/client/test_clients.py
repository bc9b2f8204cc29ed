"""Both clients against a server that answers, delays, breaks off and lies as told."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from symphony.client import Ask, AsyncClient, Client
from symphony.client.http import TransportError
from symphony.errors import Reason, SymphonyError
from symphony.wire import FRAMED, Failure, InferResponse, encode_response, encode_responses
from tests.client.script import answer

pytestmark = pytest.mark.sockets


class Both:
    """Call either client in the same words."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def run(self, url: str, use: Callable[[Callable[..., object]], object], **settings) -> object:
        """Run `use(call)` with one client, where `call(method, *args)` calls it and returns what it returns."""
        if self.kind == "blocking":
            with Client(url, **settings) as client:
                return use(lambda method, *args, **named: getattr(client, method)(*args, **named))
        loop = asyncio.new_event_loop()
        client = AsyncClient(url, **settings)
        try:
            return use(lambda method, *args, **named: loop.run_until_complete(getattr(client, method)(*args, **named)))
        finally:
            loop.run_until_complete(client.close())
            loop.close()


@pytest.fixture(params=["blocking", "asyncio"])
def both(request) -> Both:
    return Both(request.param)


def infer(call):
    return call("infer", "m", {"x": np.zeros((1, 2), np.float32)})


def test_connection_is_kept_for_the_next_request(both, serve) -> None:
    script = serve(answer(200, b'{"name": "symphony"}'))
    both.run(script.url, lambda call: [call("metadata") for _ in range(5)])
    assert len(script.heads) == 5
    assert script.connection_count == 1


def test_connection_that_the_server_will_close_is_not_used_again(both, serve) -> None:
    script = serve(answer(200, b"{}", "Connection: close"))
    both.run(script.url, lambda call: [call("metadata") for _ in range(3)])
    assert script.connection_count == 3


def test_outputs_come_back_as_arrays(both, serve) -> None:
    outputs = {"y": np.arange(4, dtype=np.float32).reshape(1, 4)}
    encoded = encode_response(InferResponse("m", "1", outputs, id="7"), FRAMED)
    body = b"".join(encoded.parts)
    headers = [f"{name}: {value}" for name, value in encoded.headers.items()]
    script = serve(answer(200, body, *headers, kind=encoded.content_type))
    result = both.run(script.url, infer)
    assert (result.model, result.version, result.id) == ("m", "1", "7")
    np.testing.assert_array_equal(result["y"], [[0, 1, 2, 3]])


def test_error_carries_reason_and_retry_after(both, serve) -> None:
    body = json.dumps({"error": "no", "reason": "would_miss", "model": "m"}).encode()
    script = serve(answer(503, body, "Retry-After: 0.05"))
    with pytest.raises(SymphonyError) as caught:
        both.run(script.url, infer)
    assert caught.value.reason is Reason.WOULD_MISS
    assert caught.value.retry_after_s == 0.05


def test_infer_that_may_have_run_is_not_sent_again(both, serve) -> None:
    script = serve(None, answer())
    with pytest.raises(TransportError, match="may or may not have run") as caught:
        both.run(script.url, infer)
    assert not caught.value.is_unsent
    assert len(script.heads) == 1


def test_read_on_a_kept_connection_that_turns_out_closed_is_repeated_once(both, serve) -> None:
    script = serve(answer(), None, answer(200, b'{"n": 1}'))
    assert both.run(script.url, lambda call: [call("metadata"), call("metadata")]) == [{}, {"n": 1}]
    assert len(script.heads) == 3


def test_read_on_a_new_connection_is_not_repeated(both, serve) -> None:
    script = serve(None, answer())
    with pytest.raises(TransportError):
        both.run(script.url, lambda call: call("metadata"))
    assert len(script.heads) == 1


def test_idle_connection_that_the_server_closed_is_not_used_for_infer(both, serve) -> None:
    script = serve(answer(), answer(503, b'{"error": "x", "reason": "draining"}'))

    def use(call):
        call("metadata")
        script.drop_connections()
        time.sleep(0.05)
        if both.kind == "asyncio":
            call("is_live")  # lets the loop hear of the closed connection
        return infer(call)

    with pytest.raises(SymphonyError, match="x"):
        both.run(script.url, use)


@pytest.mark.parametrize("cut", [1, 20, 75])
def test_answer_that_breaks_off_is_a_transport_error(both, serve, cut: int) -> None:
    whole = answer(200, b"{}" * 8, "Connection: close")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve_cut() -> None:
        peer, _ = listener.accept()
        with peer:
            peer.recv(65536)
            peer.sendall(whole[:cut])

    thread = threading.Thread(target=serve_cut)
    thread.start()
    with listener, pytest.raises(TransportError, match="after part of its answer"):
        both.run(f"http://127.0.0.1:{listener.getsockname()[1]}", lambda call: call("metadata"))
    thread.join()


def test_port_that_nobody_listens_on_is_said(both) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(TransportError, match="is the server up and the port right") as caught:
        both.run(url, infer)
    assert caught.value.is_unsent


def test_server_that_speaks_something_else_is_said(both, serve) -> None:
    script = serve(b"220 mail.test ESMTP\r\n")
    with pytest.raises(TransportError, match="is this a Symphony server's port"):
        both.run(script.url, lambda call: call("metadata"))


def test_call_ends_at_its_timeout_and_its_connection_is_not_used_again(both, serve) -> None:
    script = serve(0.5, answer(200, b'{"late": 1}'), answer(200, b'{"right": 1}'))

    def use(call):
        began_s = time.monotonic()
        with pytest.raises(TimeoutError, match=r"within 0\.2 s"):
            call("metadata")
        assert time.monotonic() - began_s < 0.45
        return call("metadata")

    assert both.run(script.url, use, timeout_s=0.2) == {"right": 1}
    assert script.connection_count == 2


def test_closed_client_says_so(both, serve) -> None:
    script = serve(answer())

    def use(call):
        call("metadata")
        call("close")
        with pytest.raises(TransportError, match="closed; make a new one"):
            call("metadata")

    both.run(script.url, use)


@pytest.mark.parametrize("settings", [{"connection_count_max": 0}, {"timeout_s": 0}, {"timeout_s": float("nan")}])
def test_settings_that_cannot_work_are_refused(both, settings) -> None:
    with pytest.raises(ValueError, match="both must be above 0"):
        both.run("http://127.0.0.1:1", lambda call: None, **settings)


def test_threads_share_a_client_and_its_limit_of_connections(serve) -> None:
    script = serve(0.01, answer(200, b'{"n": 1}'), 0.01, answer(200, b'{"n": 1}'), answer(200, b'{"n": 1}'))
    found = []
    with Client(script.url, connection_count_max=3) as client:
        threads = [threading.Thread(target=lambda: found.append(client.metadata())) for _ in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [{"n": 1}] * 24
    assert script.connection_count <= 3


async def test_calls_beyond_the_limit_wait_for_a_connection(serve) -> None:
    script = serve(answer(200, b'{"n": 1}'))
    async with AsyncClient(script.url, connection_count_max=2) as client:
        found = await asyncio.gather(*(client.metadata() for _ in range(20)))
    assert found == [{"n": 1}] * 20
    assert script.connection_count == 2


async def test_cancelled_call_closes_its_connection_and_frees_its_place(serve) -> None:
    script = serve(5.0, answer(), answer(200, b'{"n": 1}'))
    async with AsyncClient(script.url, connection_count_max=1) as client:
        call = asyncio.create_task(client.metadata())
        await asyncio.sleep(0.1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await client.metadata() == {"n": 1}


async def test_closing_ends_the_calls_in_flight(serve) -> None:
    script = serve(5.0, answer())
    client = AsyncClient(script.url, connection_count_max=1)
    calls = [asyncio.create_task(client.metadata()) for _ in range(3)]
    await asyncio.sleep(0.1)
    await client.close()
    for found in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(found, TransportError)


def many_answer(count: int) -> bytes:
    answers: list = [InferResponse("m", "1", {"y": np.array([place], "<f4")}, str(place)) for place in range(count - 1)]
    answers.append(Failure(SymphonyError(Reason.WOULD_MISS, "too late", model="m"), "last"))
    encoded = encode_responses(answers, [FRAMED] * count, FRAMED.kind)
    return answer(200, encoded.body(), kind=encoded.content_type)


def test_many_requests_are_one_call_with_an_answer_each(both, serve) -> None:
    script = serve(many_answer(3))
    asks = [Ask({"x": np.full(2, place, "<f4")}, timeout_ms=place + 1, request_id=str(place)) for place in range(3)]
    first, second, third = both.run(script.url, lambda call: call("infer_many", "m", asks, version="1"))
    assert (first["y"].tolist(), second["y"].tolist(), second.id) == ([0], [1], "1")
    assert isinstance(third, SymphonyError) and third.reason is Reason.WOULD_MISS
    (head,) = script.heads
    assert head.startswith(b"POST /v2/models/m/versions/1/infer ")


def test_other_than_one_answer_for_each_request_is_no_answer(both, serve) -> None:
    script = serve(many_answer(3))
    with pytest.raises(TransportError, match="3 answers came to 2 requests"):
        both.run(script.url, lambda call: call("infer_many", "m", [Ask({"x": [1.0]})] * 2))


@pytest.mark.parametrize("count", [0, 257])
def test_none_or_too_many_requests_are_refused_before_they_are_sent(both, serve, count: int) -> None:
    script = serve(many_answer(3))
    with pytest.raises(ValueError, match="1 to 256"):
        both.run(script.url, lambda call: call("infer_many", "m", [Ask({"x": [1.0]})] * count))
    assert script.heads == []
