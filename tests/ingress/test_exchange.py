import dataclasses
import gc
import json
import time
import weakref

import msgpack
import numpy as np
import pytest

from symphony.config import TensorSpec
from symphony.errors import Reason, SymphonyError
from symphony.ingress import InferExchange, IngressLimits
from symphony.metrics import triton_statistics
from symphony.wire import FRAMED, InferRequest, encode_request

MS = 1_000_000


def body(rows=None, **parameters) -> bytes:
    data = [1, 2, 3, 4] if rows is None else [[row, row, row, row] for row in rows]
    shape = [4] if rows is None else [len(rows), 4]
    request = {"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": data}]}
    if parameters:
        request["parameters"] = parameters
    return json.dumps(request).encode()


class Caller:
    """Keep the replies that an exchange gave."""

    def __init__(self, service, **limits) -> None:
        self.service = service
        self.exchanges = InferExchange(service, IngressLimits(**limits), clock_ns=lambda: 1_000 * MS)
        self.replies = []

    def call(self, payload=None, model="scale", version=None, **headers):
        payload = body() if payload is None else payload
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.exchanges.start(model, version, named, payload, self.replies.append)

    @property
    def reply(self):
        assert len(self.replies) == 1
        return self.replies[0]

    @property
    def json(self):
        assert self.reply.content_type == "application/json"
        return json.loads(self.reply.body())

    def assert_empty(self) -> None:
        assert self.exchanges.in_flight == 0
        assert self.exchanges.body_bytes == 0
        assert self.service.inside == []


@pytest.fixture
def caller(service) -> Caller:
    service.mode = "now"
    return Caller(service)


def assert_error(caller: Caller, status: int, reason: str, text: str = "", model: str = "scale") -> None:
    assert caller.reply.status == status
    assert caller.json["reason"] == reason
    assert caller.json["model"] == model
    assert text in caller.json["error"]
    assert set(caller.json) == {"error", "reason", "model"}
    caller.assert_empty()


def test_one_request_is_answered_without_a_batch_dimension(caller):
    caller.call()
    assert caller.reply.status == 200
    assert caller.json["model_name"] == "scale"
    assert caller.json["model_version"] == "1"
    (output,) = caller.json["outputs"]
    assert (output["name"], output["datatype"], output["shape"], output["data"]) == ("y", "FP32", [2], [2, 4])
    caller.assert_empty()


def test_answer_comes_when_the_request_ends_and_not_before(caller):
    caller.service.mode = "never"
    exchange = caller.call()
    assert not caller.replies
    assert not exchange.is_done
    assert caller.exchanges.in_flight == 1
    caller.service.finish(caller.service.inside[0])
    assert caller.reply.status == 200
    assert exchange.is_done
    caller.assert_empty()


def test_submitted_request_has_the_arrival_deadline_and_priority(caller):
    caller.call()
    (request,) = caller.service.submitted
    assert (request.arrived_ns, request.deadline_ns, request.priority) == (1_000 * MS, 1_050 * MS, 4)
    assert request.model == caller.service.find("scale", None).index


