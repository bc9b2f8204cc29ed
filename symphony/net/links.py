"""Keep one link to each member of the cluster: dial, accept, greet, and dial again when a link is lost.

Of two nodes the one whose id sorts first dials, so there is never a second link to choose from. A new connection of a
peer that has shown who it is takes the place of its old one: the peer would not dial if that still were of use.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from symphony.links.clocks import RoundTrip
from symphony.links.faults import HandshakeError
from symphony.links.frames import Kind
from symphony.links.handshake import NONCE_BYTES, Acceptor, ClusterKey, Dialer, Greeting, Identity, check_node_id
from symphony.links.messages import Message
from symphony.links.records import Records
from symphony.net.connection import Connection
from symphony.net.faults import LinkDown
from symphony.net.greeting import Accepting, Dialing
from symphony.net.link import Link, LinkReceiver
from symphony.net.settings import DEFAULT_SETTINGS, LinkSettings
from symphony.units import NEVER_NS

BACKLOG: Final = 128
ACCEPT_PAUSE_S: Final = 0.1
"""Between attempts to accept while the process has no descriptors left."""

Address = tuple[str, int]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsContexts:
    """Encrypt links: the context to accept with, the one to dial with, and the name that certificates are for.

    `name` is checked on dialling; None takes the host that is dialled. Let both contexts ask for the other's
    certificate.
    """

    server: ssl.SSLContext
    client: ssl.SSLContext
    name: str | None = None


class Links:
    """All links of one node. `start`, then `set_members` whenever they change, then `close`."""

    def __init__(
        self,
        node: str,
        key: ClusterKey,
        receiver: LinkReceiver,
        *,
        settings: LinkSettings = DEFAULT_SETTINGS,
        tls: TlsContexts | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        rng: random.Random | None = None,
    ) -> None:
        """Take what comes to `receiver`; `rng` spreads attempts to connect."""
        self._identity = Identity(node, secrets.randbits(64))
        self._key = key
        self._receiver = receiver
        self._settings = settings
        self._tls = tls
        self._clock_ns = clock_ns
        self._rng = rng or random.Random()
        self._members: dict[str, Address] = {}
        self._links: dict[str, Link] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._strangers: dict[asyncio.Task[None], None] = {}
        self._connections: set[Connection] = set()
        self._sockets: list[socket.socket] = []
        self._acceptors: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self._is_closed = False

    # Life

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> Address:
        """Listen; return the address (`port` 0 takes a free one). Raise OSError if that is not possible."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setblocking(False)
            listening.bind(address)
            listening.listen(BACKLOG)
        except OSError:
            listening.close()
            raise
        self._sockets.append(listening)
        self._acceptors.append(loop.create_task(self._accept(listening)))
        name = listening.getsockname()
        return name[0], name[1]

    def set_members(self, members: Mapping[str, Address]) -> None:
        """Keep links to these nodes (id -> address; this node's own entry is passed over), and to no others.

        Raise ValueError for an id that none can have, or more than `member_count_max`; nothing is changed then.
        """
        if len(members) > self._settings.member_count_max:
            raise ValueError(
                f"{len(members)} members, allowed are {self._settings.member_count_max} (member_count_max); "
                f"split the cluster into cells"
            )
        for node in members:
            check_node_id(node)
        if self._is_closed:
            return
        wanted = {node: address for node, address in members.items() if node != self.node}
        for node in [known for known in self._members if wanted.get(known) != self._members[known]]:
            is_gone = node not in wanted
            if (keeper := self._keepers.pop(node, None)) is not None:
                keeper.cancel()
            if is_gone or keeper is not None:  # an address counts for nothing with peers that dial this node
                link = self._links.get(node)
                if link is not None:
                    link.close(f"{node!r} {'is no member any more' if is_gone else 'has another address'}")
        self._members = wanted
        for node in wanted:
            if self.node < node and node not in self._keepers:
                self._keepers[node] = asyncio.get_running_loop().create_task(self._keep(node))

    async def close(self, reason: str = "the node stops") -> None:
        """Close all links, telling the peers why; return when all is closed, after `close_timeout_s` at most."""
        self._is_closed = True
        tasks = [*self._acceptors, *self._keepers.values(), *self._strangers]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._acceptors.clear()
        self._keepers.clear()
        for listening in self._sockets:
            listening.close()
        self._sockets.clear()
        for link in list(self._links.values()):
            link.close(reason)
        if self._connections:
            await asyncio.wait(
                [connection.closed for connection in self._connections], timeout=self._settings.close_timeout_s
            )
        for connection in list(self._connections):
            connection.abort(reason)
        for connection in list(self._connections):
            await connection.closed

    # Use

    @property
    def node(self) -> str:
        """Return this node's id."""
        return self._identity.node

    @property
    def up(self) -> Mapping[str, Link]:
        """Return the links that are up, by the peer's id."""
        return self._links

    @property
    def stranger_count(self) -> int:
        """Return how many accepted connections have not shown who they are."""
        return len(self._strangers)

    def link(self, peer: str) -> Link:
        """Return the link to a peer; raise LinkDown if there is none."""
        link = self._links.get(peer)
        if link is None:
            known = "it is being dialled or waited for" if peer in self._members else "it is no member"
            raise LinkDown(f"there is no link to {peer!r}: {known}")
        return link

    async def wait_up(self, *peers: str) -> None:
        """Return once there is a link to each of the peers at the same time."""
        while not all(peer in self._links for peer in peers):
            self._changed.clear()
            await self._changed.wait()

    async def call(
        self,
        peer: str,
        metadata: Mapping[str, Any],
        segments: Iterable[Any] = (),
        *,
        deadline_ns: int = NEVER_NS,
        is_urgent: bool = False,
    ) -> Message:
        """Call a peer: see `Link.call`."""
        return await self.link(peer).call(metadata, segments, deadline_ns=deadline_ns, is_urgent=is_urgent)

    async def post(self, peer: str, metadata: Mapping[str, Any], segments: Iterable[Any] = ()) -> None:
        """Send a peer a message that wants no answer: see `Link.post`."""
        await self.link(peer).post(metadata, segments)

    def post_urgent(self, peer: str, metadata: Mapping[str, Any], segments: Iterable[Any] = ()) -> None:
        """Send a peer a small message before all others: see `Link.post_urgent`."""
        self.link(peer).post_urgent(metadata, segments)

    def post_records(self, peer: str, kind: Kind, records: Records) -> None:
        """Send a peer records: see `Link.post_records`."""
        self.link(peer).post_records(kind, records)

    # Dialling

    async def _keep(self, peer: str) -> None:
        """Dial a peer for as long as it is a member, and again whenever its link is down."""
        settings = self._settings
        backoff_s = settings.backoff_min_s
        said = ""
        while True:
            began_s = time.monotonic()
            try:
                link = await self._dial(peer)
                said = ""
                await asyncio.shield(link.ended)
            except (OSError, LinkDown, TimeoutError, ValueError) as error:  # ValueError: a host that is no name
                text = str(error) or f"no answer within {settings.connect_timeout_s} s (connect_timeout_s)"
                # Once for each cause: a node that is down for an hour is dialled a thousand times.
                _log.log(logging.DEBUG if text == said else logging.WARNING, "no link to %r: %s", peer, text)
                said = text
            except Exception:
                _log.exception("no link to %r; it is dialled again", peer)  # a fault here must not end the dialling
            if time.monotonic() - began_s > settings.backoff_max_s:
                backoff_s = settings.backoff_min_s
            await asyncio.sleep(backoff_s * self._rng.uniform(0.5, 1.0))
            backoff_s = min(2 * backoff_s, settings.backoff_max_s)

    async def _dial(self, peer: str) -> Link:
        """Return a link that is up. Raise OSError, TimeoutError or LinkDown."""
        settings, tls = self._settings, self._tls
        host, port = self._members[peer]
        connection = self._new_connection()
        dialer = Dialer(self._identity, peer, self._key, settings.limits, secrets.token_bytes(NONCE_BYTES))
        made: list[Link] = []
        dialing = Dialing(
            connection,
            dialer,
            self._clock_ns,
            lambda greeting, trip: made.append(self._made(connection, greeting, trip)),
        )
        try:
            async with asyncio.timeout(settings.connect_timeout_s):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection,
                    host,
                    port,
                    ssl=tls.client if tls else None,
                    server_hostname=(tls.name or host) if tls else None,
                )
            dialing.begin()
            await asyncio.wait([dialing.done], timeout=settings.handshake_timeout_s)
            if not dialing.done.done():
                raise LinkDown(f"no handshake within {settings.handshake_timeout_s} s (handshake_timeout_s)")
            dialing.done.result()
        except BaseException:
            self._drop(connection, dialing, "the attempt to connect was given up")
            raise
        return made[0]

    # Accepting

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        said = ""
        while True:
            try:
                sock, _ = await loop.sock_accept(listening)
            except OSError as error:
                text = error.strerror or str(error)
                _log.log(logging.DEBUG if text == said else logging.WARNING, "no connection can be accepted: %s", text)
                said = text
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            said = ""
            if len(self._strangers) >= self._settings.stranger_count_max:
                # The oldest goes: whoever holds the key shows it within a round trip or two.
                next(iter(self._strangers)).cancel()
            task = loop.create_task(self._greet(sock))
            self._strangers[task] = None
            task.add_done_callback(lambda done: self._strangers.pop(done, None))

    async def _greet(self, sock: socket.socket) -> None:
        """Find out who connected, within `handshake_timeout_s`, TLS included."""
        settings, tls = self._settings, self._tls
        connection = self._new_connection()
        acceptor = Acceptor(self._identity, self._key, settings.limits, secrets.token_bytes(NONCE_BYTES))
        accepting = Accepting(
            connection,
            acceptor,
            self._clock_ns,
            self._admit,
            lambda greeting, trip: self._made(connection, greeting, trip),
        )
        try:
            async with asyncio.timeout(settings.handshake_timeout_s):
                await asyncio.get_running_loop().connect_accepted_socket(
                    lambda: connection, sock, ssl=tls.server if tls else None
                )
                await accepting.done
        except (OSError, LinkDown, TimeoutError) as error:
            text = str(error) or f"no handshake within {settings.handshake_timeout_s} s (handshake_timeout_s)"
            _log.info("a connection from %s was refused: %s", connection.address, text)
            self._drop(connection, accepting, text)
        except BaseException:
            self._drop(connection, accepting, "too many connections that have not shown who they are")
            raise

    def _admit(self, peer: Greeting) -> None:
        """Refuse a peer that has no business here, though it holds the key."""
        node = peer.identity.node
        if self._is_closed:
            raise HandshakeError(f"{self.node!r} stops")
        if node not in self._members:
            raise HandshakeError(f"{node!r} is no member of the cluster as {self.node!r} knows it")
        if self.node < node:
            raise HandshakeError(f"{self.node!r} dials {node!r}, not the other way round")
        link = self._links.get(node)
        if link is not None:
            old = link.peer_greeting
            if old.identity == peer.identity and peer.sent_at_ns <= old.sent_at_ns:
                raise HandshakeError(f"{node!r} has dialled again since")
            link.close("the node has connected anew")

    # Both

    def _new_connection(self) -> Connection:
        return Connection(self._settings, self._clock_ns, is_encrypted=self._tls is not None)

    def _made(self, connection: Connection, peer: Greeting, trip: RoundTrip) -> Link:
        """Make the link of a connection that has been greeted, and say that it is up."""
        node = peer.identity.node
        link = Link(connection, peer, trip, self._receiver, self._settings, self._clock_ns, self._forget)
        self._links[node] = link
        self._connections.add(connection)
        connection.closed.add_done_callback(lambda _: self._connections.discard(connection))
        link.start()
        self._changed.set()
        return link

    def _forget(self, link: Link) -> None:
        if self._links.get(link.peer) is link:
            del self._links[link.peer]

    def _drop(self, connection: Connection, greeting: Dialing | Accepting, reason: str) -> None:
        """Close a connection whose attempt has ended, unless it became a link before the attempt's task could tell."""
        if greeting.is_handed_on:
            return
        connection.abort(reason)
        with contextlib.suppress(LinkDown, asyncio.CancelledError, asyncio.InvalidStateError):
            greeting.done.result()  # seen
