"""When a mixture's experts are why drafts are short: every new token of a pass may wake experts that no other one needs, so its passes get
longer where a dense model's do not."""

from betoken.policy.cost import Floats
from betoken.proposers.auto.members import LOG

# Experts are to blame where drafts were cut so often and a pass over so many nodes more takes so many times as long.
OFTEN, FEW, RISES = 64, 8, 1.4


class Experts:
    """Of a target that has so many; 0: none. Seconds are those of a pass with 0, 1, ... nodes."""

    def __init__(self, count: int) -> None:
        self._count, self._blamed = count, False

    def hold_back(self, seconds: Floats) -> bool:
        return self._count > 0 and float(seconds[min(FEW, len(seconds) - 1)]) > RISES * float(seconds[0])

    def blame(self, seconds: Floats) -> None:
        """Say so in the log, once."""
        if self._blamed or not self.hold_back(seconds):
            return
        self._blamed, few = True, min(FEW, len(seconds) - 1)
        LOG.info(
            "drafts are kept short: a pass over %d tokens more takes %.1f times as long, for this model has experts, and other "
            "tokens need other ones",
            few,
            seconds[few] / seconds[0],
        )