def test_request_says_its_deadline_and_priority(caller):
    caller.call(body(timeout=20_000, priority=1))
    caller.call(x_request_timeout_ms="30")
    caller.call(symphony_slo_ms="40")
    assert [request.deadline_ns // MS for request in caller.service.submitted] == [1_020, 1_030, 1_040]
    assert caller.service.submitted[0].priority == 1


def test_group_is_answered_in_order_once_all_have_ended(caller):
    caller.service.mode = "never"
    caller.call(body([1, 2, 3]))
    inside = list(caller.service.inside)
    assert len(inside) == 3
    assert len({request.deadline_ns for request in inside}) == 1
    for request in reversed(inside):
        assert not caller.replies
        caller.service.finish(request)
    (output,) = caller.json["outputs"]
    assert output["shape"] == [3, 2]
    assert output["data"] == [2, 2, 4, 4, 6, 6]
    caller.assert_empty()


def test_group_of_one_keeps_its_batch_dimension(caller):
    caller.call(body([5]))
    assert caller.json["outputs"][0]["shape"] == [1, 2]


def test_first_failure_in_a_group_cancels_the_rest(caller):
    service = caller.service
    service.mode = "never"
    caller.call(body([1, 2, 3, 4]))
    first, second, third, fourth = service.inside
    service.finish(first)
    service.answer_error = SymphonyError(Reason.WOULD_MISS, "no time left")
    service.finish(third)
    assert service.cancelled == [second, fourth]
    assert_error(caller, 503, "would_miss", "no time left")


def test_group_refused_half_way_cancels_what_was_taken(caller):
    service = caller.service
    service.mode = "never"
    service.submit_count_max = 2
    caller.call(body([1, 2, 3, 4, 5]))
    assert service.cancelled == service.submitted
    assert len(service.cancelled) == 2
    assert ("Retry-After", "3") in caller.reply.headers
    assert_error(caller, 503, "queue_full", "the queue is full")
    stats = service.find("scale", None).stats
    assert sum(stats.unanswered.values()) == 3


def test_group_that_fails_inside_submit_submits_no_more(caller):
    caller.service.answer_error = SymphonyError(Reason.NO_GPU, "none")
    caller.call(body([1, 2, 3]))
    assert len(caller.service.submitted) == 1
    assert_error(caller, 503, "no_gpu")


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.UNKNOWN_MODEL])
@pytest.mark.parametrize("where", ["submit_error", "answer_error"])
def test_every_reason_has_its_status_and_body(caller, reason, where):
    setattr(caller.service, where, SymphonyError(reason, "because"))
    caller.call()
    if reason.http_status in (429, 503):
        assert ("Retry-After", "1") in caller.reply.headers
    elif reason.http_status == 401:
        assert caller.reply.headers == [("WWW-Authenticate", "Bearer")]
    else:
        assert not caller.reply.headers
    stats = caller.service.find("scale", None).stats
    assert stats.unanswered == ({("rejected", reason): 1} if where == "submit_error" else {})
    assert_error(caller, reason.http_status, reason.token, "because")


def test_unknown_model_is_named_with_the_known_ones(caller):
    caller.call(model="nope")
    assert_error(caller, 404, "unknown_model", 'model "nope" is not served here; known models: "pair", "scale"', "nope")
    assert caller.service.stats.refused == {Reason.UNKNOWN_MODEL: 1}


def test_unknown_version_is_an_unknown_model(caller):
    caller.call(version="9")
    assert_error(caller, 404, "unknown_model", 'version "9"')


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"", ""),
        (b"{", ""),
        (b"[]", ""),
        (b"null", ""),
        (b'{"inputs": 1}', ""),
        (b'{"inputs": []}', ""),
        (b"\xff\xfe", ""),
        (b"[" * 100_000, ""),
        (body(timeout=-5), "timeout"),
        (body(timeout=0), "timeout"),
        (body(timeout=10**18), "timeout"),
        (body(timeout="soon"), ""),
        (body(priority=9), "priority"),
        (body(priority=-1), "priority"),
        (body().replace(b"FP32", b"INT64"), "expected FP32[4]"),
        (body().replace(b"FP32", b"COMPLEX"), ""),
        (body().replace(b"[4]", b"[5]"), ""),
        (body().replace(b"[4]", b"[2, 2]"), "expected [4]"),
        (body().replace(b'"x"', b'"z"'), 'no input "z"'),
        (body([1] * 9), "allowed are 1 to 8"),
    ],
)
def test_malformed_json_requests_are_bad_input(caller, payload, text):
    caller.call(payload, content_type="application/json")
    stats = caller.service.find("scale", None).stats
    assert stats.unanswered == {("rejected", Reason.BAD_INPUT): 1}
    assert not caller.service.submitted
    assert_error(caller, 400, "bad_input", text)


def test_each_truncation_of_a_msgpack_request_is_bad_input(service):
    service.mode = "now"
    whole = msgpack.packb(
        {"inputs": [{"name": "x", "shape": [4], "datatype": "FP32", "data": np.arange(4, dtype="<f4").tobytes()}]}
    )
    for length in range(len(whole)):
        caller = Caller(service)
        caller.call(whole[:length], content_type="application/msgpack")
        assert caller.reply.status == 400
        assert caller.reply.content_type == "application/msgpack"
        error = msgpack.unpackb(caller.reply.body())
        assert (error["reason"], error["model"]) == ("bad_input", "scale")
        assert error["error"]
    caller = Caller(service)
    caller.call(whole, content_type="application/msgpack")
    assert caller.reply.status == 200
    assert caller.reply.content_type == "application/msgpack"


