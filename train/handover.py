"""From one thread to another, as the live view needs it: the newest of what was made, or every one in turn, and why no more will come."""

import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Ended(Exception):
    """Nothing more will come, and why: no error."""


class Newest(Generic[Item]):
    """A place for one item, from one thread to another. every: nothing is lost, `put` waits until the last item was taken."""

    def __init__(self, *, every: bool) -> None:
        self._every = every
        self._changed = threading.Condition()
        self._items: list[Item] = []
        self._cause: Exception | None = None

    def put(self, item: Item) -> None:
        with self._changed:
            if self._every:
                self._changed.wait_for(lambda: not self._items or self._cause)
            self._items = [item]
            self._changed.notify_all()

    def take(self, timeout_s: float) -> Item | None:
        """None where nothing came in time. Raises what `close` was given once the last item was taken."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._cause, timeout_s)
            if not self._items and self._cause:
                raise self._cause
            item = self._items.pop() if self._items else None
            self._changed.notify_all()
            return item

    def close(self, cause: Exception) -> None:
        with self._changed:
            self._cause = self._cause or cause
            self._changed.notify_all()
