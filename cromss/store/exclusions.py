"""Locations left out of use though a store has them: `__excluded__` (JSON).

They keep their index and id, so that stores stay aligned. A dropped location has no records any more.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cromss.store.meta import FORMAT_VERSION, StoreError, load_json

EXCLUDED_KEY = b"__excluded__"


@dataclass(frozen=True)
class Exclusions:
    """What is left out of a store.

    Attributes:
        reasons: Index -> why it is left out.
        dropped: Those whose records were deleted.
        num_missing: Records of all of them that are not there.
    """

    reasons: Mapping[int, str] = field(default_factory=dict)
    dropped: frozenset[int] = frozenset()
    num_missing: int = 0

    @property
    def extra_entries(self) -> int:
        """Entries that a store has more (or, below 0, less) than its manifest says."""
        return 1 - self.num_missing if self.reasons else 0

    def encode(self) -> bytes:
        """Value of `EXCLUDED_KEY`."""
        reasons = {str(index): self.reasons[index] for index in sorted(self.reasons)}
        told = {"format": FORMAT_VERSION, "reasons": reasons, "dropped": sorted(self.dropped)}
        return json.dumps(told | {"num_missing": self.num_missing}).encode()


def decode_exclusions(value: bytes | memoryview | None, path: Path, num_locations: int) -> Exclusions:
    """What a store of so many locations leaves out; nothing without an entry.

    Raises:
        StoreError: The entry is not one of exclusions.
    """
    if value is None:
        return Exclusions()
    where = f"{path}: {EXCLUDED_KEY.decode()}"
    entries = load_json(bytes(value), where)
    try:
        reasons = {int(index): str(reason) for index, reason in entries["reasons"].items()}
        dropped, num_missing = frozenset(map(int, entries["dropped"])), int(entries["num_missing"])
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise StoreError(f"{where} is not a list of locations left out ({error!r}); copy the store again") from None
    if not reasons or not dropped <= reasons.keys() or not all(0 <= index < num_locations for index in reasons):
        raise StoreError(f"{where}: names other locations than the {num_locations} there are; copy the store again")
    return Exclusions(reasons, dropped, num_missing)