def test_nan_is_refused_where_the_model_says_so(caller):
    payload = msgpack.packb(
        {"inputs": [{"name": "x", "shape": [4], "datatype": "FP32", "data": np.full(4, np.nan, "<f4").tobytes()}]}
    )
    caller.call(payload, model="strict", content_type="application/msgpack", accept="application/json")
    assert_error(caller, 400, "bad_input", "NaN", "strict")


@pytest.mark.parametrize(
    ("content_type", "accept", "expected"),
    [
        ("application/json", None, "application/json"),
        ("application/msgpack", None, "application/msgpack"),
        ("application/x-symphony-msgpack", "*/*", "application/msgpack"),
        ("application/msgpack", "application/json", "application/json"),
        ("application/json", "application/msgpack", "application/msgpack"),
        (None, None, "application/json"),
    ],
)
def test_error_has_the_form_that_the_client_reads(caller, content_type, accept, expected):
    headers = {"content_type": content_type, "accept": accept}
    caller.call(b"", **{name: value for name, value in headers.items() if value is not None})
    assert caller.reply.content_type == expected


@pytest.mark.parametrize("header", [{"x_request_timeout_ms": "-1"}, {"symphony_slo_ms": "x"}])
def test_bad_deadline_headers_are_bad_input(caller, header):
    caller.call(**header)
    assert_error(caller, 400, "bad_input", "header")


@pytest.mark.parametrize("length", ["", "-1", "x", "1" * 13, "²", "99999"])
def test_bad_header_length_is_bad_input(caller, length):
    caller.call(inference_header_content_length=length)
    assert_error(caller, 400, "bad_input")


def test_unknown_output_name_is_bad_input(caller):
    request = json.loads(body())
    request["outputs"] = [{"name": "w"}]
    caller.call(json.dumps(request).encode())
    assert_error(caller, 400, "bad_input", 'no output "w"; outputs: "y"')


def test_body_at_its_limit_is_taken_and_one_byte_more_is_not(service):
    service.mode = "now"
    at = Caller(service, body_bytes_max=len(body()))
    at.call()
    assert at.reply.status == 200
    above = Caller(service, body_bytes_max=len(body()) - 1)
    above.call()
    assert_error(above, 413, "too_large", "body_bytes_max")


def test_calls_in_flight_are_limited(service):
    service.mode = "never"
    caller = Caller(service, in_flight_max=2)
    first = caller.call()
    caller.call()
    caller.call()
    assert caller.json["reason"] == "queue_full"
    assert "in_flight_max" in caller.json["error"]
    first.cancel()
    caller.call()
    assert len(caller.replies) == 1
    assert caller.exchanges.in_flight == 2


def test_bytes_of_all_bodies_are_limited(service):
    service.mode = "never"
    size = len(body())
    caller = Caller(service, body_bytes_max=size, body_bytes_total_max=2 * size)
    caller.call()
    caller.call()
    caller.call()
    assert caller.json["reason"] == "queue_full"
    assert "body_bytes_total_max" in caller.json["error"]


def test_cancel_cancels_every_request_and_answers_nothing(caller):
    caller.service.mode = "never"
    exchange = caller.call(body([1, 2, 3]))
    caller.service.finish(caller.service.inside[0])
    exchange.cancel()
    exchange.cancel()
    assert len(caller.service.cancelled) == 2
    assert not caller.replies
    caller.assert_empty()


def test_cancel_after_the_answer_does_nothing(caller):
    exchange = caller.call()
    exchange.cancel()
    assert caller.reply.status == 200
    assert not caller.service.cancelled
    caller.assert_empty()


def test_request_id_is_echoed_on_answers_and_errors(caller):
    caller.call(x_request_id="abc-1")
    caller.call(b"", x_request_id="abc-2")
    assert [dict(reply.headers)["X-Request-Id"] for reply in caller.replies] == ["abc-1", "abc-2"]


