"""Put the page together: one document with its styles and scripts inside, which asks no other host for anything."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

_SLOT = re.compile(r"<!-- (style|script): ([\w.]+) -->")


@dataclass(frozen=True, slots=True)
class Page:
    """The document and what it is sent with."""

    body: bytes
    etag: str
    headers: Mapping[str, str]


def load_page() -> Page:
    """Return the page, each `<!-- style: FILE -->` and `<!-- script: FILE -->` replaced by the file.

    The policy in its headers allows these very styles and scripts, by their hashes, and talking to this node alone.
    """
    folder = files(__package__) / "page"
    hashes: dict[str, list[str]] = {"style": [], "script": []}

    def fill(slot: re.Match[str]) -> str:
        kind, name = slot[1], slot[2]
        text = "\n" + (folder / name).read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
        return f"<{kind}>{text}</{kind}>"

    body = _SLOT.sub(fill, (folder / "index.html").read_text(encoding="utf-8")).encode()
    policy = (
        f"default-src 'none'; connect-src 'self'; img-src data: blob:; base-uri 'none'; form-action 'none'; "
        f"style-src {' '.join(hashes['style'])}; script-src {' '.join(hashes['script'])}"
    )
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
        "ETag": etag,
    }
    return Page(body, etag, headers)
