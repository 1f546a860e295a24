"""Files that appear all at once, or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from betoken.errors import BetokenError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write in place of `path`: it takes its place when the `with` block ends well, and is gone otherwise.

    A symlink is followed. Raises BetokenError where `path` is something else than a file (a folder, a device), or where it
    cannot be written; OSErrors of the block count as that.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        raise BetokenError(f"{path} is no plain file; give the name of a file to write")
    rough: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:100]}.", suffix=".tmp")
        os.close(handle)
        rough = Path(name)
        yield rough
        rough.chmod(target.stat().st_mode if target.exists() else 0o666 & ~_umask())
        rough.replace(target)
    except OSError as failure:
        raise BetokenError(f"{path} cannot be written: {failure.strerror or failure}") from failure
    finally:
        if rough is not None:
            rough.unlink(missing_ok=True)


def _umask() -> int:
    """The process's, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
