"""Short passes of a small model as one graph of operations that runs without Python. Most of what such a pass takes is Python's, and
`nn.Module`'s: of two layers 48 wide .8 ms, and .25 as a graph.

For models whose answers are guesses: of a pass that was traced it is known from a few passes only, each checked against the model itself,
that it computes the same. What cannot be traced, or says something else, is run as ever.
"""

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from betoken.kv import SlotCache
from betoken.targets.base import Feed, Target
from betoken.targets.capability import MaskPlan

LOG = logging.getLogger("betoken.traced")
# Each number of tokens takes a graph of its own; of longer passes less is Python's. They read a multiple of so many slots.
LONGEST, SLOTS = 6, 64
# So many passes of one size before one is traced, and so many that are checked; how far apart logits may be, of the largest.
OFTEN, CHECKS, TOLERANCE = 3, 3, 1e-3
# At load they are tried in a text of so many tokens, each so many before the last.
TEXT, STRIDE = 48, 5

Pass = Callable[..., Tensor]


class Traced:
    """A model's passes of one row that is a chain. cache: where its keys and values are."""

    def __init__(self, model: Any, plan: MaskPlan, cache: SlotCache) -> None:
        self._model, self._plan, self._cache = model, plan, cache
        lowest = torch.finfo(model.dtype).min
        self._open, self._shut = torch.tensor([0.0, lowest], dtype=model.dtype)
        self._seen: Counter[int] = Counter()
        self._graphs: dict[int, Pass] = {}
        self._views: dict[tuple[int, int], tuple[Tensor, ...]] = {}
        self._base: Sequence[Tensor] = ()
        self._failed = False

    def size(self, row: int, tokens: int, start: int) -> int:
        """Of a pass of so many tokens that begins at this slot of a row of the cache; 0 where it is not for a graph."""
        room = row < self._cache.rows and start + tokens <= self._cache.slots
        return tokens if room and tokens <= LONGEST and not self._failed else 0

    def knows(self, size: int) -> bool:
        """Whether there is a graph for passes of this size that has been checked."""
        return self._seen[size] >= OFTEN + CHECKS and not self._failed

    def see(self, size: int, row: int, tokens: Sequence[int], start: int, logits_BQV: Tensor) -> None:
        """What the model itself said to such a pass; once some have come, it is traced, and checked."""
        if not size or self._failed:
            return
        self._seen[size] += 1
        if self._seen[size] <= OFTEN:
            return
        written = [window[:, :, :, start : start + size] for window in self._window(row, start + size)]
        theirs = [window.clone() for window in written]
        try:
            if size not in self._graphs:
                self._graphs[size] = self._trace(row, tokens, start)
            self._check(logits_BQV[0, size - 1], self.run(row, tokens, start)[0, 0])
        except Exception as failure:  # whatever a model may do
            self._failed = True
            LOG.info("passes are not traced: %s", str(failure).strip().split("\n")[0][:200])
        for ours, kept in zip(written, theirs, strict=True):
            ours.copy_(kept)

    def _check(self, theirs: Tensor, ours: Tensor) -> None:
        off, largest = float((theirs - ours).abs().max()), float(theirs.abs().max())
        if not off <= TOLERANCE * max(largest, 1e-6):
            raise ValueError(f"logits are off by {off:.3g}, of {largest:.3g}")

    def run(self, row: int, tokens: Sequence[int], start: int) -> Tensor:
        """`[1, 1, V]`: the last token's logits."""
        # Nothing is optimised for the first shapes that come: the next ones are others.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            given = torch.tensor([tokens]), torch.tensor(start), *self._window(row, start + len(tokens))
            return self._graphs[len(tokens)](*given)

    def _window(self, row: int, used: int) -> tuple[Tensor, ...]:
        """Views of one row's slots, as many as are used and some."""
        slots = min(-(-used // SLOTS) * SLOTS, self._cache.slots)
        base = self._cache.tensors()
        if len(base) != len(self._base) or any(now is not then for now, then in zip(base, self._base, strict=True)):
            self._base = base
            self._views.clear()
        if (row, slots) not in self._views:
            self._views[row, slots] = tuple(tensor[:, row : row + 1, :, :slots] for tensor in base)
        return self._views[row, slots]

    def let_go(self) -> None:
        """Hold none of the cache's tensors."""
        self._base = ()
        self._views.clear()

    def _trace(self, row: int, tokens: Sequence[int], start: int) -> Pass:
        steps, keep = torch.arange(len(tokens)), {"logits_to_keep": 1} if self._plan.keeps_logits else {}

        def one_pass(ids_BQ: Tensor, start: Tensor, *windows: Tensor) -> Tensor:
            slots_Q = start + steps
            logits: Tensor = self._model(
                input_ids=ids_BQ,
                attention_mask=self._masks(slots_Q, windows[0].shape[3]),
                position_ids=slots_Q[None],
                past_key_values=_Windows(self._cache, windows, slots_Q),
                use_cache=True,
                **keep,
            ).logits
            return logits[:, -1:]

        given = torch.tensor([tokens]), torch.tensor(start), *self._window(row, start + len(tokens))
        with warnings.catch_warnings(), _constant(self._model):
            warnings.simplefilter("ignore")
            traced: Pass = torch.jit.trace(one_pass, given, check_trace=False)  # type: ignore[no-untyped-call]
        return traced

    def _masks(self, slots_Q: Tensor, slots: int) -> Tensor | dict[str, Tensor]:
        """Of a chain, whose slots are positions."""
        behind_QS = slots_Q[:, None] - torch.arange(slots)
        made = {}
        for kind, window in self._plan.windows.items():
            allowed_QS = behind_QS >= 0 if window is None else (behind_QS >= 0) & (behind_QS < window)
            made[kind] = torch.where(allowed_QS, self._open, self._shut)[None, None]
        return made if self._plan.by_layer_type else made["all"]


def practise(target: Target, row: int) -> None:
    """Have all short passes traced that can be, in a row nobody uses: in the first requests who drafts would be judged by what that takes."""
    most = min(target.info.context or TEXT, TEXT)
    text = tuple([token % target.info.vocab_size for token in range(most)])
    for size in range(1, min(LONGEST, most // 2) + 1):
        length = most - size
        target.score([Feed(row, text[:length])])
        target.commit(row, ())
        for _ in range(OFTEN + CHECKS):
            target.score([Feed(row, text[-size:])])
            length = max(length - STRIDE, 0)
            target.truncate(row, length)
        target.release(row)


class _Windows(Cache):  # type: ignore[misc]
    """What a model sees of a row while it is traced. windows: of each kind of layer keys and values, `[L, 1, H, S, D]`."""

    def __init__(self, cache: SlotCache, windows: Sequence[Tensor], slots_Q: Tensor) -> None:
        super().__init__(layers=[])
        self._cache, self._windows, self._slots_Q = cache, windows, slots_Q

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        kind, layer = self._cache.place(layer_idx)
        keys, values = self._windows[2 * kind][layer], self._windows[2 * kind + 1][layer]
        keys.index_copy_(2, self._slots_Q, key_states)
        values.index_copy_(2, self._slots_Q, value_states)
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


@contextmanager
def _constant(model: Any) -> Iterator[None]:
    """A graph takes weights that nobody trains."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in trained:
            weight.requires_grad_(True)
