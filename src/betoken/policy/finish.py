"""What a token of each row is worth where all that counts is when the last of them ends. No torch.

A pass of n rows takes about `fixed + n * each`, so rows that are there for so many steps yet take `fixed * max(steps) + each *
sum(steps)` together. A token more spares its row a part of a step: `each` of that, and `fixed` as far as the row is the one that will
end last. Tokens of rows that are fast anyway are worth little, then, and those of the slowest one much.
"""

from collections.abc import Sequence

import numpy as np

from betoken.policy.cost import Floats

# Nobody looks further ahead than so many tokens: most answers have ended by then. What is left is known to this share of it, in steps; or
# so many steps.
AHEAD, SHARE, STEPS = 256, 0.1, 2.0


def worth(rooms: Sequence[int], paces: Sequence[float], rows: int, alone: float, together: float) -> Floats:
    """One number a row; of a token, on average, 1.

    rooms: tokens that each may have yet; paces: tokens of each a step, lately; rows: of a pass, others
    included; alone, together: a plain pass of one row, and of all
    """
    pace = np.asarray(paces, np.float64)
    each = max((together - alone) / max(rows - 1, 1), 0.0)
    fixed = max(together - rows * each, 0.0)
    steps = np.minimum(rooms, AHEAD) / pace
    last = np.exp((steps - steps.max()) / max(SHARE * float(steps.max()), STEPS))
    spared = each + fixed * last / last.sum()
    total = float(spared.sum())
    return spared / pace * (float(pace.sum()) / total) if total > 0 else np.ones(len(pace))
