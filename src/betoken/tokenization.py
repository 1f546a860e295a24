"""A tokenizer without its model: no weights are read, and importing this loads nothing."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from betoken.errors import ModelNotFoundError


def load_tokenizer(name: str | os.PathLike[str]) -> Any:
    """The tokenizer of a folder or a hub name; weights need not be there. Raises ModelNotFoundError."""
    from transformers import AutoTokenizer

    place = os.fspath(name)
    local = os.path.isdir(place)  # noqa: PTH112 (a hub name is no path)
    if not local and (os.path.exists(place) or place.startswith((".", "/", "~"))):  # noqa: PTH110
        raise ModelNotFoundError(f"{place} is no folder; expected one with tokenizer.json or tokenizer.model")
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(place, local_files_only=local)
    except Exception as failure:  # each tokenizer class fails in its own way
        reason = (str(failure).strip() or type(failure).__name__).splitlines()[0]
        raise ModelNotFoundError(
            f"{place} gave no tokenizer: {reason}; expected a folder with tokenizer.json or tokenizer.model, or a hub name"
        ) from failure


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the advice and progress bars of `transformers` off the terminal; its settings come back afterwards."""
    from transformers.utils import logging as chatter

    loggers = {logging.getLogger(name) for name in ("transformers", "huggingface_hub")}
    levels = {logger: logger.level for logger in loggers}
    bars = chatter.is_progress_bar_enabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    chatter.disable_progress_bar()
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
        if bars:
            chatter.enable_progress_bar()
