"""Give each accepted request a slot: the small number by which the scheduling core knows it."""

from __future__ import annotations

from symphony.driver.requests import PendingRequest


class RequestTable:
    """Map slots to requests; a slot is used again only after `release`. Only the asyncio thread changes the table."""

    def __init__(self, request_count_max: int) -> None:
        self._requests: list[PendingRequest | None] = [None] * request_count_max
        self._free = list(range(request_count_max - 1, -1, -1))

    def __len__(self) -> int:
        """Return how many slots are in use."""
        return len(self._requests) - len(self._free)

    @property
    def capacity(self) -> int:
        """Return how many slots there are."""
        return len(self._requests)

    def acquire(self, request: PendingRequest) -> int:
        """Store the request, set and return its slot; -1 when no slot is free."""
        if not self._free:
            return -1
        slot = self._free.pop()
        self._requests[slot] = request
        request.id = slot
        return slot

    def requests(self) -> list[PendingRequest]:
        """Return every request that holds a slot."""
        return [request for request in self._requests if request is not None]

    def lookup(self, slots: list[int]) -> list[PendingRequest]:
        """Return the requests in the slots, which must be in use. Workers may call this."""
        requests = self._requests
        return [requests[slot] for slot in slots]  # type: ignore[misc]

    def release(self, slot: int) -> PendingRequest:
        """Free the slot and return its request; raise KeyError when it is not in use."""
        request = self._requests[slot]
        if request is None:
            raise KeyError(f"slot {slot} is not in use")
        self._requests[slot] = None
        self._free.append(slot)
        request.id = -1
        return request
