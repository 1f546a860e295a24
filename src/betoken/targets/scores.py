"""What forward passes of a real model said, looked at only where somebody asks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from betoken.draft import ROOT
from betoken.sampling import Sampler
from betoken.targets.base import Feed

Top = tuple[npt.NDArray[Any], npt.NDArray[Any]]  # ids, and their logits


class HFScores:
    """Logits of one forward pass, looked at only where somebody asks.

    logits_BKV: `[B, K, V]`; feed i is row `rows[i]`, its root at query `offsets[i] - 1`, its node n at `offsets[i] + n`
    """

    def __init__(self, logits_BKV: Tensor, rows: list[int], offsets: list[int], feeds: Sequence[Feed]) -> None:
        self.logits_BKV, self._rows, self._offsets, self._feeds = logits_BKV, rows, offsets, feeds
        self._tops: dict[tuple[int, int], Top] = {}
        # On a CPU most nodes of a tree are never asked for, and at a temperature none is. Elsewhere one transfer serves the whole batch;
        # it also waits for an accelerator, so the time lands where the forward is.
        here = logits_BKV.device.type == "cpu" and logits_BKV.dtype == torch.float32
        self._here_BKV = logits_BKV.numpy() if here else None
        self._argmax_BK: list[list[int]] | None = None if here else logits_BKV.argmax(-1).tolist()

    def _query(self, index: int, node: int) -> int:
        query: int = self._offsets[index] + node
        if node == ROOT and not self._feeds[index].tokens:
            raise ValueError("the root was not fed by this call")
        return query

    def emit(self, index: int, node: int, sampler: Sampler) -> int | None:
        if sampler.takes_argmax:
            return self._likeliest(self._rows[index], self._query(index, node))
        return sampler.choose(self.logits(index, node))

    def _likeliest(self, row: int, query: int) -> int:
        """The first of the highest."""
        if self._argmax_BK is None:
            assert self._here_BKV is not None
            if self._here_BKV.shape[1] > 1:
                return int(self._here_BKV[row, query].argmax())
            self._argmax_BK = self._here_BKV.argmax(-1).tolist()
        return self._argmax_BK[row][query]

    def logits(self, index: int, node: int) -> npt.NDArray[Any]:
        if self._here_BKV is not None:
            logits_V: npt.NDArray[Any] = self._here_BKV[self._rows[index], self._query(index, node)]
            return logits_V
        row: Tensor = self.logits_BKV[self._rows[index], self._query(index, node)]
        return row.float().cpu().numpy()

    def top_ids(self, index: int, k: int) -> npt.NDArray[Any]:
        row, first, last = self._nodes(index)
        if k > 1:
            return self._top(index, k)[0]
        if self._argmax_BK is not None:
            return np.array(self._argmax_BK[row][first:last])[:, None]
        assert self._here_BKV is not None
        return np.asarray(self._here_BKV[row, first:last].argmax(-1))[:, None]

    def top_logits(self, index: int, k: int) -> npt.NDArray[Any]:
        return self._top(index, k)[1]

    def _nodes(self, index: int) -> tuple[int, int, int]:
        """The row, and the queries from the root's to behind the last node's."""
        first = self._query(index, ROOT)
        return self._rows[index], first, first + 1 + len(self._feeds[index].draft)

    def _top(self, index: int, k: int) -> Top:
        if (index, k) not in self._tops:
            self._tops[index, k] = self._find_top(index, k)
        return self._tops[index, k]

    def _find_top(self, index: int, k: int) -> Top:
        row, first, last = self._nodes(index)
        if self._here_BKV is None:
            found = self.logits_BKV[row, first:last].topk(k, dim=-1)
            return found.indices.cpu().numpy(), found.values.float().cpu().numpy()
        # Here and not above: whoever asks for several has the compiler loaded, others need not wait for it.
        from betoken.targets.likeliest import likeliest

        return likeliest(self._here_BKV[row, first:last], k)


class JoinedScores:
    """Scores of several forward passes as of one. passes: each with its feeds, in its order; feeds: all of them, as they were given."""

    def __init__(self, passes: Sequence[tuple[HFScores, Sequence[Feed]]], feeds: Sequence[Feed]) -> None:
        found = {feed.row: (scores, index) for scores, of in passes for index, feed in enumerate(of)}
        self._at = [found[feed.row] for feed in feeds]

    def emit(self, index: int, node: int, sampler: Sampler) -> int | None:
        scores, place = self._at[index]
        return scores.emit(place, node, sampler)

    def logits(self, index: int, node: int) -> npt.NDArray[Any]:
        scores, place = self._at[index]
        return scores.logits(place, node)

    def top_ids(self, index: int, k: int) -> npt.NDArray[Any]:
        scores, place = self._at[index]
        return scores.top_ids(place, k)

    def top_logits(self, index: int, k: int) -> npt.NDArray[Any]:
        scores, place = self._at[index]
        return scores.top_logits(place, k)
