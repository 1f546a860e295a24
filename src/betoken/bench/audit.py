"""Does speculation change what a model says? Every method against plain decoding, plain decoding against `transformers`.

First everything is decoded, then the models go, and a fresh copy of the target judges what was said.
"""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers

import betoken
from betoken import demo
from betoken.bench.audit_cases import (
    CONSTRAINTS,
    LAW_REWARDS,
    Case,
    Setup,
    chosen,
    constraints,
    filters,
    reference_of,
    repetitive,
)
from betoken.bench.audit_found import Answer, Draws, Failure, Judged, Report
from betoken.bench.audit_law import LEAST_EXPECTED, LawTest, check_law, joint_law
from betoken.bench.audit_reference import Reference
from betoken.bench.cells import PLAIN
from betoken.bench.measure import Ids, Item
from betoken.bench.tie import Comparison, chooser
from betoken.bench.workloads import Workload, first_of_each, read
from betoken.errors import ParameterError, PromptError
from betoken.llm import LLM
from betoken.methods import AUTO, spelt
from betoken.params import SEED_LIMIT, SamplingParams

# Six tokens: long enough that tokens come again, so that a count of them that is one token late shows.
LAW_PROMPTS, LAW_CONTEXT, LAW_LENGTH = 3, 48, 6
LAW_TEMPERATURE = 0.5  # low, so that few samples fill cells of several tokens
DRAWS_AT_ONCE = 512
ALPHA = 0.001  # of all tests of a law together
NO_TREES = "drafts that branch were not audited: the check at load has found that this model cannot take them"
Tell = Callable[[str], None]
Batch = Sequence[tuple[int, Item]]  # (seed, prompt)


