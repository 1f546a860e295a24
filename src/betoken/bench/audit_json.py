"""JSON that every parser takes. No torch."""

import json
import math
from typing import Any


def dumped(value: Any) -> str:
    """Indented JSON; numbers it has no name for (infinite, or none) become null."""
    return json.dumps(_finite(value), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
