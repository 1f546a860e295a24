"""What of the trees is fed."""

from collections.abc import Sequence

from betoken.draft import Draft
from betoken.policy import calls
from betoken.policy.claims import Batch
from betoken.policy.cost import Costs
from betoken.proposers.auto.experts import Experts
from betoken.proposers.auto.members import Pair, Row
from betoken.proposers.auto.step import Step
from betoken.proposers.base import SeqView

# What time is worth: by the rate of tokens lately, and by what this step could bring; the latter's share.
PROSPECT = 0.97


class Choosing:
    """Of drafts of at most so many nodes, whose members have these names. batch: what they bring all rows (`views.Wide`)."""

    def __init__(self, nodes: int, names: Sequence[str], experts: Experts) -> None:
        self._nodes, self._names, self._experts = nodes, names, experts
        self.batch = Batch(nodes)

    def choose(self, step: Step, pairs: Sequence[Pair], costs: Costs, deciding: float) -> list[Draft]:
        """As wide as pays for the whole batch; each row's likeliest nodes up to there, for padding costs as much. deciding: seconds that
        this takes anyway. Says in `step` and in the rows what was chosen."""
        self.batch.takes(costs.whole)
        spent = step.asking + deciding
        step.nodes = 0
        found = self._alone(step, *pairs[0], spent) if len(pairs) == 1 else self._together(step, pairs, spent)
        gains, takes = found or (0.0, costs.plain)
        step.expected, step.seconds = step.rows + gains, takes - costs.around + step.asking
        return [self._picked(step, seq, row, costs) for seq, row in pairs]

    def _alone(self, step: Step, seq: SeqView, row: Row, spent: float) -> tuple[float, float] | None:
        """Tokens that come on top of plain decoding's, and seconds; None where nothing was drafted. Others may be in the pass whom nothing
        is drafted for. In one call, which picks, too."""
        step.most = min(row.claims.size, self._nodes)
        if not step.most:
            return None
        tokens = step.rows - 1 + row.value
        args = self._most(seq), tokens, spent, step.rate, PROSPECT, step.most
        step.nodes, gains, takes = row.claims.choose(self.batch.places, *args)
        return gains, takes

    def _together(self, step: Step, pairs: Sequence[Pair], spent: float) -> tuple[float, float] | None:
        largest, plain, fresh = 0, float(step.rows - len(pairs)), True
        for seq, row in pairs:
            plain += row.value
            if size := row.claims.size:
                row.claims.gain(self.batch.places, self._most(seq), row.value, fresh=fresh)
                largest, fresh = max(largest, size), False
        step.most = min(largest, self._nodes)
        if not step.most:
            return None
        step.nodes, gains, takes = calls.widest(self.batch.places, plain, spent, step.rate, PROSPECT, step.most)
        for seq, row in pairs:
            row.claims.pick(min(step.nodes, self._most(seq)))
        return gains, takes

    def _most(self, seq: SeqView) -> int:
        """How many nodes of a sequence may be fed."""
        return self._nodes if seq.max_nodes is None else seq.max_nodes

    def _picked(self, step: Step, seq: SeqView, row: Row, costs: Costs) -> Draft:
        held_back = "experts" if step.nodes < step.most and self._experts.hold_back(costs.seconds) else ""
        row.draft = row.claims.picked(min(step.nodes, self._most(seq)), self._names, held_back)
        return row.draft
