"""Show what a node does while it does it: a page at /dashboard, fed by a stream, and the same figures for a terminal.

The node puts one record per batch into a ring and notes what happens to models and GPUs; everything else (reading the
counters, thinning, encoding) is done a few times a second, and batches are looked at only while somebody watches. A
viewer that is too slow is skipped ahead, never buffered. This package decides nothing and never touches a request.
"""

from symphony.dashboard.hub import Hub
from symphony.dashboard.journal import Journal
from symphony.dashboard.ring import BatchRecord, BatchRing, Fate
from symphony.dashboard.routes import add_dashboard
from symphony.dashboard.source import ShownModel, Source
from symphony.dashboard.view import View

__all__ = [
    "BatchRecord",
    "BatchRing",
    "Fate",
    "Hub",
    "Journal",
    "ShownModel",
    "Source",
    "View",
    "add_dashboard",
]
