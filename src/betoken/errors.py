"""Errors that are for the user: what was found, what was expected, what to do. They print without a traceback in the CLI."""

from typing import Any


class BetokenError(Exception):
    """The base of every error a user can cause."""


class ParameterError(BetokenError, ValueError):
    """A value out of its range: names the parameter, the value and the range."""

    def __init__(self, name: str, value: Any, expected: str) -> None:
        super().__init__(f"{name} is {value!r}; expected {expected}")
        self.name, self.value, self.expected = name, value, expected


class PromptError(BetokenError, ValueError):
    """A prompt that cannot be decoded from: empty, too long, or not text or token ids."""


class UnsupportedModelError(BetokenError):
    """A model whose output this library could not keep unchanged, or could not run: says what was found and what to do."""


class ModelNotFoundError(BetokenError):
    """No model where the caller pointed."""


class TraceError(BetokenError, ValueError):
    """A recording that cannot be read, replayed or written: names file and line."""


class NoRoomError(BetokenError, MemoryError):
    """No memory for a row's keys and values, or for a forward pass."""
