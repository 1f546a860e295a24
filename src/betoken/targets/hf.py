"""Any Hugging Face causal LM as a target: unmodified `transformers` code, our cache, our masks and positions.

Everything about KV, tensors and devices stays in here and in what this module alone imports.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import Cache

from betoken.draft import Draft
from betoken.errors import NoRoomError
from betoken.kv import SavedRow, SlotCache
from betoken.targets.attention import group_heads, without_plans
from betoken.targets.base import Feed, TargetInfo
from betoken.targets.capability import MaskPlan, describe, mask_plan, probe, refuse_unsupported
from betoken.targets.layout import Layout, RowState, lay_out
from betoken.targets.lookup import flatten_lookup
from betoken.targets.packing import Undo, can_pack, pack_linears
from betoken.targets.scores import HFScores, JoinedScores
from betoken.targets.sizes import padded, sizes
from betoken.targets.splitting import runs
from betoken.targets.tracing import Traced, practise

# Even of a tiny model a pass costs as much as so many slots of one row (measured on two cores: 4 ms of 43).
LEAST_OVERHEAD = 8192
# So many tokens are computed in the time that all weights are read once in (two cores: .06 to .1 ms each with the embedded model).
CPU_TOKENS, GPU_TOKENS = 16, 256
# Bytes of weights up to which passes are padded to few sizes; the largest of these that are made ready, and those with all logits.
PADDED, LARGEST, ALL_LOGITS = 128 << 20, 512, 128
WARMING = -1
# CUDA's attention copies a mask in every layer whose rows are no multiple of so many.
ALIGNED = 8
# Where all query heads share one head of keys, and the queries are one more than a multiple of this, torch's attention for CUDA shows the
# last one the first one's row of the mask (seen on an H100, float32 and bfloat16, torch 2.11): they are padded by one.
BLOCK = 32
# From so many slots on kernels that are built for a shape are so much faster that it pays to build some (see `attention`), if there are
# few shapes: slots, and tokens, are padded to multiples. Not of prompts, which are read in wide passes.
FAR, FAR_SLOTS, FAR_TOKENS, PROMPT = 10240, 512, 8, 128
# All logits of so many queries are made as fast as some of them.
FEW = 8


class HFTarget:
    """A causal LM from `transformers`, driven by its own unmodified forward.

    model:        any decoder-only model with attention over its whole past; refused with the reason otherwise
    pack:         take shorter ways (`lookup`; on a CPU `packing` and `attention` too): the same function, rounded
                  otherwise, in less time; None and True: where torch can. False leaves the model as it is
    own:          nobody else uses the model, so packed weights may replace the plain ones until `close`
    reproducible: one code path and one padded width whatever is drafted, so that rounding does not depend on the draft
    max_context:  a smaller context than the model's own
    guesses:      its answers are checked by another one, so that short passes may be traced (`tracing`), where the model is small

    Raises UnsupportedModelError.
    """

    def __init__(
        self,
        model: Any,
        *,
        pack: bool | None = None,
        own: bool = False,
        reproducible: bool = False,
        max_context: int | None = None,
        guesses: bool = False,
    ) -> None:
        refuse_unsupported(model)
        self.model = model
        self._was_training = bool(model.training)
        model.eval()
        self._plan: MaskPlan = mask_plan(model)
        self._width = 8 if reproducible else 1
        self.ways = {"pack": pack is not False, "reproducible": reproducible}  # of those that take other times
        self._device, self._attending = model.device, without_plans(model.device)
        lowest = torch.finfo(model.dtype).min
        self._open, self._shut = torch.tensor([0.0, lowest], dtype=model.dtype, device=model.device)
        self._cache = SlotCache(self._plan.num_layers, device=self._device, in_use=self._in_use)
        self._adapter = _CacheAdapter(self._cache)
        self._order: list[int] = []
        self._rows: dict[int, RowState] = {}
        self._pads = False
        self._traced: Traced | None = None
        self._align = ALIGNED if model.device.type == "cuda" else 1
        self.info: TargetInfo = describe(model, max_context)
        self.info = probe(self, self.info)
        self._weights = sum(weight.nbytes for weight in model.parameters())  # packed ones are no parameters any more
        self._undo = [] if pack is False else _hasten(model, own=own, one_path=reproducible)
        # Of large models, and where other tokens need other experts, padding costs more than it saves.
        self._pads = bool(self._undo) and can_pack(model) and self._weights <= PADDED and not self.info.experts
        self._pads = self._pads and not reproducible
        if guesses and self._pads:
            self._traced = Traced(model, self._plan, self._cache)
            try:
                practise(self, WARMING)
            except BaseException:  # a caller's model is given back as it was
                self.close()
                raise

    def close(self) -> None:
        """Give the model back as it was found."""
        while self._undo:
            self._undo.pop()()
        self.model.train(self._was_training)

    @property
    def kv_bytes(self) -> int:
        """Bytes held for keys and values."""
        return self._cache.nbytes

    def _in_use(self) -> list[int]:
        return [self._rows[row].used for row in self._order]

    def kv_needed(self, rows: int, tokens: int) -> int:
        return self._cache.needed(rows, tokens)

    @property
    def kv_used(self) -> int:
        return self._cache.needed(1, sum(self._in_use()))

    def reserve_kv(self, rows: int, tokens: int) -> None:
        with _out_of_memory():
            self._cache.reserve(rows, tokens)

    def limit_kv(self, limit: int | None) -> None:
        self._cache.limit = limit

    @torch.inference_mode()
    def save(self, row: int) -> SavedRow:
        return self._cache.save(self._order.index(row), self._rows[row].length)

    @torch.inference_mode()
    def load(self, row: int, saved: SavedRow, length: int) -> None:
        with _out_of_memory():
            self._cache.load(len(self._order), saved, length)
        self._order.append(row)
        self._rows[row] = RowState(length)

    @torch.inference_mode()
    def fork(self, source: int, row: int, length: int) -> None:
        with _out_of_memory():
            self._cache.reserve(len(self._order) + 1, length)
        self._cache.copy_row(self._order.index(source), len(self._order), length)
        self._order.append(row)
        self._rows[row] = RowState(length)

    @torch.inference_mode()
    def trim(self) -> None:
        if not self._order:
            self._cache.trim()
            if self._traced is not None:
                self._traced.let_go()

    def length(self, row: int) -> int:
        return self._rows[row].length if row in self._rows else 0

    def score(self, feeds: Sequence[Feed]) -> "HFScores | JoinedScores":
        with _out_of_memory():
            return self._score(feeds)

    def _score(self, feeds: Sequence[Feed]) -> "HFScores | JoinedScores":
        new = [feed for feed in feeds if feed.row not in self._rows]
        before = [(feed.row, replace(self._rows[feed.row])) for feed in feeds if feed.row in self._rows]
        for feed in sorted(new, key=lambda feed: len(feed.tokens)):  # neighbours of one length share a pass
            self._rows[feed.row] = RowState()
            self._order.append(feed.row)
        try:
            return self._fed(feeds)
        except BaseException:
            self._rows.update(before)
            for feed in new:
                del self._rows[feed.row]
                self._order.remove(feed.row)
            raise

    @torch.inference_mode()
    def _fed(self, feeds: Sequence[Feed]) -> "HFScores | JoinedScores":
        if self._traced is not None and len(feeds) == 1:
            return self._short(self._traced, feeds[0])
        by_place = {self._order.index(feed.row): feed for feed in feeds}
        passes = self._passes(by_place)
        if len(passes) == 1:
            return self._pass(by_place, feeds)
        parts = [(one, [*one.values()]) for one in passes]
        return JoinedScores([(self._pass(one, of), of) for one, of in parts], feeds)

    def _passes(self, by_place: dict[int, Feed]) -> list[dict[int, Feed]]:
        """Feeds of each forward pass, by the place of their rows."""
        if len(by_place) < 2:
            return [by_place]
        if self._width > 1:  # whom a prompt is read with must not decide how its sums are rounded
            prompts = [at for at, feed in by_place.items() if len(feed.tokens) > self._width]
            others = {at: feed for at, feed in by_place.items() if at not in prompts}
            return [*({at: by_place[at]} for at in prompts), *([others] if others else [])]
        places = sorted(by_place)
        windows = [self._rows[self._order[place]].length + len(by_place[place].tokens) for place in places]
        queries = [_length(by_place[at]) for at in places]
        ends = runs(places, windows, queries, overhead=self._overhead, query=self._query)
        starts = [0, *ends[:-1]]
        return [{at: by_place[at] for at in places[start:end]} for start, end in zip(starts, ends, strict=True)]

    @cached_property
    def _overhead(self) -> int:
        """A pass's fixed cost in slots of one row: all weights are read, as if they were keys and values."""
        return max(LEAST_OVERHEAD, int(self._reading))

    @property
    def _reading(self) -> float:
        """What reading all weights costs, in slots of one row."""
        return float(self._weights) / max(1, self._cache.needed(1, 1))

    @cached_property
    def _query(self) -> float:
        """What a token costs, in slots of one row."""
        return self._reading / (CPU_TOKENS if self._device.type == "cpu" else GPU_TOKENS)

    def _pass(self, by_place: dict[int, Feed], feeds: Sequence[Feed]) -> "HFScores":
        first, last = min(by_place), max(by_place)
        states = [self._rows[row] for row in self._order[first : last + 1]]
        placed = [by_place.get(place) for place in range(first, last + 1)]
        longest = self._pad(first, states, placed) if self._pads else 0
        align, least = self._aligned(states, by_place)
        layout = lay_out(states, placed, width=self._width, queries=max(longest, least), align=align)
        self._cache.aim(first, layout.starts, layout.tokens_BQ.shape[1], layout.allowed_BQS.shape[2])
        places = [self._order.index(feed.row) - first for feed in feeds]
        offsets = [layout.offset_B[place] for place in places]
        roots = self._roots(feeds, offsets, layout.tokens_BQ.shape[1])
        logits_BKV = self._forward(layout, roots)
        if roots:
            offsets = [roots.index(offset - 1) + 1 for offset in offsets]
        return HFScores(logits_BKV, places, offsets, feeds)

    def _short(self, traced: Traced, feed: Feed) -> "HFScores":
        """One row's pass, as a graph where it is a short chain, of which the last token's logits alone can be asked for, and there is one."""
        state, place = self._rows[feed.row], self._order.index(feed.row)
        tokens, start = feed.tokens or feed.draft.tokens[feed.start :], state.length if feed.tokens else state.used
        few = not feed.draft.tokens if feed.tokens else len(tokens) == 1 and feed.draft.is_chain
        size = traced.size(place, len(tokens), start) if few else 0
        if not traced.knows(size):
            scores = self._pass({place: feed}, [feed])
            traced.see(size, place, tokens, start, scores.logits_BKV)
            return scores
        state.take(feed)
        return HFScores(traced.run(place, tokens, start), [0], [1 if feed.tokens else -feed.start], [feed])

    def _aligned(self, states: list[RowState], by_place: dict[int, Feed]) -> tuple[int, int]:
        """What the number of slots should be a multiple of, and how many tokens each row should be fed at least; nothing takes more
        memory for it, but for a slot where attention would else be wrong."""
        if self._align == 1:
            return 1, 0
        used, tokens = max([state.used for state in states]), max([_length(feed) for feed in by_place.values()])
        tokens += tokens > 1 and tokens % BLOCK == 1
        padded_ = -(-tokens // FAR_TOKENS) * FAR_TOKENS
        if used + tokens >= FAR and tokens <= PROMPT and used + padded_ + FAR_SLOTS <= self._cache.slots:
            return FAR_SLOTS, padded_
        return self._align if used + tokens + self._align <= self._cache.slots else 1, tokens

    def _pad(self, first: int, states: list[RowState], placed: list[Feed | None]) -> int:
        """Add idle rows, where there is room for them behind the last one; returns how many tokens each row should be fed. Nothing is
        padded that would take more memory."""
        queries = max(_length(feed) for feed in placed if feed is not None)
        if max(state.used for state in states) + queries + queries // 8 > self._cache.slots:
            return queries
        free = self._cache.rows - first if first + len(states) == len(self._order) else len(states)
        rows, queries = padded(len(states), queries, max(free, len(states)))
        idle = rows - len(states)
        states += [RowState() for _ in range(idle)]
        placed += [None] * idle
        return queries

    def warm_up(self, seconds: float) -> None:
        """Have compiled what the first passes of each size would compile, as far as time and memory go."""
        until, token = time.perf_counter() + seconds, min(1, self.info.vocab_size - 1)
        for size in sizes(LARGEST) if self._pads else ():
            if time.perf_counter() > until or size > (self.info.context or size):
                return
            try:
                self.score([Feed(WARMING, (token,) * size)])
            except NoRoomError:
                return
            self.truncate(WARMING, 0)
            if size <= ALL_LOGITS:
                self.score([Feed(WARMING, (token,), Draft((token,) * (size - 1), tuple(range(-1, size - 2))))])
            self.release(WARMING)

    def _roots(self, feeds: Sequence[Feed], offsets: Sequence[int], queries: int) -> list[int]:
        """The queries whose logits can be asked for, where those are few: of prompts, which have no nodes. Else nothing."""
        if any(len(feed.draft) for feed in feeds) or queries <= FEW or self._width > 1 or not self._plan.keeps_logits:
            return []
        return sorted({offset - 1 for offset in offsets})

    def _forward(self, layout: Layout, roots: list[int]) -> Tensor:
        """`[B, K, V]` logits: of every query, or of these."""
        keep: dict[str, Any] = {}
        if roots:
            last = roots == [layout.tokens_BQ.shape[1] - 1]
            keep = {"logits_to_keep": 1 if last else torch.tensor(roots, device=self._device)}
        slots = layout.allowed_BQS.shape[2]
        far = slots >= FAR and slots % FAR_SLOTS == 0 and layout.allowed_BQS.shape[1] <= PROMPT
        with contextlib.nullcontext() if far else self._attending:
            output = self.model(
                input_ids=torch.from_numpy(layout.tokens_BQ).to(self._device),
                attention_mask=self._masks(layout),
                position_ids=torch.from_numpy(layout.positions_BQ).to(self._device),
                past_key_values=self._adapter,
                use_cache=True,
                **keep,
            )
        logits: Tensor = output.logits
        return logits

    def _masks(self, layout: Layout) -> Tensor | dict[str, Tensor]:
        """A 4-D mask silences the model's own sliding window, so each kind of layer gets the mask it would have made."""
        made: dict[int | None, Tensor] = {}
        for window in {*self._plan.windows.values()}:
            allowed = layout.allowed_BQS if window is None else layout.windowed(window)
            made[window] = self._additive(allowed)
        if self._plan.by_layer_type:
            return {kind: made[window] for kind, window in self._plan.windows.items()}
        return made[self._plan.windows["all"]]

    def _additive(self, allowed_BQS: npt.NDArray[np.bool_]) -> Tensor:
        """`[B, 1, Q, S]`: 0 where a query may look, the dtype's lowest number elsewhere."""
        return torch.where(torch.from_numpy(allowed_BQS[:, None]).to(self._device), self._open, self._shut)

    @torch.inference_mode()
    def commit(self, row: int, path: Sequence[int]) -> None:
        state = self._rows[row]
        base = state.base
        moved = state.settle(path)
        if moved:
            self._cache.move(self._order.index(row), moved, base)

    def truncate(self, row: int, length: int) -> None:
        self._rows[row] = RowState(min(length, self._rows[row].length))

    @torch.inference_mode()
    def release(self, row: int) -> None:
        """Forget the row; the last one takes its place, so that the rows in use stay together."""
        if row not in self._rows:
            return
        place, last = self._order.index(row), self._order[-1]
        if last != row:
            self._cache.copy_row(len(self._order) - 1, place, self._rows[last].used)
            self._order[place] = last
        self._order.pop()
        del self._rows[row]


def _length(feed: Feed) -> int:
    """How many tokens it is."""
    return len(feed.tokens) + len(feed.draft) - feed.start


@contextlib.contextmanager
def _out_of_memory() -> Iterator[None]:
    """However torch says it: NoRoomError."""
    try:
        yield
    except NoRoomError:
        raise
    except (torch.OutOfMemoryError, MemoryError) as failure:
        raise NoRoomError(f"out of memory: {failure}") from failure
    except RuntimeError as failure:
        if "allocate memory" not in str(failure):
            raise
        raise NoRoomError(f"out of memory: {failure}") from failure


class _CacheAdapter(Cache):  # type: ignore[misc]
    """What a model sees of a `SlotCache`: `update`, and a length nobody needs since positions are always given."""

    def __init__(self, slots: SlotCache) -> None:
        super().__init__(layers=[])
        self._slots = slots

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        return self._slots.write(layer_idx, key_states, value_states)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._slots.start


def _hasten(model: Any, *, own: bool, one_path: bool) -> list[Undo]:
    """What undoes the shorter ways, to be called last first."""
    undo = [group_heads(model), pack_linears(model, free=own, one_path=one_path)] if can_pack(model) else []
    return [*undo, flatten_lookup(model)]
