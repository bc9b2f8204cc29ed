"""Know who calls: by API key, or where none is needed by address; say what each may do, and how much of it.

Pure: no clock, no file. A key reaches this module as the text of a header; it is hashed, looked up and forgotten. The
text of a key that is known is remembered, to look it up quickly the next time; no message, log or metric shows it.

The lookup is by hash, so its time depends on digests that whoever guesses cannot choose; the digest found is compared
in constant time all the same.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Protocol

from symphony.config import KeyConfig, hash_key
from symphony.errors import Reason, SymphonyError
from symphony.ingress.buckets import TokenBucket

KEY_CHARS_MAX = 256
TEXTS_REMEMBERED_MAX = 4096
MODELS_REMEMBERED_MAX = 1024
PEERS_MAX = 4096
IPV6_NETWORK_BITS = 64
"""An IPv6 customer has at least so much to himself: any address of it is the same caller."""


class Headers(Protocol):
    """Look up a header by its name in lower case: any mapping that ignores case, or holds lower-case names, will do."""

    def get(self, name: str, /) -> str | None:
        """Return the header's value, None when absent."""
        ...


class Caller:
    """Whoever shares a key, or an address: rights, limits, and what is under way. `id` names it to models' doors."""

    __slots__ = ("_allowed", "_bucket", "body_bytes", "id", "in_flight", "key", "weight")

    def __init__(self, caller_id: str, key: KeyConfig | None = None) -> None:
        self.id = caller_id
        self.key = key
        self.weight = 1.0 if key is None else key.weight
        self.in_flight = 0
        """Infer calls started and not answered."""
        self.body_bytes = 0
        """Bytes of bodies being read or in flight."""
        self._allowed: dict[str, bool] = {}
        self._bucket: TokenBucket | None = None
        if key is not None and key.rate > 0:
            self._bucket = TokenBucket(key.rate, key.burst or key.rate)

    def changed(self, key: KeyConfig) -> Caller:
        """Return the caller under new rights: itself, with what is under way and spent, unless the rate is another."""
        old = self.key
        assert old is not None
        self.key, self.weight = key, key.weight
        self._allowed.clear()
        if (old.rate, old.burst) != (key.rate, key.burst):
            self._bucket = TokenBucket(key.rate, key.burst or key.rate) if key.rate > 0 else None
        return self

    def may_use(self, model: str) -> bool:
        """Return whether the key's patterns name the model."""
        key = self.key
        if key is None:
            return True
        allowed = self._allowed.get(model)
        if allowed is None:
            if len(self._allowed) >= MODELS_REMEMBERED_MAX:
                self._allowed.clear()
            allowed = self._allowed[model] = any(fnmatchcase(model, pattern) for pattern in key.models)
        return allowed

    def check(self, scope: str, model: str | None, now_ns: int) -> None:
        """Count one call against the rate; raise SymphonyError `forbidden` or `rate_limited` when it may not be."""
        key = self.key
        if key is None:
            return
        if scope not in key.scopes:
            raise SymphonyError(
                Reason.FORBIDDEN,
                f'key "{key.name}" has the scopes {", ".join(key.scopes)}, this needs {scope}; use another key',
                model=model or "",
            )
        if model is not None and not self.may_use(model):
            raise SymphonyError(
                Reason.FORBIDDEN,
                f'key "{key.name}" may not use model "{model[:128]}"; use another key, or add it to the key\'s models',
                model=model,
            )
        bucket = self._bucket
        if bucket is not None and not bucket.take(now_ns):
            raise SymphonyError(
                Reason.RATE_LIMITED,
                f'key "{key.name}" may send {key.rate:g} requests per second, and {bucket.burst:g} at once; send fewer',
                model=model or "",
                retry_after_s=bucket.wait_s(),
            )

    def refusal(self) -> SymphonyError | None:
        """Return why no further call may be under way now, None when one may."""
        key = self.key
        if key is None or not 0 < key.in_flight_max <= self.in_flight:
            return None
        return SymphonyError(
            Reason.RATE_LIMITED,
            f'key "{key.name}" has {self.in_flight} calls in flight, its in_flight_max; wait for their answers',
        )

    def charge(self, count: int) -> None:
        """Count further requests of a call that was let in as one."""
        if count and self._bucket is not None:
            self._bucket.charge(count)


NOBODY = Caller("nobody")
"""Who calls over a transport that does not say from where, or has shown no key that is known."""


class Callers:
    """Everyone who calls. `keys` None: no key is needed, callers are told apart by their addresses."""

    def __init__(self, keys: Sequence[KeyConfig] | None = None) -> None:
        self._by_digest: dict[str, Caller] | None = None
        self._by_text: dict[str, Caller] = {}
        self._peers: dict[str, Caller] = {}
        self._others = Caller("peers")
        """Who is served where addresses are too many to be told apart."""
        if keys is not None:
            self.replace(keys)

    @property
    def needs_key(self) -> bool:
        """Return whether callers must show a key."""
        return self._by_digest is not None

    def replace(self, keys: Sequence[KeyConfig]) -> None:
        """Take other keys from now on; those that stay keep what they have spent and under way."""
        old = self._by_digest or {}
        self._by_digest = {
            key.sha256: old[key.sha256].changed(key) if key.sha256 in old else Caller(f"key:{key.name}", key)
            for key in keys
        }
        self._by_text.clear()

    def peer(self, address: object) -> Caller:
        """Return the caller at a transport's `peername`: an address of IPv4, a network of IPv6, or this machine."""
        host = str(address[0]) if isinstance(address, tuple) and address else ""
        caller = self._peers.get(host)
        if caller is not None:
            return caller
        try:
            ip = ipaddress.ip_address(host.partition("%")[0])
            if ip.version == 6:
                network = ipaddress.ip_network((ip.packed, IPV6_NETWORK_BITS), strict=False)
                host = str(ip.ipv4_mapped or network)
        except ValueError:
            host = ""
        caller = self._peers.get(host)
        if caller is None:
            if len(self._peers) >= PEERS_MAX:
                self._forget_idle_peers()
            if len(self._peers) >= PEERS_MAX:
                return self._others
            caller = self._peers[host] = Caller(f"peer:{host}")
        return caller

    def identify(self, headers: Headers, peer: Caller | None = None) -> Caller:
        """Return who calls: of what key, or where none is needed `peer`. Raise SymphonyError `unauthorized`."""
        by_digest = self._by_digest
        if by_digest is None:
            return NOBODY if peer is None else peer
        text = headers.get("authorization")
        if text is None:
            text = headers.get("x-api-key")
            if text is None:
                raise SymphonyError(
                    Reason.UNAUTHORIZED, "this node needs a key; send Authorization: Bearer KEY, or X-API-Key: KEY"
                )
        caller = self._by_text.get(text)
        if caller is not None:
            return caller
        key = text[7:].strip() if text[:7].lower() == "bearer " else text.strip()
        if len(key) <= KEY_CHARS_MAX and key.isascii():
            digest = hash_key(key)
            caller = by_digest.get(digest)
            if caller is not None and caller.key is not None and hmac.compare_digest(caller.key.sha256, digest):
                if len(self._by_text) >= TEXTS_REMEMBERED_MAX:
                    self._by_text.clear()
                if len(text) <= 2 * KEY_CHARS_MAX:
                    self._by_text[text] = caller
                return caller
        raise SymphonyError(Reason.UNAUTHORIZED, "this key is not known here; send one that is in the node's key file")

    def _forget_idle_peers(self) -> None:
        self._peers = {host: caller for host, caller in self._peers.items() if caller.in_flight or caller.body_bytes}
