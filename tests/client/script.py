"""A server that answers, delays and breaks off as told, one act a request."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

KIND = "application/json"


def answer(status: int = 200, body: bytes = b"{}", *headers: str, kind: str = KIND) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Script:
    """A server that plays one act a request: bytes to send, None to break off, or a number of seconds to wait first.

    The last act is played for ever. `heads` are the requests received whole; `connection_count` those accepted.
    """

    def __init__(self, *acts: bytes | float | None) -> None:
        self._acts = list(acts)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.heads: list[bytes] = []
        self.connection_count = 0
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                self.connection_count += 1
                self._open.append(peer)
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with contextlib.suppress(OSError), peer:
            while (head := self._read(peer)) is not None:
                with self._lock:
                    self.heads.append(head)
                    act = self._acts.pop(0) if len(self._acts) > 1 else self._acts[0]
                    if isinstance(act, float):
                        delay_s, act = act, self._acts.pop(0) if len(self._acts) > 1 else self._acts[0]
                    else:
                        delay_s = 0.0
                time.sleep(delay_s)
                if act is None:
                    peer.shutdown(socket.SHUT_RDWR)
                    return
                peer.sendall(act)

    @staticmethod
    def _read(peer: socket.socket) -> bytes | None:
        data = b""
        while b"\r\n\r\n" not in data:
            if not (piece := peer.recv(65536)):
                return None
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
        length = int(lengths[0].split(b":")[1]) if lengths else 0
        while len(body) < length:
            if not (piece := peer.recv(65536)):
                return None
            body += piece
        return head

    def drop_connections(self) -> None:
        """Close every connection accepted so far, as a server does with those idle for long."""
        for peer in self._open:
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_connections()
