"""Does speculation change what a model says? Every method against plain decoding, plain decoding against `transformers`.

First everything is decoded, then the models go, and a fresh copy of the target judges what was said.
"""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers

import betoken
from betoken import demo
from betoken.bench.audit_law import LEAST_EXPECTED, LawTest, check_law, joint_law
from betoken.bench.audit_reference import Reference
from betoken.bench.cells import PLAIN
from betoken.bench.measure import Ids, Item, heat
from betoken.bench.tie import Comparison, Sameness, chooser
from betoken.bench.workloads import first_of_each, read
from betoken.errors import BetokenError, ParameterError, PromptError
from betoken.llm import LLM
from betoken.methods import spelt
from betoken.params import SamplingParams

TREE = "draft:k=4:width=2"  # beside `draft`, so that branching trees are audited, too
# Strong enough that a count that is one token late changes what is said; rewards, since they bring repeats about.
HISTORY = {
    "penalties": {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 1.0},
    "rewards": {"presence_penalty": -0.3, "frequency_penalty": -0.5},
}
LAW_PROMPTS, LAW_CONTEXT, LAW_LENGTH = 2, 48, 4
LAW_TEMPERATURE = 0.5  # low, so that few samples fill cells of several tokens
DRAWS_AT_ONCE = 512
ALPHA = 0.001  # of all tests of a law together
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Case:
    """One way of sampling, and what the table calls it."""

    name: str
    params: SamplingParams


