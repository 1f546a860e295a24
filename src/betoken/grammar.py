"""Grammars: which tokens may come next, so that the output has the shape that was asked for. `llguidance` does the parsing
(optional: `pip install "betoken[serve]"`); it is loaded at the first compilation. No torch.

A `Matcher` is moved by the tokens that were emitted and by nothing else, so what it says does not depend on drafts. Questions
about tokens ahead of the output go to a second copy, the scout, which may go astray, be taken back, or be thrown away.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from betoken.errors import BetokenError, ParameterError
from betoken.grammar_spec import GrammarSpec, shortened
from betoken.schema_checks import objection

Mask = npt.NDArray[np.bool_]
KEPT = 64  # compiled grammars
# A compilation takes under half a second with these, a mask a few ms, a matcher some tens of MB at the very worst.
LIMITS: dict[str, Any] = {
    "max_items_in_row": 2_000,
    "initial_lexer_fuel": 250_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 20_000,
    "max_lexer_states": 20_000,
    "max_grammar_size": 100_000,
    "verbose_errors": False,
}
# One space, or a new line and its indentation: without a limit a small model fills its answer with white space.
SPACES = r"( |\r?\n[ \t]{0,32})"
FEW, STEPS = 16, 64  # how broad and how long a search for the end of a hopeless grammar is


@dataclass(frozen=True, slots=True)
class Next:
    """What may follow. `allowed`: `[V]`; `accepting`: whether the text is complete as it stands."""

    allowed: Mask
    accepting: bool


class Compiler:
    """Makes grammars for one model; safe to use from several threads.

    tokenizer:  a fast Hugging Face tokenizer
    vocab_size: the model's; ids that the tokenizer lacks are never allowed
    eos_ids:    the ids that end the model's output
    """

    def __init__(self, tokenizer: Any, vocab_size: int, eos_ids: Iterable[int] = ()) -> None:
        self._tokenizer, self._vocab_size, self._eos_ids = tokenizer, vocab_size, frozenset(eos_ids)
        self._lock = threading.Lock()
        self._vocabulary: Any = None
        self._grammars: OrderedDict[GrammarSpec, Grammar] = OrderedDict()

    def compile(self, spec: GrammarSpec) -> "Grammar":
        """Compiled once; the last few are kept. Raises ParameterError where nothing fits, or where the specification is
        wrong, too large, or asks for what `llguidance` cannot do; BetokenError without `llguidance`."""
        with self._lock:
            if spec in self._grammars:
                self._grammars.move_to_end(spec)
                return self._grammars[spec]
            vocabulary = self._vocabulary = self._vocabulary or self._read_vocabulary(spec)
        grammar = Grammar(spec, _matcher(spec, vocabulary), self._vocab_size, self._eos_ids | {*vocabulary.eos_tokens})
        if (why := grammar.hopeless()) is not None:
            raise ParameterError(spec.kind, shortened(spec.value), f"something that a text can be: {why}")
        with self._lock:
            self._grammars[spec] = grammar
            while len(self._grammars) > KEPT:
                self._grammars.popitem(last=False)
        return grammar

    def _read_vocabulary(self, spec: GrammarSpec) -> Any:
        fast = getattr(self._tokenizer, "backend_tokenizer", None)
        if fast is None:
            raise ParameterError("grammar", spec.kind, "a model with a fast tokenizer (tokenizer.json)")
        fast = copy(fast)
        fast.no_padding()
        fast.no_truncation()
        size = max(self._vocab_size, len(self._tokenizer), 1 + max(self._tokenizer.get_vocab().values(), default=-1))
        own = self._tokenizer.eos_token_id
        ends = sorted(self._eos_ids) or ([] if own is None else [own])
        try:
            return _llguidance().LLTokenizer(fast.to_str(), n_vocab=size, eos_token=ends or None)
        except ValueError as failure:
            raise ParameterError("grammar", spec.kind, f"a tokenizer that llguidance can read ({failure})") from None


class Grammar:
    """A compiled grammar. `matcher()` is cheap; one for every output."""

    def __init__(self, spec: GrammarSpec, start: Any, vocab_size: int, eos_ids: frozenset[int]) -> None:
        self.spec, self.vocab_size = spec, vocab_size
        self._start, self._eos_ids = start, eos_ids
        self._lock = threading.Lock()

    def matcher(self, ends: Iterable[int] = ()) -> "Matcher":
        """A new one, at the beginning of the text. ends: the ids that may end it once it is complete."""
        with self._lock:
            return Matcher(self._start.deep_copy(), self.vocab_size, self._eos_ids, ends)

    def hopeless(self) -> str | None:
        """Why no text fits, where that is sure: every way, followed as long as there are few, ends nowhere."""
        waiting: list[tuple[int, ...]] = [()]
        why = "every way to write it ends nowhere"
        for _ in range(STEPS):
            if not waiting:
                return why
            path = waiting.pop()
            matcher = self.matcher()
            for token in path:
                matcher.push(token)
            state = matcher.after()
            why = matcher.error or why
            ways = [] if state is None else np.flatnonzero(state.allowed).tolist()
            if state is None or state.accepting or len(ways) > FEW:
                return None
            waiting += [(*path, token) for token in ways]
        return None


class Matcher:
    """Where one output is in its grammar."""

    def __init__(self, matcher: Any, vocab_size: int, eos_ids: frozenset[int], ends: Iterable[int]) -> None:
        self._matcher, self._vocab_size, self._eos_ids = matcher, vocab_size, eos_ids
        self._eos = np.array([token for token in sorted(eos_ids) if token < vocab_size], dtype=np.int64)
        self._ends = np.array(sorted(ends), dtype=np.int64)
        self._tokens: list[int] = []
        self._next: Next | None = None
        self._ended = False
        self._scout: Any = None
        self._behind = 0  # how many tokens of the output the scout has read for sure, and what it read after them
        self._trail: list[int] = []

    @property
    def accepting(self) -> bool:
        """Whether the text is complete as it stands."""
        return not self._ended and _accepting(self._matcher)

    @property
    def error(self) -> str:
        """What the parser gave up for, a limit; empty where it did not."""
        return _reason(self._matcher)

    def push(self, token: int) -> None:
        """One more token of the output. After one that does not belong to the text, an end, nothing may follow."""
        self._next = None
        if not self._ended:
            self._ended = token in self._eos_ids or not self._matcher.try_consume_tokens([token])
            self._tokens.append(token)

    def after(self, ahead: Sequence[int] = ()) -> Next | None:
        """What may follow the output and then `ahead`; None where the output cannot go that way (nothing is known there)."""
        if ahead:
            return None if self._ended else self._after(ahead)
        if self._next is None:
            self._next = self._read(self._matcher)
        return self._next

    def _after(self, ahead: Sequence[int]) -> Next | None:
        if self._scout is None:
            self._scout, self._trail, self._behind = self._matcher.deep_copy(), [], len(self._tokens)
        said = self._tokens[self._behind :]
        way = [*said, *ahead]
        same = next((i for i, (a, b) in enumerate(zip(self._trail, way, strict=False)) if a != b), None)
        same = min(len(self._trail), len(way)) if same is None else same
        gone = len(self._trail) == same or self._scout.rollback(len(self._trail) - same)
        new = [] if self._eos_ids.intersection(ahead) else way[same:]
        read = self._scout.try_consume_tokens(new) if new else 0
        self._trail = [*way[:same], *new[:read]]
        state = self._read(self._scout) if gone and len(self._trail) == len(way) else None
        if not gone or self._scout.is_error():
            self._scout = None
        shared = min(len(said), len(self._trail))
        self._behind += shared
        del self._trail[:shared]
        return state

    def _read(self, matcher: Any) -> Next:
        if self._ended or matcher.is_error():
            return Next(np.zeros(self._vocab_size, dtype=np.bool_), False)
        bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(bits, count=self._vocab_size, bitorder="little").view(np.bool_)
        if matcher.is_error():  # a limit was met: what the bits say then is no mask
            allowed[:] = False
        accepting = _accepting(matcher)
        allowed[self._eos] = False
        if accepting:
            allowed[self._ends] = True
        return Next(allowed, accepting)


def _accepting(matcher: Any) -> bool:
    return bool(matcher.is_accepting()) and not matcher.is_error()


def _reason(matcher: Any) -> str:
    return shortened(matcher.get_error().replace("<non-verbose/>", "").strip()) if matcher.is_error() else ""


def _llguidance() -> Any:
    try:
        import llguidance
    except ImportError:
        raise BetokenError(
            'structured output needs the package llguidance, which is not installed: pip install "betoken[serve]"'
        ) from None
    return llguidance


def _matcher(spec: GrammarSpec, vocabulary: Any) -> Any:
    """A matcher at its start, its first mask computed. Raises ParameterError."""
    library = _llguidance()
    start = library.LLMatcher(vocabulary, _source(spec), log_level=0, limits=library.LLParserLimits(**LIMITS))
    if not start.is_error():
        start.compute_bitmask()
    if start.is_error():
        expected = f"one that something fits and llguidance can do: {_reason(start)}"
        raise ParameterError(spec.kind, shortened(spec.value), expected)
    return start


def _source(spec: GrammarSpec) -> str:
    """The grammar in the language of `llguidance`."""
    matcher, value = _llguidance().LLMatcher, spec.value
    if spec.kind == "regex":
        return str(matcher.grammar_from_regex(value))
    if spec.kind == "lark":
        grammar = _as_lark(value)
        _check_embedded(grammar)
        return str(matcher.grammar_from_lark(grammar))
    if spec.kind == "choice":
        texts = " | ".join(json.dumps(text, ensure_ascii=False) for text in value)
        return str(matcher.grammar_from_lark(f"start: CHOICE\nCHOICE: {texts}"))
    schema = value if spec.kind == "json_schema" else '{"type": "object"}'
    _check_schema(spec.kind, json.loads(schema))
    try:
        return str(matcher.grammar_from_json_schema(schema, defaults={"whitespace_pattern": SPACES}))
    except ValueError as failure:  # JSON that is none of theirs: half a character, a number past all floats
        raise ParameterError(spec.kind, shortened(schema), f"JSON that llguidance reads: {failure}") from None


def _as_lark(grammar: str) -> str:
    """Also of one in GBNF, as llama.cpp has it. Raises ParameterError."""
    from llguidance.gbnf_to_lark import GbnfToLarkError, any_to_lark

    try:
        return str(any_to_lark(grammar))
    except (GbnfToLarkError, ValueError, IndexError, KeyError, RecursionError) as failure:
        expected = f"rules as Lark has them, with one named start, or GBNF with one named root ({failure})"
        raise ParameterError("lark", shortened(grammar), expected) from None


def _check_embedded(grammar: str) -> None:
    """Schemas inside a Lark grammar."""
    for part in grammar.split("%json")[1:]:
        try:
            schema, _ = json.JSONDecoder().raw_decode(part.lstrip())
        except (ValueError, RecursionError):
            raise ParameterError("lark", shortened(grammar), "a JSON schema after every %json") from None
        _check_schema("lark", schema)


def _check_schema(kind: str, schema: Any) -> None:
    try:
        wrong = objection(schema)
    except RecursionError:
        wrong = "shorter chains of references"
    if wrong is not None:
        raise ParameterError(kind, shortened(json.dumps(schema)), wrong)
