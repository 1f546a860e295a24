"""Betoken: speculative decoding that never changes the output.

    from betoken import LLM, SamplingParams

Importing this package loads neither torch nor transformers; the first use of `LLM` does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from betoken.errors import BetokenError, ModelNotFoundError, ParameterError, PromptError, UnsupportedModelError
from betoken.grammar_spec import GrammarSpec
from betoken.params import SamplingParams
from betoken.speculation import Speculation

if TYPE_CHECKING:
    from betoken.llm import LLM
    from betoken.outputs import Output, Result, Step
    from betoken.stats import Stats
    from betoken.targets.hf import HFTarget

__version__ = "0.1.0"
__all__ = [
    "LLM",
    "BetokenError",
    "GrammarSpec",
    "HFTarget",
    "ModelNotFoundError",
    "Output",
    "ParameterError",
    "PromptError",
    "Result",
    "SamplingParams",
    "Speculation",
    "Stats",
    "Step",
    "UnsupportedModelError",
]

_LAZY = {
    "LLM": "betoken.llm",
    "HFTarget": "betoken.targets.hf",
    "Output": "betoken.outputs",
    "Result": "betoken.outputs",
    "Step": "betoken.outputs",
    "Stats": "betoken.stats",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
