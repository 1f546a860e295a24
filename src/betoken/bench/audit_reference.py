"""An independent opinion: the model as `transformers` loads it, one forward over the whole text.

No cache, no mask and no positions of ours, no packed weights: what plain decoding and speculation may get wrong alike
(a mask, a position, a weight, the end of an output), this does not.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from betoken.bench.measure import Ids
from betoken.bench.tie import Comparison, Sameness, chooser, cut_short, first_difference, judge
from betoken.loading import load
from betoken.params import SamplingParams
from betoken.targets.base import TargetInfo

ROWS = 32  # texts of one forward, where several are of one length


class Reference:
    """The unmodified model of a folder or hub name, in the dtype and on the device of what is audited.

    Raises ModelNotFoundError, UnsupportedModelError, ParameterError.
    """

    def __init__(self, source: str, info: TargetInfo, *, dtype: str, device: str) -> None:
        self.info = info
        self._model = load(source, dtype=dtype, device=device).model
        self._last_only = "logits_to_keep" in inspect.signature(self._model.forward).parameters

    def check(self, prompt: Ids, params: SamplingParams, output: Ids) -> Comparison:
        """Every token of an output against the argmax of its own forward; the worst that was found.

        DIFFERENT at the first token that lies further below the argmax than rounding explains, or where the output
        should not have ended, or should have.
        """
        logits_TV = self.logits(prompt, output)
        sampler = chooser(self.info, prompt, params, ())
        worst = Comparison(Sameness.IDENTICAL)
        for logits_V, token in zip(logits_TV, output, strict=True):
            best = sampler.perturbed_argmax(logits_V)
            if best != token:
                found = judge(logits_V, sampler, (best, token), self._model.dtype)
                if found.sameness is Sameness.DIFFERENT:
                    return found
                worst = max(worst, found, key=lambda one: one.roundings or 0.0)
            sampler.push(token)
        end = self._should_end(prompt, params, output)
        return worst if end == len(output) else cut_short(min(end, len(output)), output[:end], output)

    def compare(self, prompt: Ids, params: SamplingParams, plain: Ids, other: Ids) -> Comparison:
        """An output against plain decoding's, judged at the first difference."""
        place = first_difference(plain, other)
        if place is None:
            return Comparison(Sameness.IDENTICAL)
        if place >= min(len(plain), len(other)):
            return cut_short(place, plain, other)
        logits_V = self.logits(prompt, plain[: place + 1])[-1]
        sampler = chooser(self.info, prompt, params, plain[:place])
        return judge(logits_V, sampler, (plain[place], other[place]), self._model.dtype)

    def logits(self, prompt: Ids, output: Ids) -> npt.NDArray[Any]:
        """`[T, V]` raw logits: row i is what `output[i]` is chosen from."""
        (logits_TV,) = self._forward([(*prompt, *output[:-1])], len(output))
        return np.asarray(logits_TV)

    def last_logits(self, texts: Sequence[Ids]) -> npt.NDArray[Any]:
        """`[B, V]` raw logits after each of several texts of one length."""
        batches = [texts[start : start + ROWS] for start in range(0, len(texts), ROWS)]
        return np.concatenate([self._forward(batch, 1)[:, 0] for batch in batches])

    @torch.inference_mode()
    def _forward(self, texts: Sequence[Ids], last: int) -> npt.NDArray[Any]:
        """`[B, last, V]` logits after the last tokens of each text."""
        ids = torch.tensor(texts, device=self._model.device)
        keep = {"logits_to_keep": last} if self._last_only else {}
        logits_BTV = self._model(input_ids=ids, use_cache=False, **keep).logits[:, -last:]
        array: npt.NDArray[Any] = logits_BTV.float().cpu().numpy()
        return array

    def _should_end(self, prompt: Ids, params: SamplingParams, output: Ids) -> int:
        """After how many tokens an output should end that says what this one says; more than it has, if later."""
        ends = {*params.stop_token_ids, *(() if params.ignore_eos else self.info.eos_ids)}
        limits = [params.max_tokens, None if self.info.context is None else self.info.context - len(prompt)]
        limit = min((one for one in limits if one is not None), default=len(output))
        return next((place for place, token in enumerate(output[:limit], 1) if token in ends), limit)
