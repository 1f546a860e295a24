"""What `betoken replay` was asked for: a trace, methods with their budgets, and what stands for the target."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from betoken.bench.replay import RecordedTarget, Replay, Tally
from betoken.errors import ParameterError, TraceError
from betoken.methods import proposer_of, spelt
from betoken.proposers.base import Proposer, Workshop, budget_of, knobs_of, methods
from betoken.targets.replay import ForcedTarget, ReplayTarget
from betoken.trace import Trace

if TYPE_CHECKING:
    from betoken.targets.hf import HFTarget

PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user asked for; `nodes`, `preset` hold for every method that knows such a thing."""

    methods: Sequence[str]
    nodes: int | None = None
    preset: str | None = None
    warm: bool = False
    model: str | None = None
    draft: str | None = None
    dtype: str = "auto"
    device: str = "auto"


@dataclass(slots=True)
class Replays:
    """All methods on one trace, conversation by conversation in turns, so that a slow minute hits them alike.

    facts: what the table's heading says about the target; real: whether times of a forward pass mean anything
    """

    trace: Trace
    target: RecordedTarget
    replays: list[Replay]
    real: bool = False
    facts: list[str] = field(default_factory=list)
    seconds: float = 0.0
    done: int = 0

    @property
    def tallies(self) -> list[Tally]:
        return [replay.tally for replay in self.replays]

    def run(self, on_conversation: Callable[[str], object] = lambda _: None) -> None:
        start = time.perf_counter()
        try:
            for conversation in self.trace.conversations:
                for replay in self.replays:
                    on_conversation(f"{conversation.category}: {replay.tally.method}")
                    replay.add(conversation)
                self.done += 1
        finally:
            self.seconds = time.perf_counter() - start


def prepare(trace: Trace, wish: Wish) -> Replays:
    """Load what has to be loaded, and make sure that every method can run. Raises ParameterError, TraceError."""
    names = [*dict.fromkeys(wish.methods)]
    if not names:
        raise ParameterError("method", "", "one of " + ", ".join(methods()))
    if wish.preset is not None and not any("preset" in knobs_of(spelt(name)[0]) for name in names):
        raise ParameterError("preset", wish.preset, f"a method with presets (ngram), not {', '.join(names)}")
    if wish.model is not None and PLAIN not in names:
        names.insert(0, PLAIN)
    facts: list[str] = []
    target = _target(trace, wish, facts)
    draft = None if wish.draft is None else _loaded(wish.draft, wish, facts, "draft model")
    replays = []
    for name in names:
        make, nodes = _maker(name, wish, Workshop(target.info, draft))
        _check_needs(name, make(), real=wish.model is not None)
        replays.append(Replay(name, make, target, warm=wish.warm, nodes=nodes))
    return Replays(trace, target, replays, wish.model is not None, facts)


def _maker(spelling: str, wish: Wish, shop: Workshop) -> tuple[Callable[[], Proposer | None], int | None]:
    name, options = spelt(spelling)
    budget = budget_of(name)
    if wish.nodes is not None and budget is not None:
        options.setdefault(budget, wish.nodes)
    if wish.preset is not None and "preset" in knobs_of(name):
        options["preset"] = wish.preset
    if name == "draft" and shop.draft is None:
        raise ParameterError("method", spelling, "a draft model with it: --draft FOLDER")
    return lambda: proposer_of(name, Workshop(shop.target, shop.draft, dict(options))), wish.nodes


def _check_needs(name: str, proposer: Proposer | None, *, real: bool) -> None:
    if proposer is not None and proposer.needs.top_ids and not real:
        raise ParameterError(
            "method",
            name,
            "one that needs no logits of the target, for a recording has none (recycling, lookahead and merge with one of "
            "them do); or a model to run, with --model",
        )


def _target(trace: Trace, wish: Wish, facts: list[str]) -> RecordedTarget:
    if wish.model is None:
        return ReplayTarget(trace.vocab_size, trace.eos_ids)
    target = _loaded(wish.model, wish, facts, "model")
    largest = max(max(s.tokens, default=0) for c in trace.conversations for s in c.segments)
    if largest >= target.info.vocab_size:
        raise TraceError(
            f"the trace has token id {largest}, and {wish.model} knows 0 to {target.info.vocab_size - 1}; "
            "take the model it was recorded from, or a config.json of any shape with that vocabulary"
        )
    return ForcedTarget(target)


def _loaded(where: str, wish: Wish, facts: list[str], what: str) -> "HFTarget":
    """A model with its weights; or, where there is only a config.json, with random ones, and the heading says so."""
    from betoken.bench.shapes import random_model
    from betoken.loading import load
    from betoken.targets.hf import HFTarget

    config = Path(where)
    config = config / "config.json" if config.is_dir() else config
    bare = config.is_file() and not [*config.parent.glob("*.safetensors"), *config.parent.glob("pytorch_model*.bin")]
    if config.is_file() and (bare or not Path(where).is_dir()):
        model, size = random_model(config, wish.dtype, wish.device)
        facts.append(f"{what}: {where}, {size / 1e6:.1f} M RANDOM weights in {_dtype(model)}: its cost is real")
        return HFTarget(model, own=True)
    loaded = load(where, dtype=wish.dtype, device=wish.device)
    facts.append(f"{what}: {loaded.name} in {_dtype(loaded.model)}")
    return HFTarget(loaded.model, own=loaded.ours)


def _dtype(model: Any) -> str:
    return str(model.dtype).removeprefix("torch.")
