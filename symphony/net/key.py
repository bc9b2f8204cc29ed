"""Read the cluster's key. Its content appears in no message and no log."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

from symphony.errors import ConfigError
from symphony.links.handshake import KEY_BYTES_MAX, ClusterKey

_log = logging.getLogger(__name__)


def read_key(path: Path) -> ClusterKey:
    """Return the key in a file: all of it, without white space around it. Raise ConfigError saying what is wrong."""
    try:
        with path.open("rb") as file:
            secret = file.read(KEY_BYTES_MAX + 2).strip()
            mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise ConfigError(f"the cluster's key file {path} cannot be read: {error.strerror}") from None
    try:
        key = ClusterKey(secret)
    except ValueError as error:
        raise ConfigError(f"the cluster's key file {path}: {error}") from None
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        _log.warning("the cluster's key file %s can be read by every user of this machine: chmod 600 it", path)
    return key
