"""The rows of a target as an engine uses them: who fits, where a prompt may begin, what stays of a row that has ended. No torch."""

from collections.abc import Sequence

from betoken.prefixes import WORTHWHILE, Prefixes
from betoken.scheduler import Limits
from betoken.sequences import Running
from betoken.targets.base import Keeper, Target

# A row is given room for so many tokens more than it has.
HEADROOM = 256


class Rows:
    """Opening, keeping and giving up rows, as far as the target can copy them (`targets.base.Keeper`)."""

    def __init__(self, target: Target, limits: Limits) -> None:
        self._target, self._limits = target, limits
        self._keeper = target if isinstance(target, Keeper) else None
        self.prefixes = Prefixes(limits.kept_bytes)
        if self._keeper is not None and limits.kv_bytes is not None:
            self._keeper.limit_kv(limits.kv_bytes)

    @property
    def used_bytes(self) -> int:
        """Keys and values of rows in use."""
        return 0 if self._keeper is None else self._keeper.kv_used

    def reserve(self) -> None:
        """Hold what all rows may need, as far as the limit goes: to grow while rows decode makes them wait."""
        limit, rows = self._limits.kv_bytes, self._limits.rows
        each = 0 if self._keeper is None else self._keeper.kv_needed(rows, 1)
        if self._keeper is not None and limit is not None and each:
            self._keeper.reserve_kv(rows, min(limit // each, self._target.info.context or limit))

    def room(self) -> int | None:
        """How many tokens a row alone may have; None: no limit but the target's own."""
        limit = self._limits.kv_bytes
        each = 0 if self._keeper is None else self._keeper.kv_needed(1, 1)
        return None if limit is None or not each else limit // each

    def fits(self, seq: Running, others: Sequence[Running]) -> bool:
        """Whether one more row has room beside these. Alone it is always tried."""
        if self._limits.kv_bytes is None or self._keeper is None or not others:
            return True
        longest = max(len(one.tokens) + min(one.stops.room, HEADROOM) for one in (seq, *others))
        return self._keeper.kv_needed(len(others) + 1, longest) <= self._limits.kv_bytes

    def open(self, seq: Running, others: Sequence[Running]) -> None:
        """Begin a row with as much of its tokens as some other one has in its namespace. Raises NoRoomError."""
        if self._keeper is None or self._limits.kept_bytes == 0:
            return
        tokens, space = seq.tokens[: seq.to_read - (not seq.resumes)], seq.request.namespace
        found, saved = self.prefixes.find(tokens, space)
        length, source = max(((self._shared(one, seq, tokens), one.seq_id) for one in others), default=(0, -1))
        if length >= max(WORTHWHILE, found + 1):
            self._keeper.fork(source, seq.seq_id, length)
        elif saved is not None:
            self._keeper.load(seq.seq_id, saved, found)
        seq.stats.cached_tokens = self._target.length(seq.seq_id)

    def _shared(self, other: Running, seq: Running, tokens: Sequence[int]) -> int:
        """How many of these tokens the row of another begins with."""
        if other.request.namespace != seq.request.namespace or other.tokens[:WORTHWHILE] != tokens[:WORTHWHILE]:
            return 0
        most = min(len(tokens), self._target.length(other.seq_id))
        return next((at for at in range(most) if other.tokens[at] != tokens[at]), most)

    def end(self, seq: Running) -> None:
        """Give a row up; its keys and values stay, if they are wanted and there is room."""
        length = self._target.length(seq.seq_id)
        kept = seq.tokens[:length]
        if length and self._keeper is not None and self.prefixes.worth(kept, seq.request.namespace):
            self.prefixes.keep(kept, seq.request.namespace, self._keeper.save(seq.seq_id))
        self._target.release(seq.seq_id)

    def trim(self) -> None:
        """Give memory back, where no row is in use."""
        if self._keeper is not None:
            self._keeper.trim()
            self.reserve()
