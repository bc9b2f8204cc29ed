"""Put a node together and run it: the composition root, the only place that knows all the edges."""

from symphony.server.node import Node
from symphony.server.serve import serve

__all__ = ["Node", "serve"]
