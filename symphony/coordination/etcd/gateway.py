"""Call etcd's JSON gateway: one member at a time, another after a failure, logged in if there is a user.

A call is one request to one member, bounded in time and in the size of its answer. When it fails the next call goes to
the next member; whoever calls decides about retries. A login's token is fetched when there is none and thrown away
when etcd no longer takes it (it expires when it is not used, and a member that lost its data knows none).
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import aiohttp

from symphony.cluster.faults import CoordinatorRefused, StoreUnavailable
from symphony.coordination.address import EtcdAddress
from symphony.coordination.bounded_json import bounded_body, json_lines, json_object
from symphony.errors import ConfigError

ANSWER_BYTES_MAX = 16 * 1024 * 1024
CONNECTION_COUNT_MAX = 16
WATCH_IDLE_S = 10.0
"""A watch that is silent for so long is begun anew, which shows whether anybody is at its other end."""

# The codes of gRPC that the gateway passes on.
_PASSING = frozenset({1, 2, 4, 8, 10, 11, 13, 14})
"""Cancelled, unknown, deadline, exhausted, aborted, out of range, internal, unavailable: what may be over next time."""
NOT_FOUND = 5
FAILED_PRECONDITION = 9
_UNAUTHENTICATED = 16
_TOKEN = re.compile(r"[\x21-\x7e]{1,8192}")
_TOKEN_IS_STALE = "revision in header is old"


class EtcdError(Exception):
    """Report that etcd answered with an error that only the caller can judge, with gRPC's `code`."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class _TokenRefused(Exception):
    pass


def tls_context(address: EtcdAddress) -> ssl.SSLContext | None:
    """Return how to encrypt, None for plain HTTP; raise ConfigError naming a file that cannot be used."""
    if not address.is_tls:
        return None
    try:
        context = ssl.create_default_context(cafile=address.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"--cluster: ca={address.ca_file} is no file of certificates: {error}") from None
    if address.certificate_file is not None:
        try:
            context.load_cert_chain(address.certificate_file, address.key_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"--cluster: cert={address.certificate_file} and key={address.key_file} are not a certificate and its "
                f"key: {error}"
            ) from None
    return context


