"""A model ready to serve: its engine with all drafting methods in it, the engine's thread, what is counted. No FastAPI."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from betoken.engine import Engine
from betoken.errors import ParameterError, PromptError
from betoken.grammar_spec import GrammarSpec
from betoken.llm import LLM
from betoken.methods import spelt
from betoken.params import SamplingParams
from betoken.routing import Routed
from betoken.scheduler import Limits
from betoken.serve.asking import Asked, Reader
from betoken.serve.errors import readable
from betoken.serve.metrics import Lag, Metrics
from betoken.serve.protocol import ChatRequest, Generation
from betoken.serve.settings import Settings
from betoken.serve.worker import Call, Worker
from betoken.speculation import Speculation

LOG = logging.getLogger("betoken.serve")
WARM_UP = "Once upon a time there was a town, and in the town there was a house, and in the house there was a town."
# How often the log says what was done.
REPORT_SECONDS = 10.0
# Bytes of a request.
LARGE = 65_536
# Options of methods that clients may not choose.
COSTLY = frozenset({"load", "memory", "capacity", "pairs"})
# So many spellings of methods are known by heart.
METHODS = 256
NO_NAMESPACE = "\nwarm-up"


class Service:
    """load: the model, called in the engine's thread; the LLM's own engines are not used, and nobody else may use it meanwhile
    plan: what the engine may do at once

    Raises what `load` raises.
    """

    def __init__(self, load: Callable[[], LLM], settings: Settings, plan: Callable[[LLM], Limits]) -> None:
        self.settings, self.lag = settings, Lag()
        self.metrics = Metrics(settings.name, self._gauges)
        self.worker = Worker(
            lambda: self._engine(load(), plan),
            max_queue=settings.max_queue,
            watch=self.metrics.watch,
            left=self.metrics.left,
        )
        self.worker.start()
        self._reader = Reader(self.llm, settings)
        self._known = {self.llm.method}
        # By whether they are large, so that small ones need not wait for large ones.
        self._encoding = [
            ThreadPoolExecutor(1, thread_name_prefix=f"betoken-encode-{size}") for size in ("small", "large")
        ]
        self._watching: list[asyncio.Task[None]] = []

    def _engine(self, llm: LLM, plan: Callable[[LLM], Limits]) -> Engine:
        self.llm, self.limits = llm, plan(llm)
        self.drafting = Routed(llm.drafter, llm.method)
        engine = Engine(llm.target, self.drafting, limits=self.limits, isolate=True)
        self._warm_up(engine)
        return engine

    def _warm_up(self, engine: Engine) -> None:
        """Everything compiled and every buffer there before the first client comes; nothing of it is remembered."""
        self.llm.warm_up()
        for enabled in (True, False):
            params = SamplingParams(max_tokens=24, seed=0, ignore_eos=True)
            ask = self.llm.ask(WARM_UP, params, None, NO_NAMESPACE, Speculation(enabled=enabled))
            engine.add(ask.request(0))
            engine.run(lambda event: None)
        self.llm.grammars.compile(GrammarSpec("json_object"))
        self.drafting.forget()
        engine.rows.prefixes.clear()
        engine.trim()

    @property
    def tokenizer(self) -> Any:
        return self.llm.tokenizer

    @property
    def context(self) -> int | None:
        return self.llm.target.info.context

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.worker.listen(loop)
        self._watching = [loop.create_task(self.lag.watch()), loop.create_task(self._report())]

    async def stop(self) -> None:
        """End the engine's thread; whoever still waits is told."""
        self.worker.draining = True
        await asyncio.to_thread(self.worker.stop)
        for lane in self._encoding:
            lane.shutdown(cancel_futures=True)
        for task in self._watching:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _report(self) -> None:
        """A line in the log now and then, where anything was done."""
        names = ("prompt_tokens", "generation_tokens", "spec_decode_num_drafts", "spec_decode_num_accepted_tokens")
        before = [self.metrics.count(name) for name in names]
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            now = [self.metrics.count(name) for name in names]
            read, said, drafts, accepted = (new - old for new, old in zip(now, before, strict=True))
            before = now
            if read or said:
                running = self.worker.engine.running_rows
                LOG.info(
                    "tokens/s: %.1f of prompts, %.1f of answers; mean acceptance length %.2f; %d requests running, %d waiting",
                    read / REPORT_SECONDS,
                    said / REPORT_SECONDS,
                    1 + accepted / drafts if drafts else 1.0,
                    running,
                    max(0, self.worker.open_requests - running),
                )

    async def read(self, body: Generation, owner: str, size: int) -> Asked:
        """Beside the event loop, one after the other: thirty at once would hold it up. size: of the request, in bytes. Raises APIError,
        ParameterError, PromptError."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._encoding[size > LARGE], self._checked, body, owner)

    def _checked(self, body: Generation, owner: str) -> Asked:
        try:
            asked = self._reader.read(body, owner)
            self._check_method(asked.asks[0].speculation.method or self.llm.method)
            for ask in asked.asks:
                self.worker.engine.check(ask.request(0))
        except PromptError as failure:
            told = readable(failure)
            told.param = "messages" if isinstance(body, ChatRequest) else "prompt"
            raise told from failure
        most, count = self.settings.max_queue + self.limits.rows, len(asked.asks) * asked.asks[0].params.n
        if count > most:
            raise ParameterError(
                "n", asked.asks[0].params.n, f"at most {most} answers in all: no more can even wait here"
            )
        return asked

    def submit(self, asked: Asked) -> Call:
        """Raises APIError."""
        return self.worker.submit(asked.requests())

    def _check_method(self, method: str) -> None:
        """Whether there is such a drafter: one is made, and not kept, for its own is made in the engine's thread."""
        if method in self._known:
            return
        try:
            _, options = spelt(method)
            for option in COSTLY & options.keys():
                raise ParameterError(
                    option, options[option], "no such option here: the server's files and memory are its own"
                )
            self.llm.drafter(method)
        except ParameterError as failure:
            without = failure.name == "draft" and failure.value is None
            why = "this server was started without a draft model" if without else str(failure)
            raise ParameterError("speculation.method", method, f"another one: {why}") from failure
        if len(self._known) < METHODS:
            self._known.add(method)

    async def tokens(self, prompt: str | None, messages: Any, special: bool, size: int) -> list[int]:
        """Raises PromptError."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._encoding[size > LARGE], self._reader.tokens, prompt, messages, special)

    def text(self, tokens: list[int]) -> str:
        """Raises ParameterError."""
        size = self.llm.target.info.vocab_size
        for token in tokens:
            if not 0 <= token < size:
                raise ParameterError("tokens", token, f"token ids from 0 to {size - 1}")
        return str(self.tokenizer.decode(tokens))

    def check_model(self, name: str | None) -> None:
        self._reader.check_model(name)

    def _gauges(self) -> dict[str, float]:
        engine = self.worker.engine
        held, kept = engine.rows.used_bytes, engine.rows.prefixes.nbytes
        running = engine.running_rows
        planned = self.limits.kv_bytes or 0
        return {
            "num_requests_running": running,
            "num_requests_waiting": max(0, self.worker.open_requests - running),
            "kv_cache_usage_perc": held / planned if planned else 0.0,
            "kv_cache_bytes": held,
            "kept_prefix_bytes": kept,
            "policy_budget_nodes": engine.fed_nodes / max(running, 1),
            "event_loop_lag_seconds": self.lag.last,
            "event_loop_lag_seconds_max": self.lag.most(),
        }