class Audit:
    """A loaded model and tokenised prompts, ready to be audited once. Close it, or use it in a `with` statement.

    Raises ModelNotFoundError, UnsupportedModelError, ParameterError, PromptError.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.cases = setup.cases()
        setup.check()
        workloads = first_of_each(read(setup.prompts or demo.prompts()), setup.limit)
        self._model, self._draft = _pair(setup)
        self.methods = chosen(setup.methods, with_draft=self._draft is not None)
        self._failures: list[Failure] = []
        self._plain: dict[tuple[str, str], Ids] = {}  # case and prompt -> what plain decoding says
        self.llm = self._load("exact")
        try:
            self.items = [_item(self.llm, workload) for workload in workloads]
        except BaseException:
            self.close()
            raise

    def _load(self, acceptance: str) -> LLM:
        setup = self.setup
        return LLM(
            self._model,
            self._draft,
            method=self.methods[-1] if acceptance == "exact" else PLAIN,
            dtype=setup.dtype,
            device=setup.device,
            acceptance=acceptance,
            max_rows=32 if acceptance == "residual" else max(setup.batch_sizes),
        )

    def close(self) -> None:
        """Let the models go."""
        self.llm.close()

    def __enter__(self) -> "Audit":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def calls(self) -> int:
        """How many steps `run` will tell about."""
        return 2 * sum(len(batch) for *_, batch in self._schedule()) + 2 * len(self._draws())

    def run(self, tell: Tell = lambda _: None) -> Report:
        """Decode and judge. Ctrl-C ends the first part early and goes on to the second; once more ends that, too.

        An exception out of what is audited is a finding. Raises ParameterError for an option no method has.
        """
        answers: list[Answer] = []
        draws: list[Draws] = []
        judged: list[Judged] = []
        laws: list[Draws] = []
        header, complete = self.header(), False
        if self.setup.model is None and not header["can_branch"]:
            # The embedded pair is known to take trees: here it is our mistake.
            self._failures.append(Failure("loading", NO_TREES))
        with suppress(KeyboardInterrupt):
            self._decode(answers, tell)
            self._draw(draws, tell)
            complete = True
        done = False
        with suppress(KeyboardInterrupt):
            self._judge(answers, draws, judged, laws, tell)
            done = True
        return Report(judged, laws, header, self.setup, complete and done, self._failures)

    @contextmanager
    def _noting(self, where: str) -> Iterator[None]:
        """Whatever is raised inside is a finding, and the audit goes on."""
        try:
            yield
        except ParameterError:
            raise
        except Exception as failure:
            self._failures.append(Failure(where, _printable(f"{type(failure).__name__}: {failure}")))

    def _schedule(self) -> Iterator[tuple[Case, int, str, Batch]]:
        """Case, batch size, method, and one batch; what is compared with comes first."""
        numbered = [(self.setup.seed_of(place), item) for place, item in enumerate(self.items)]
        pairs = [(size, method) for size in self.setup.batch_sizes for method in self.methods]
        for case in self.cases:
            for size, method in dict.fromkeys([(1, PLAIN), *pairs]):
                for start in range(0, len(numbered), size):
                    yield case, size, method, numbered[start : start + size]

    def _decode(self, answers: list[Answer], tell: Tell) -> None:
        """A method that raises is left out for the rest of that case and batch size: it would only say so again."""
        broken: set[tuple[str, int, str]] = set()
        for case, size, method, batch in self._schedule():
            key = (case.name, size, method)
            if key not in broken:
                before = len(self._failures)
                with self._noting(f"{method}, {case.name}, batch size {size}, {batch[0][1].id}"):
                    answers += self._answers(case, size, method, batch)
                if len(self._failures) > before:
                    broken.add(key)
                    self._reload()
            for _ in batch:
                tell(f"{case.name} · batch size {size} · {method}")

    def _reload(self) -> None:
        """What was raised may have left anything behind."""
        with suppress(Exception):
            self.llm.close()
        self.llm = self._load("exact")

    def _answers(self, case: Case, size: int, method: str, batch: Batch) -> list[Answer]:
        params = [self._params(case, seed, item) for seed, item in batch]
        vocab_size = self.llm.target.info.vocab_size
        # No method but those that draft from it takes any notice of a reference.
        expected = [reference_of(self._plain.get((case.name, item.id), ()), vocab_size) for _, item in batch]
        results = self.llm.generate([item.ids for _, item in batch], params, method=method, reference=expected)
        made = [
            Answer(case, size, method, item, one, result.token_ids, *_counted(result.stats))
            for (_, item), one, result in zip(batch, params, results, strict=True)
        ]
        self._plain |= {(case.name, one.item.id): one.token_ids for one in made if one.is_reference}
        return made

    def _params(self, case: Case, seed: int, item: Item) -> SamplingParams:
        params = case.params.replaced(seed=seed)
        if not case.constrained:
            return params
        unconstrained = next(one.name for one in self.cases if one.params == case.params)
        return constraints(params, self._plain.get((unconstrained, item.id), item.ids), self.llm.target.info)

    def _draws(self) -> list[Draws]:
        """What residual mode is tested on: the ends of some prompts, sampled with rewards; one with constraints, too."""
        if all(case.params.greedy for case in self.cases) or not self.setup.samples:
            return []
        room = self.llm.target.info.context
        keep = max(LAW_CONTEXT if room is None else min(LAW_CONTEXT, room - LAW_LENGTH - 3), 1)
        ends = repetitive([replace(item, ids=item.ids[-keep:]) for item in self.items], LAW_PROMPTS, 2)
        params = SamplingParams(
            temperature=LAW_TEMPERATURE, max_tokens=LAW_LENGTH + 3, ignore_eos=True, seed=self.setup.seed
        )
        ways = [(item, "rewards", params.replaced(**LAW_REWARDS)) for item in ends]
        ways.append((ends[0], CONSTRAINTS, params.replaced(**filters(ends[0].ids))))
        drawing = [
            method for method in self.methods if spelt(method)[0] not in (PLAIN, AUTO)
        ]  # auto is not for this mode
        return [Draws(method, *way) for method in drawing for way in ways]

    def _draw(self, draws: list[Draws], tell: Tell) -> None:
        wanted = self._draws()
        self.llm.close()
        if not wanted:
            return
        llm = self._load("residual")
        try:
            for one in wanted:
                if self._drawn(llm, one):
                    draws.append(one)
                else:
                    llm.close()
                    llm = self._load("residual")
                tell(f"residual mode · {one.method}")
        finally:
            llm.close()

    def _drawn(self, llm: LLM, one: Draws) -> bool:
        """Fill in outputs; False where that failed. A method that residual mode refuses is no bug."""
        where = f"{one.method}, residual mode, {one.sampling}, {one.item.id}"
        before = len(self._failures)
        try:
            with self._noting(where):
                _sample(llm, one, self.setup.samples)
        except ParameterError as refusal:
            self._failures.append(Failure(where, str(refusal), bug=False))
        return len(self._failures) == before

    def _judge(
        self, answers: Sequence[Answer], draws: Sequence[Draws], judged: list[Judged], laws: list[Draws], tell: Tell
    ) -> None:
        self.llm.close()
        info = self.llm.info
        reference = Reference(self._model, self.llm.target.info, dtype=info.dtype, device=info.device)
        for answer in answers:
            plain = self._plain.get((answer.case.name, answer.item.id))
            with self._noting(f"judging {answer.method}, {answer.case.name}, {answer.item.id}"):
                if plain is not None:
                    found = _verdict(reference, answer, plain)
                    judged.append(Judged(answer, found, self._texts(found)))
            tell(f"judging · {answer.case.name} · {answer.method}")
        for one in draws:
            with self._noting(f"judging {one.method}, residual mode, {one.item.id}"):
                one.test = _test(reference, one, ALPHA / len(self._draws()))
                laws.append(one)
            tell(f"judging · residual mode · {one.method}")

    def _texts(self, found: Comparison) -> tuple[str, str] | None:
        if found.tokens is None:
            return None
        one, other = ("(end)" if token is None else self.llm.tokenizer.decode([token]) for token in found.tokens)
        return one, other

    def header(self) -> dict[str, Any]:
        """What was audited, with what. The embedded models go by their names, not by where they lie."""
        embedded = {"model": "embedded target"} if self.setup.model is None else {}
        if self.setup.model is None and self.setup.draft is None:
            embedded["draft"] = "embedded draft model"
        can_branch = self.llm.target.info.can_branch
        return {
            "model": {**asdict(self.llm.info), **embedded},
            "can_branch": can_branch,
            "notes": [] if can_branch else [NO_TREES],
            "betoken": betoken.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            "prompts": len(self.items),
        }


def _pair(setup: Setup) -> tuple[str, str | None]:
    if setup.model is not None:
        return setup.model, setup.draft
    model, draft = demo.pair()
    return model, setup.draft or draft


def _item(llm: LLM, workload: Workload) -> Item:
    """A tokenised prompt: text, token ids, or a conversation."""
    prompt: Any = workload.messages or workload.prompt
    chat = not isinstance(prompt, str) and isinstance(prompt[0], Mapping)
    ids = tuple(llm.chat_prompt(prompt) if chat else llm.token_ids(prompt))
    context = llm.target.info.context
    if context is not None and len(ids) >= context:
        raise PromptError(f"prompt {workload.id} has {len(ids)} tokens; {llm.info.model} has room for {context - 1}")
    return Item(_printable(workload.id), workload.group, ids)


def _printable(text: str) -> str:
    """With escapes for halves of characters, which no terminal takes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _counted(stats: Any) -> tuple[int, int]:
    """Tokens drafted, and accepted."""
    return stats.draft_tokens, stats.accepted_tokens


