"""Feed the core and perform its decisions through rings: pure glue, without clocks, threads or sockets."""

from symphony.driver.requests import PendingRequest

__all__ = ["PendingRequest"]
