"""The verify curve of a loaded target: from the disk where this model was measured here before, else measured now.

A file is believed only where everything it was measured with is the same (`conditions`); anything else about it that is wrong means
measuring again, said once. Nothing depends on its being written.
"""

import hashlib
import json
import logging
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

import betoken
from betoken.errors import BetokenError
from betoken.files import replacing
from betoken.policy.cost import Measured, Point
from betoken.policy.measuring import measure
from betoken.targets.hf import HFTarget

LOG = logging.getLogger("betoken.curves")
SCHEMA = "betoken.curve/1"
MOST_ROWS = 16

# Something of everything: which experts a mixture asks depends on what it reads.
TEXT = """The committee met on Tuesday to decide whether the bridge should be closed for repairs before winter. Nobody had asked
the ferryman, who had lived beside the river for forty years and knew what the ice would do.

def median(values):
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2

Question: a train leaves at 14:05 and travels 312 km at 96 km/h; when does it arrive? 312 / 96 = 3.25 hours, so it arrives at 17:20.

| city | inhabitants | height |
| Graz | 298,479 | 353 m |
| Lyon | 522,250 | 173 m |

{"id": 17, "name": "valve", "open": false, "tags": ["steam", "left", "spare"], "price": 12.75}

La lluvia caía despacio sobre los tejados. Das Fenster stand offen, und es roch nach Heu. Il pleut depuis ce matin.

"I never said that," she answered, laughing. "I said the soup was hot, and that you would burn your tongue; and you did!"

1. Wash the rice until the water runs clear. 2. Heat the oil in a wide pan. 3. Fry the onions for ten minutes, then add the rice, two
cups of stock and a pinch of saffron. 4. Cover, turn down the heat, and wait.
"""


def conditions(target: HFTarget) -> dict[str, Any]:
    """All that a measurement depends on, as JSON takes it. The model goes by its shape: weights change no time."""
    model = target.model
    config = model.config.to_dict() if hasattr(model.config, "to_dict") else {}
    shape = {key: value for key, value in config.items() if isinstance(value, int | float | str | bool | list)}
    shape.pop("_name_or_path", None)
    shape["parameters"] = sum(weight.numel() for weight in model.parameters())
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True, default=str).encode()).hexdigest()
    return {
        "shape": digest[:32],
        "dtype": str(model.dtype),
        "device": _device(model.device),
        "threads": torch.get_num_threads(),
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "betoken": betoken.__version__,
        },
        "ways": {**target.ways, "context": target.info.context},
    }


def _device(device: Any) -> str:
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{device.type}: {name or platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def folder() -> Path:
    """Where curves are kept: BETOKEN_CACHE, else the user's cache."""
    own = os.environ.get("BETOKEN_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "betoken"


def curve_of(target: HFTarget, text: Sequence[int], *, max_rows: int, again: bool = False) -> tuple[Measured, bool]:
    """The curve of a target, for so many rows at once, and whether it was read from disk. again: measure, whatever is there."""
    found, max_rows = conditions(target), min(max_rows, MOST_ROWS)
    path = folder() / f"curve-{hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:32]}.json"
    points = None if again else read(path, found, max_rows)
    if points is not None:
        return Measured(points), True
    points = measure(target, text, max_rows=max_rows)
    write(path, found, points, max_rows)
    return Measured(points), False


def read(path: Path, found: Mapping[str, Any], max_rows: int) -> dict[Point, float] | None:
    """What a file says; None where there is none for these conditions, or none that can be believed (which is said)."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["schema"] != SCHEMA or kept["conditions"] != found:
            raise ValueError("it was measured under other conditions")
        if not isinstance(kept["max_rows"], int) or not kept["points"]:
            raise ValueError("it holds no measurements")
        if kept["max_rows"] < max_rows:
            return None
        return dict(_point(entry) for entry in kept["points"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as failure:
        LOG.warning("the measured times in %s cannot be used (%s); measuring again", path, failure)
        return None


def _point(entry: Any) -> tuple[Point, float]:
    rows, width, context, seconds = entry
    whole = all(isinstance(value, int) and 0 < value < 2**31 for value in (rows, width, context))
    if not whole or not isinstance(seconds, float) or not 1e-9 < seconds < 1e6:
        raise ValueError(f"no measurement: {entry!r:.80}")
    return (rows, width, context), seconds


def write(path: Path, found: Mapping[str, Any], points: Mapping[Point, float], max_rows: int) -> None:
    """Keep a measurement; where that cannot be done it is said, and nothing else happens."""
    content = {
        "schema": SCHEMA,
        "conditions": found,
        "max_rows": max_rows,
        "points": [[*point, seconds] for point, seconds in points.items()],
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as rough:
            rough.write_text(json.dumps(content, indent=1), encoding="utf-8")
    except (OSError, BetokenError) as failure:
        LOG.warning("the measured times cannot be kept (%s); they will be measured again next time", failure)