def _sample(llm: LLM, draws: Draws, count: int) -> None:
    """Fill in the first tokens of `count` outputs."""
    usual = SamplingParams(max_tokens=draws.params.max_tokens, ignore_eos=True)
    said = llm.generate(draws.item.ids, usual, method=PLAIN).token_ids
    expected = reference_of(said, llm.target.info.vocab_size)
    for start in range(0, count, DRAWS_AT_ONCE):
        seed = ((draws.params.seed or 0) + start) % SEED_LIMIT
        params = draws.params.replaced(n=min(DRAWS_AT_ONCE, count - start), seed=seed)
        result = llm.generate(draws.item.ids, params, method=draws.method, reference=expected)
        draws.outputs.extend(output.token_ids[:LAW_LENGTH] for output in result.outputs)
        drafted, accepted = _counted(result.stats)
        draws.drafted += drafted
        draws.accepted += accepted


def _verdict(reference: Reference, answer: Answer, plain: Ids) -> Comparison:
    if answer.is_reference:
        return reference.check(answer.item.ids, answer.params, answer.token_ids)
    return reference.compare(answer.item.ids, answer.params, plain, answer.token_ids)


def _test(reference: Reference, draws: Draws, alpha: float) -> LawTest:
    """Every law from a sampler of its own that was told the tokens one by one: what builds laws ahead of them is on trial."""

    def laws_after(starts: Sequence[Ids]) -> list[npt.NDArray[np.float64]]:
        logits_BV = reference.last_logits([(*draws.item.ids, *start) for start in starts])
        samplers = [chooser(reference.info, draws.item.ids, draws.params, start) for start in starts]
        return [sampler.probabilities(row) for sampler, row in zip(samplers, logits_BV, strict=True)]

    law = joint_law(laws_after, LAW_LENGTH, LEAST_EXPECTED / len(draws.outputs))
    return check_law(draws.outputs, law, alpha)
