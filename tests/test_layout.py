"""Where fed tokens go and what they see, against the definition."""

from hypothesis import example, given
from hypothesis import strategies as st
from strategies import trees

from betoken.draft import EMPTY, Draft
from betoken.targets.base import Feed
from betoken.targets.layout import RowState, lay_out

rows = st.tuples(st.integers(0, 9), st.integers(1, 3), trees())


@given(st.lists(rows, min_size=1, max_size=3), st.integers(1, 6), st.sampled_from((1, 8)))
@example([(4, 1, EMPTY), (2, 2, Draft((1, 2, 3), (-1, -1, 1)))], 1, 1)
def test_every_query_sees_its_past_and_nothing_else(
    batch: list[tuple[int, int, Draft]], window: int, align: int
) -> None:
    """A node saw its sibling; or a sliding window counted slots where siblings share a position."""
    feeds = [Feed(b, (7,) * catch_up, draft) for b, (_, catch_up, draft) in enumerate(batch)]
    layout = lay_out([RowState(length) for length, _, _ in batch], feeds, align=align)
    assert layout.allowed_BQS.shape[2] % align == 0
    windowed = layout.windowed(window)
    for b, (length, catch_up, draft) in enumerate(batch):
        base = length + catch_up
        places = [*range(base), *(base - 1 + depth for depth in draft.depths)]  # of every slot in use
        for query in range(catch_up + len(draft)):
            node, own = query - catch_up, length + query
            seen = {*range(own + 1)} if node < 0 else {*range(base), *(base + step for step in draft.path_to(node))}
            near = {slot for slot in seen if places[slot] > places[own] - window}
            assert layout.tokens_BQ[b, query] == (7 if node < 0 else draft.tokens[node])
            assert layout.positions_BQ[b, query] == places[own]
            assert {*layout.allowed_BQS[b, query].nonzero()[0].tolist()} == seen
            assert {*windowed[b, query].nonzero()[0].tolist()} == near