@dataclass(frozen=True, slots=True)
class Setup:
    """What is audited. No model means the embedded pair, no prompts the embedded ones, no methods all of them.

    limit:   at most so many prompts of each group; None for all
    seed:    of the first prompt; the next one has the next seed
    samples: how many outputs residual mode is judged by, per method and prompt; 0 leaves it out
    """

    model: str | None = None
    draft: str | None = None
    methods: tuple[str, ...] = ()
    prompts: Path | None = None
    limit: int | None = None
    max_tokens: int = 64
    batch_sizes: tuple[int, ...] = (1, 4)
    temperatures: tuple[float, ...] = (0.0, 1.0)
    dtype: str = "auto"
    device: str = "auto"
    seed: int = 0
    samples: int = 500

    def cases(self) -> list[Case]:
        """Every temperature, and the highest again with parameters that look back. Raises ParameterError."""
        made = [
            Case(heat(value), SamplingParams(temperature=value, max_tokens=self.max_tokens, seed=self.seed))
            for value in dict.fromkeys(self.temperatures)
        ]
        hottest = max(made, key=lambda case: case.params.temperature)
        changed = [Case(f"{hottest.name}, {name}", hottest.params.replaced(**HISTORY[name])) for name in HISTORY]
        return [*made, *changed]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one method said to one prompt."""

    case: Case
    batch_size: int
    method: str
    item: Item
    seed: int
    token_ids: Ids

    @property
    def is_reference(self) -> bool:
        """Whether it is what the others are compared with."""
        return self.method == PLAIN and self.batch_size == 1

    @property
    def params(self) -> SamplingParams:
        return self.case.params.replaced(seed=self.seed)


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer and its verdict. `texts` are the two tokens where it parts from what was expected."""

    answer: Answer
    found: Comparison
    texts: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Draws:
    """Residual-mode outputs of one method after one prompt, and what came of their test."""

    method: str
    item: Item
    params: SamplingParams
    outputs: list[Ids] = field(default_factory=list)
    test: LawTest | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it. `complete` is False where somebody interrupted the audit."""

    judged: list[Judged]
    laws: list[Draws]
    header: Mapping[str, Any]
    setup: Setup
    complete: bool

    @property
    def bugs(self) -> int:
        """How many answers are wrong, and how many laws."""
        wrong = sum(one.found.sameness is Sameness.DIFFERENT for one in self.judged)
        return wrong + sum(law.test is not None and law.test.wrong for law in self.laws)


class Audit:
    """A loaded model and tokenised prompts, ready to be audited once. Close it, or use it in a `with` statement.

    Raises ModelNotFoundError, UnsupportedModelError, ParameterError, PromptError.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.cases = setup.cases()
        _check(setup)
        workloads = first_of_each(read(setup.prompts or demo.prompts()), setup.limit)
        self._model, self._draft = _pair(setup)
        self.methods = chosen(setup.methods, with_draft=self._draft is not None)
        self.llm = self._load("exact", max(setup.batch_sizes))
        try:
            self.items = [_item(self.llm, workload.id, workload.messages or workload.prompt) for workload in workloads]
        except BaseException:
            self.close()
            raise

    def _load(self, acceptance: str, rows: int) -> LLM:
        setup, first = self.setup, self.methods[-1]
        return LLM(
            self._model,
            self._draft,
            method=first,
            dtype=setup.dtype,
            device=setup.device,
            acceptance=acceptance,
            max_rows=rows,
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
        """Decode and judge. Ctrl-C ends the first part early and goes on to the second; once more ends that, too."""
        answers: list[Answer] = []
        draws: list[Draws] = []
        judged: list[Judged] = []
        laws: list[Draws] = []
        complete = False
        with suppress(KeyboardInterrupt):
            self._decode(answers, tell)
            self._draw(draws, tell)
            complete = True
        with suppress(KeyboardInterrupt):
            self._judge(answers, draws, judged, laws, tell)
            return Report(judged, laws, self.header(), self.setup, complete)
        return Report(judged, laws, self.header(), self.setup, complete=False)

    def _schedule(self) -> Iterator[tuple[Case, int, str, Sequence[tuple[int, Item]]]]:
        """Case, batch size, method, and one batch of (seed, prompt); what is compared with comes first."""
        numbered = [*enumerate(self.items, self.setup.seed)]
        pairs = [(size, method) for size in self.setup.batch_sizes for method in self.methods]
        for case in self.cases:
            for size, method in dict.fromkeys([(1, PLAIN), *pairs]):
                for start in range(0, len(numbered), size):
                    yield case, size, method, numbered[start : start + size]

    def _decode(self, answers: list[Answer], tell: Tell) -> None:
        for case, size, method, batch in self._schedule():
            params = [case.params.replaced(seed=seed) for seed, _ in batch]
            results = self.llm.generate([item.ids for _, item in batch], params, method=method)
            for (seed, item), result in zip(batch, results, strict=True):
                answers.append(Answer(case, size, method, item, seed, result.token_ids))
                tell(f"{case.name} · batch size {size} · {method}")

    def _draws(self) -> list[Draws]:
        """What residual mode is tested on: the ends of the first prompts, sampled with history."""
        last = self.cases[-1].params
        if last.greedy or not self.setup.samples:
            return []
        params = last.replaced(temperature=LAW_TEMPERATURE, max_tokens=LAW_LENGTH + 3, ignore_eos=True)
        room = self.llm.target.info.context
        keep = LAW_CONTEXT if room is None else min(LAW_CONTEXT, room - LAW_LENGTH - 3)
        ends = [Item(item.id, item.group, item.ids[-max(keep, 1) :]) for item in self.items[:LAW_PROMPTS]]
        return [Draws(method, item, params) for method in self.methods if method != PLAIN for item in ends]

    def _draw(self, draws: list[Draws], tell: Tell) -> None:
        wanted = self._draws()
        self.llm.close()
        if not wanted:
            return
        with self._load("residual", 32) as llm:
            for one in wanted:
                one.outputs.extend(_sampled(llm, one, self.setup.samples))
                draws.append(one)
                tell(f"residual mode · {one.method}")

    def _judge(
        self, answers: Sequence[Answer], draws: Sequence[Draws], judged: list[Judged], laws: list[Draws], tell: Tell
    ) -> None:
        self.llm.close()
        info = self.llm.info
        reference = Reference(self._model, self.llm.target.info, dtype=info.dtype, device=info.device)
        plain = {(one.case.name, one.item.id): one.token_ids for one in answers if one.is_reference}
        for answer in answers:
            found = _verdict(reference, answer, plain[answer.case.name, answer.item.id])
            judged.append(Judged(answer, found, self._texts(found)))
            tell(f"judging · {answer.case.name} · {answer.method}")
        for one in draws:
            laws.append(replace(one, test=_test(reference, one, ALPHA / len(self._draws()))))
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
        return {
            "model": {**asdict(self.llm.info), **embedded},
            "betoken": betoken.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            "prompts": len(self.items),
        }


def chosen(names: Sequence[str], *, with_draft: bool) -> list[str]:
    """The methods to audit, plain decoding first. Raises ParameterError, BetokenError."""
    known = [name for name in LLM.methods() if name != "draft" or with_draft]
    wanted = [*dict.fromkeys(names)] or [*known, *[TREE] * with_draft]
    if any(spelt(name)[0] == "draft" for name in wanted) and not with_draft:
        raise BetokenError(
            "the method draft needs a draft model; name one with --draft, or leave draft out of --methods"
        )
    return [PLAIN, *(name for name in wanted if name != PLAIN)]


def _check(setup: Setup) -> None:
    for size in setup.batch_sizes:
        if size < 1:
            raise ParameterError("batch_size", size, "a whole number of at least 1")
    if setup.samples and setup.samples < 100:
        raise ParameterError("samples", setup.samples, "at least 100, or 0 to leave residual mode out")


def _pair(setup: Setup) -> tuple[str, str | None]:
    if setup.model is not None:
        return setup.model, setup.draft
    model, draft = demo.pair()
    return model, setup.draft or draft


def _item(llm: LLM, name: str, prompt: Any) -> Item:
    """A tokenised prompt: text, token ids, or a conversation."""
    chat = not isinstance(prompt, str) and isinstance(prompt[0], Mapping)
    ids = tuple(llm.chat_prompt(prompt) if chat else llm.token_ids(prompt))
    context = llm.target.info.context
    if context is not None and len(ids) >= context:
        raise PromptError(f"prompt {name} has {len(ids)} tokens; {llm.info.model} has room for {context - 1}")
    return Item(name, "", ids)


def _sampled(llm: LLM, draws: Draws, count: int) -> Iterator[Ids]:
    """The first tokens of `count` outputs."""
    for start in range(0, count, DRAWS_AT_ONCE):
        seed = (draws.params.seed or 0) + start
        params = draws.params.replaced(n=min(DRAWS_AT_ONCE, count - start), seed=seed)
        for output in llm.generate(draws.item.ids, params, method=draws.method).outputs:
            yield output.token_ids[:LAW_LENGTH]


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
