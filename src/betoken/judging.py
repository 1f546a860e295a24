"""A row's draft, its scores and its sampler brought before `verify`, which alone decides what is accepted. No torch."""

from betoken.draft import ROOT, Draft
from betoken.errors import ParameterError
from betoken.noise import ACCEPT, key, uniforms
from betoken.sampling import Law, Sampler
from betoken.targets.base import Scores
from betoken.verify import Verdict, residual, walk


def exactly(sampler: Sampler, scores: Scores, index: int, draft: Draft) -> Verdict:
    """The walk; every visited node moves the sampler on by one token."""

    def emit(node: int) -> int | None:
        token = scores.emit(index, node, sampler)
        if token is not None:
            sampler.push(token)
        return token

    return walk(draft, emit)


def residually(sampler: Sampler, scores: Scores, index: int, draft: Draft) -> Verdict:
    """The classical rule. A node's chance is keyed by the step's first position and the node: no step has another's,
    though positions are drafted again after a rejection."""
    chances = uniforms(key(sampler.noise.seed, sampler.noise.sample, sampler.position, ACCEPT), len(draft))

    def law_at(node: int) -> Law:
        ahead = [draft.tokens[step] for step in draft.path_to(node)]
        return sampler.probabilities(scores.logits(index, node), ahead)

    verdict = residual(draft, law_at, lambda node: float(chances[node]), sampler.replace)
    for place, (node, token) in enumerate(zip((ROOT, *verdict.path), verdict.tokens, strict=True)):
        logits_V = scores.logits(index, node)
        if sampler.stuck(logits_V):  # the output ends here; what follows was judged by a law without masks
            return Verdict(verdict.path[:place], verdict.tokens[:place])
        sampler.note(logits_V, token)
        sampler.push(token)
    return verdict


def check_drawn(draft: Draft, vocab_size: int) -> Draft:
    """Refuse a drawn draft with tokens that `clip` would drop for their value."""
    if draft.probs is None:
        return draft
    if draft.probs.shape != (len(draft), vocab_size):
        raise ParameterError(
            "probs", draft.probs.shape, f"shape {(len(draft), vocab_size)}: one law over the target's vocabulary a node"
        )
    for token in draft.tokens:
        if not 0 <= token < vocab_size:
            raise ParameterError("draft token", token, f"a token id from 0 to {vocab_size - 1} where drafts are drawn")
    return draft
