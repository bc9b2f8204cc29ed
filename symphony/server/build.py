"""Say what software runs."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from symphony.metrics import BuildInfo


def build_info(policy: str) -> BuildInfo:
    """Return the versions of this build; "0+unknown" when the package is not installed."""
    try:
        own = version("symphony-serve")
    except PackageNotFoundError:
        own = "0+unknown"
    return BuildInfo(own, policy, platform.python_version(), torch.__version__)
