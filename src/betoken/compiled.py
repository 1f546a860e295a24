"""Compiling, once after installation, and finding what was compiled again.

Numba's own cache asks only whether a function's file has changed, not the files of what it calls. Here the folder is named
after the sources of all that compiles, so that no process runs yesterday's code.
"""

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba import njit

HERE = Path(__file__).parent
SOURCES = ("addresses.py", "draws.py", "memory/*.py", "policy/*.py", "targets/likeliest.py")


def compiled(function: Callable[..., Any]) -> Any:
    """Function decorator: machine code, made at the first call and kept for later processes."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = folder()  # looked at when the function is decorated
    try:
        return njit(cache=True)(function)
    finally:
        numba.config.CACHE_DIR = before


@cache
def folder() -> str:
    """Where the machine code lies: NUMBA_CACHE_DIR, else beside the sources, else in the user's cache."""
    own = hashlib.sha256(numba.__version__.encode())
    for source in [source for pattern in SOURCES for source in sorted(HERE.glob(pattern))]:
        own.update(source.read_bytes())
    name = f"numba-{own.hexdigest()[:16]}"
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "betoken"
    for parent in (numba.config.CACHE_DIR, HERE / "__pycache__", user):
        if parent and _writable(Path(parent) / name):
            return str(Path(parent) / name)
    return numba.config.CACHE_DIR or ""  # numba finds a place, or compiles anew every time


def _writable(place: Path) -> bool:
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(place, os.W_OK)
