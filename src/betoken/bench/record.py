"""Record the answers to a file of prompts: models and prompts as `compare` takes them, one conversation a prompt."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from betoken import demo
from betoken.bench.compare import Setup, item_of, pair_of
from betoken.bench.measure import Item, batches
from betoken.bench.workloads import first_of_each, read
from betoken.llm import LLM
from betoken.outputs import Result
from betoken.recording import Recording, of_result, spoken_name
from betoken.trace import Header


@dataclass(slots=True)
class Recorded:
    """What came of it, in tokens; `complete` is False where somebody interrupted it."""

    asked: int
    answers: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    complete: bool = True


class Recorder:
    """A loaded model and tokenised prompts. Close it, or use it in a `with` statement.

    setup: `methods` holds one name at most, `plan` one temperature
    Raises PromptError, and what `LLM` raises.
    """

    def __init__(self, setup: Setup) -> None:
        self._plan = setup.plan
        self._params = setup.plan.params(setup.plan.temperatures[0])
        workloads = first_of_each(read(setup.prompts or demo.prompts()), setup.limit)
        model, draft = pair_of(setup)
        method = next(iter(setup.methods), None)
        self.llm = LLM(
            model, draft, method=method, dtype=setup.dtype, device=setup.device, max_rows=setup.plan.batch_size
        )
        self._name = "embedded target" if setup.model is None else spoken_name(model)
        try:
            self.items = [item_of(self.llm, workload) for workload in workloads]
        except BaseException:
            self.llm.close()
            raise

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        self.llm.close()

    def run(self, path: Path, tell: Callable[[int], None] = lambda _: None) -> Recorded:
        """Answer and append, batch by batch, in the order of the prompts; `tell` hears how many answers were added.

        Ctrl-C ends it early. A file without an answer is removed. Raises TraceError, see `Recording`.
        """
        done = Recorded(len(self.items))
        info = self.llm.target.info
        with Recording(path, Header(self._name, info.vocab_size, tuple(sorted(info.eos_ids)))) as recording:
            try:
                for batch in batches(self.items, self._plan.batch_size):
                    self._append(recording, batch, self.llm.generate([item.ids for item in batch], self._params), done)
                    tell(len(batch))
            except KeyboardInterrupt:
                done.complete = False
        return done

    def _append(self, recording: Recording, batch: Iterable[Item], results: Iterable[Result], done: Recorded) -> None:
        context = self.llm.target.info.context
        for item, result in zip(batch, results, strict=True):
            recording.add(of_result(item.id, item.group, result, self._params, context))
            done.answers += 1
            done.prompt_tokens += len(result.prompt_token_ids)
            done.output_tokens += len(result.token_ids)
