"""What `auto` may be told."""

from collections.abc import Collection

from betoken.errors import ParameterError
from betoken.policy.mixing import MOST

MOST_NODES = 512


def check(members: Collection[str], nodes: object, explore: object) -> None:
    """Raises ParameterError."""
    if isinstance(nodes, bool) or not isinstance(nodes, int) or not 1 <= nodes <= MOST_NODES:
        raise ParameterError("nodes", nodes, f"a whole number from 1 to {MOST_NODES}")
    if isinstance(explore, bool) or not isinstance(explore, int | float) or not 0 <= explore <= 1:
        raise ParameterError("explore", explore, "a number from 0 to 1")
    if len(members) > MOST:
        raise ParameterError("of", "+".join(members), f"at most {MOST} methods")
