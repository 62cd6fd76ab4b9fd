"""C identifiers from names that are data."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass
class Names:
    """Sanitised identifiers of bounded length, unique whatever their case."""

    taken: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)

    def unique(self, name: str) -> str:
        """An identifier for `name` that was not given out before."""
        base = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:60] or "t"
        if base[0].isdigit():
            base = f"t_{base}"
        count = self.counts.get(base.lower(), 0) + 1
        while (candidate := base if count == 1 else f"{base}_{count}").lower() in self.taken:
            count += 1
        self.counts[base.lower()] = count
        self.taken.add(candidate.lower())
        return candidate