@pytest.mark.parametrize("request_id", ["a" * 129, "bad\r\nSet-Cookie: x", "é", ""])
def test_request_id_that_could_harm_is_not_echoed(caller, request_id):
    caller.call(x_request_id=request_id)
    assert caller.reply.status == 200
    assert dict(caller.reply.headers).get("X-Request-Id", "") == ""


def test_fault_of_the_server_is_said_without_detail_and_logged(caller, caplog):
    caller.service.broken = ZeroDivisionError("secret detail")
    caller.call()
    assert_error(caller, 500, "worker_failed", "its log says why", "")
    assert "secret" not in caller.json["error"]
    assert "secret detail" in caplog.text


def test_outputs_that_cannot_be_encoded_are_a_fault_of_the_server(caller, caplog):
    caller.service.mode = "never"
    caller.call()
    (request,) = caller.service.inside
    caller.service.inside.clear()
    request.outputs = {"y": "not an array"}
    request.on_done(request)
    assert_error(caller, 500, "worker_failed")
    assert "cannot encode" in caplog.text


def test_reloaded_model_is_checked_by_its_new_configuration(caller):
    caller.call()
    model = caller.service.find("scale", None)
    model.config = dataclasses.replace(model.config, inputs=(TensorSpec("x", "FP32", (5,)),))
    caller.call()
    assert [reply.status for reply in caller.replies] == [200, 400]


def test_inputs_are_freed_as_soon_as_answered(caller):
    caller.service.mode = "never"
    gc.collect()
    gc.disable()
    try:
        exchange = caller.call()
        (request,) = caller.service.inside
        reference = weakref.ref(request.inputs["x"])
        caller.service.finish(request)
        caller.service.submitted.clear()
        del request
        assert reference() is None
        assert exchange.is_done
    finally:
        gc.enable()


def test_ten_thousand_random_bodies_are_each_refused_clearly(service):
    random = np.random.default_rng(2308_07470)
    caller = Caller(service)
    types = ["application/json", "application/msgpack", "application/x-symphony-msgpack", "", "text/plain"]
    lengths = [None, "0", "3", "17", "100000"]
    for index in range(10_000):
        payload = random.bytes(int(random.integers(0, 200)))
        if index % 4 == 0:
            payload = b'{"inputs":' + payload
        headers = {"content_type": types[index % len(types)], "accept": "application/json"}
        if (length := lengths[int(random.integers(len(lengths)))]) is not None:
            headers["inference_header_content_length"] = length
        caller.call(payload, **headers)
        reply = caller.replies.pop()
        assert 400 <= reply.status < 500, (payload, headers, reply)
        error = json.loads(reply.body())
        assert error["error"] and error["reason"] == "bad_input", (payload, error)
    assert not service.submitted
    caller.assert_empty()


def test_mutations_of_a_good_request_never_break_the_server(service):
    service.mode = "now"
    random = np.random.default_rng(7)
    caller = Caller(service)
    good = [
        (body([1, 2], timeout=5_000, priority=2), "application/json"),
        (
            msgpack.packb(
                {
                    "inputs": [
                        {"name": "x", "shape": [4], "datatype": "FP32", "data": np.arange(4, dtype="<f4").tobytes()}
                    ]
                }
            ),
            "application/msgpack",
        ),
    ]
    for index in range(4_000):
        payload, content_type = good[index % 2]
        mutant = bytearray(payload)
        for _ in range(int(random.integers(1, 4))):
            mutant[int(random.integers(len(mutant)))] = int(random.integers(256))
        caller.call(bytes(mutant), content_type=content_type, accept="application/json")
        reply = caller.replies.pop()
        assert reply.status == 200 or 400 <= reply.status < 500, (bytes(mutant), reply)
    caller.assert_empty()


def framed(array: np.ndarray) -> bytes:
    """Write the framed form by hand."""
    header = msgpack.packb(
        {"v": 1, "inputs": [{"name": "x", "dtype": array.dtype.str, "shape": array.shape, "off": 0, "n": array.nbytes}]}
    )
    head = len(header).to_bytes(4, "little") + header
    return head + bytes(-len(head) % 64) + array.tobytes()