class Gateway:
    """Connections to the members of one etcd cluster. `attempt_s` bounds each call."""

    def __init__(self, address: EtcdAddress, attempt_s: float, watch_idle_s: float = WATCH_IDLE_S) -> None:
        self.where = address.where
        self._address = address
        self._attempt_s = attempt_s
        self._watch_idle_s = watch_idle_s
        self._tls = tls_context(address)
        self._member = 0
        self._token = ""
        self._login = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None

    async def call(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer of one member.

        Raise StoreUnavailable if there is none or it may pass, EtcdError for an error that says something about the
        request, CoordinatorRefused for what will not pass.
        """
        try:
            return await self._call(path, body, await self._headers())
        except _TokenRefused:
            return await self._again(path, body)

    async def stream(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the messages of a stream until it ends or is silent for the idle time; raise as `call`."""
        endpoint = self._address.endpoints[self._member]
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._attempt_s, sock_read=self._watch_idle_s)
        has_begun = False
        try:
            async with asyncio.timeout(self._attempt_s):
                headers = {
                    **await self._headers(),
                    "Grpc-Metadata-hasleader": "true",
                }  # end it if this member is cut off
                response = await self._open().post(
                    endpoint + path, data=_written(body), headers=headers, timeout=timeout, allow_redirects=False
                )
            async with response:
                if response.status != 200:
                    self._raise(response.status, await self._read(response))
                async with aclosing(json_lines(response.content, self.where)) as messages:
                    while True:
                        async with asyncio.timeout(None if has_begun else self._attempt_s):
                            message = await anext(messages, None)
                        if message is None:
                            break
                        if isinstance(error := message.get("error"), dict):
                            self._raise(500, {"code": error.get("grpc_code", error.get("code")), **error})
                        has_begun = True
                        yield _object(message.get("result"), self.where)
        except _TokenRefused:
            raise StoreUnavailable(f"{endpoint} no longer takes the login") from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if has_begun and isinstance(error, TimeoutError):
                return  # silent, as it may be
            self._fail_over(endpoint)
            raise StoreUnavailable(f"{endpoint}: {_said(error)}") from error
        if not has_begun:
            self._fail_over(endpoint)
            raise StoreUnavailable(f"{endpoint} ended a watch before it began")

    def forget_login(self) -> None:
        """Hear that the login is not taken any more."""
        self._token = ""

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def _again(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return await self._call(path, body, await self._headers())
        except _TokenRefused:
            raise CoordinatorRefused(
                f"{self.where} does not take the login that it has just given; does every member have the same users?"
            ) from None

    async def _headers(self) -> dict[str, str]:
        if not self._address.user:
            return {}
        async with self._login:
            if not self._token:
                try:
                    answer = await self._call(
                        "/v3/auth/authenticate", {"name": self._address.user, "password": self._address.password}, {}
                    )
                except EtcdError as error:
                    raise CoordinatorRefused(
                        f"{self.where} refused the login of user {self._address.user!r}: {error}; mend user and "
                        "password, or leave them out where etcd has no authentication"
                    ) from None
                token = answer.get("token")
                if not isinstance(token, str) or not _TOKEN.fullmatch(token):
                    raise CoordinatorRefused(f"{self.where} answered a login without a usable token; is it etcd?")
                self._token = token
            return {"Authorization": self._token}

    async def _call(self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
        endpoint = self._address.endpoints[self._member]
        try:
            async with self._open().post(
                endpoint + path, data=_written(body), headers=headers, allow_redirects=False
            ) as response:
                answer = await self._read(response)
                if response.status != 200:
                    self._raise(response.status, answer)
                return answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._fail_over(endpoint)
            raise StoreUnavailable(f"{endpoint}: {_said(error)}") from error
        except StoreUnavailable as error:
            self._fail_over(endpoint)
            raise StoreUnavailable(f"{endpoint}: {error}") from None

    async def _read(self, response: aiohttp.ClientResponse) -> dict[str, Any]:
        held = await bounded_body(response, ANSWER_BYTES_MAX, self.where)
        if response.status == 404 and not held.lstrip().startswith(b"{"):
            raise CoordinatorRefused(f"{self.where} has no path {response.url.path}; etcd 3.4 or newer is needed")
        if response.status >= 500 and not held.lstrip().startswith(b"{"):
            raise StoreUnavailable(f"status {response.status}")
        return json_object(held, self.where)

    def _raise(self, status: int, answer: Mapping[str, Any]) -> None:
        message = str(answer.get("message", answer.get("error", "")))[:300] or f"status {status}"
        code = answer.get("code")
        code = code if isinstance(code, int) else None
        if code == _UNAUTHENTICATED or _TOKEN_IS_STALE in message:
            if not self._address.user:
                raise CoordinatorRefused(f"{self.where} wants a login: {message}; give a user and a password")
            self.forget_login()
            raise _TokenRefused
        if code in _PASSING or (status >= 500 and code is None):
            raise StoreUnavailable(message)
        if code in (NOT_FOUND, FAILED_PRECONDITION):
            raise EtcdError(code, message)
        if "authentication failed" in message:
            raise EtcdError(_UNAUTHENTICATED, message)
        raise CoordinatorRefused(f"{self.where} refused: {message}")

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTION_COUNT_MAX, ssl=self._tls or True),
                timeout=aiohttp.ClientTimeout(total=self._attempt_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Content-Type": "application/json"},
            )
        return self._session

    def _fail_over(self, endpoint: str) -> None:
        if self._address.endpoints[self._member] == endpoint:
            self._member = (self._member + 1) % len(self._address.endpoints)


def _written(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body).encode()


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CoordinatorRefused(f"{where} sent a message without a result; is it etcd?")
    return value


def _said(error: BaseException) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