def test_framed_call_costs_at_most_thirty_microseconds(service):
    outputs = {"y": np.zeros(2, np.float32)}

    def submit(request) -> None:
        request.outputs = outputs
        request.on_done(request)

    service.submit = submit
    exchanges = InferExchange(service, IngressLimits())
    payload = framed(np.arange(4, dtype="<f4"))
    headers = {"content-type": "application/x-symphony-msgpack", "content-length": str(len(payload))}
    replies = []
    exchanges.start("scale", None, headers, payload, replies.append)
    assert replies[0].status == 200, replies[0].body()
    best_ns = float("inf")
    for _ in range(10):
        begun_ns = time.perf_counter_ns()
        for _ in range(500):
            exchanges.start("scale", None, headers, payload, replies.append)
        best_ns = min(best_ns, (time.perf_counter_ns() - begun_ns) / 500)
    print(f"framed exchange: {best_ns / 1_000:.1f} us")
    assert best_ns <= 30_000


def test_overload_is_refused_before_the_body_is_looked_at(caller):
    model = caller.service.find("scale", None)
    model.refusal_error = SymphonyError(Reason.WOULD_MISS, "too much", model="scale", retry_after_s=0.2)
    caller.call(b"no json at all", x_request_id="a-1")
    assert caller.reply.status == 503 and caller.json["reason"] == "would_miss"
    assert ("Retry-After", "1") in caller.reply.headers and ("X-Request-Id", "a-1") in caller.reply.headers
    assert model.stats.unanswered == {("rejected", Reason.WOULD_MISS): 1}
    caller.assert_empty()


def test_refusals_of_overload_leave_no_trace_in_their_shared_error(caller):
    """Raising it each time would chain the tracebacks, and with them every body refused."""
    error = SymphonyError(Reason.WOULD_MISS, "too much", model="scale")
    caller.service.find("scale", None).refusal_error = error
    for _ in range(3):
        caller.call()
    assert len(caller.replies) == 3 and error.__traceback__ is None


def test_call_let_in_already_is_not_asked_again(caller):
    caller.service.find("scale", None).refusal_error = SymphonyError(Reason.WOULD_MISS, "too much")
    caller.exchanges.start("scale", None, {}, body(), caller.replies.append, is_let_in=True)
    assert caller.reply.status == 200


def triton_counts(model) -> tuple[int, int]:
    """Return (success, fail) of Triton's statistics: calls, not rows."""
    sums = triton_statistics(model.config.name, model.config.version, model.stats)["inference_stats"]
    return sums["success"]["count"], sums["fail"]["count"]


@pytest.mark.parametrize("row_count", [1, 3])
async def test_call_counts_once_in_tritons_statistics_however_many_rows_it_has(service, row_count) -> None:
    """Answered, failed, refused, cut off, or not to be encoded: each call is one success or one fail."""
    exchanges = InferExchange(service, IngressLimits())
    model = service.find("scale", None)
    rows = np.zeros((row_count, 4), "<f4")
    encoded = encode_request(InferRequest({"x": rows}, form=FRAMED))
    replies: list = []

    def start():
        return exchanges.start("scale", None, {"content-type": encoded.content_type}, encoded.body(), replies.append)

    service.mode = "now"
    start()
    assert triton_counts(model) == (1, 0)
    service.mode = "never"
    exchange = start()
    assert triton_counts(model) == (1, 0)
    exchange.cancel()
    # The fake service leaves counting what ends behind `submit` to this test, as a node counts it.
    for _ in range(row_count):
        model.stats.in_flight += 1
        model.stats.request_cancelled()
    assert triton_counts(model) == (1, 1)
    service.submit_error = SymphonyError(Reason.QUEUE_FULL, "the queue is full")
    start()
    assert triton_counts(model) == (1, 2)
    service.submit_error = None
    service.mode = "now"
    # Declared BF16, answered FP32: no form can say that.
    model.config = dataclasses.replace(model.config, outputs=(TensorSpec("y", "BF16", (2,)),))
    start()
    assert replies[-1].status == 400 and triton_counts(model) == (1, 3)
