"""Metrics for Prometheus. Speculation under the names vLLM has for it; what is a rate is left to the reader."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from betoken.engine import TARGET, Event
from betoken.serve.replies import reason_of
from betoken.serve.worker import Ticket

PREFIX = "betoken:"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
POSITIONS = 64  # later ones are counted together

COUNTERS = {
    "spec_decode_num_drafts": "non-empty drafts",
    "spec_decode_num_draft_tokens": "their tokens",
    "spec_decode_num_accepted_tokens": "draft tokens that were accepted",
    "spec_decode_num_accepted_tokens_per_pos": "drafts of which so many tokens were accepted at least, from 0 on",
    "prompt_tokens": "tokens of prompts",
    "generation_tokens": "tokens of answers",
    "prefix_cached_tokens": "prompt tokens that were not read but taken from kept rows",
    "request_success": "answers that ended, or were left (abort)",
    "request_failure": "requests that ended in an error, by status",
}
LABELS = {
    "spec_decode_num_accepted_tokens_per_pos": ("position",),
    "request_success": ("finished_reason",),
    "request_failure": ("status",),
}
HISTOGRAMS = {
    "request_queue_time_seconds": ("until a request's first token, less the time of its own prompt's passes", SECONDS),
    "time_to_first_token_seconds": ("from a request's arrival to its first token", SECONDS),
    "inter_token_latency_seconds": ("between tokens; those of one step share its time", SECONDS),
    "e2e_request_latency_seconds": ("from a request's arrival to its end", SECONDS),
    "request_prompt_tokens": ("tokens of a prompt", COUNTS),
    "request_generation_tokens": ("tokens of an answer", COUNTS),
    "iteration_tokens_total": ("tokens fed in a step that decodes, draft nodes among them", COUNTS),
}
GAUGES = {
    "num_requests_running": "requests that have a row",
    "num_requests_waiting": "requests that have none yet",
    "kv_cache_usage_perc": "share of the memory planned for keys and values that holds something, 0 to 1",
    "kv_cache_bytes": "bytes of keys and values of running rows",
    "kept_prefix_bytes": "bytes held for keys and values of ended rows",
    "policy_budget_nodes": "draft nodes fed in the last step, a row",
    "event_loop_lag_seconds": "how late the event loop came to its last check",
    "event_loop_lag_seconds_max": "the latest it has come since this was last read",
}
NAMES = frozenset(
    {f"{PREFIX}{name}_total" for name in COUNTERS}
    | {PREFIX + name for name in HISTOGRAMS}
    | {PREFIX + name for name in GAUGES}
)


class _Gauges(Collector):
    """Read when somebody asks."""

    def __init__(self, model: str, read: Callable[[], dict[str, float]]) -> None:
        self._model, self._read = model, read

    def collect(self) -> Any:
        values = self._read()
        for name, about in GAUGES.items():
            family = GaugeMetricFamily(PREFIX + name, about, labels=["model_name"])
            family.add_metric([self._model], values.get(name, 0.0))
            yield family


class Metrics:
    """What is counted. `watch` runs in the engine's thread after every step, the rest in the event loop's.

    gauges: values by name, asked for when the metrics are read
    """

    def __init__(self, model: str, gauges: Callable[[], dict[str, float]]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._model = model
        self._counters = {
            name: Counter(PREFIX + name, about, ("model_name", *LABELS.get(name, ())), registry=self._registry)
            for name, about in COUNTERS.items()
        }
        self._plain = {name: one.labels(model) for name, one in self._counters.items() if name not in LABELS}
        self._histograms = {
            name: Histogram(PREFIX + name, about, ("model_name",), registry=self._registry, buckets=buckets).labels(
                model
            )
            for name, (about, buckets) in HISTOGRAMS.items()
        }
        self._positions: list[Any] = []
        self._registry.register(_Gauges(model, gauges))

    def count(self, name: str) -> float:
        """One of `COUNTERS` that has no further labels."""
        return self._registry.get_sample_value(f"{PREFIX}{name}_total", {"model_name": self._model}) or 0.0

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def refused(self, status: int) -> None:
        """A request ended in an error of this status."""
        self._counters["request_failure"].labels(self._model, str(status)).inc()

    def left(self, count: int) -> None:
        """So many requests were aborted, for their client went."""
        self._counters["request_success"].labels(self._model, "abort").inc(count)

    def watch(self, done: Sequence[tuple[Ticket, Event]], now: float) -> None:
        fed = 0
        for ticket, event in done:
            if event.tokens:
                self._said(ticket, event, now)
                fed += (1 + event.drafted) * (ticket.tokens > len(event.tokens))
            if event.finished is not None:
                self._ended(ticket, event, now)
        if fed:
            self._histograms["iteration_tokens_total"].observe(fed)

    def _said(self, ticket: Ticket, event: Event, now: float) -> None:
        count, first = len(event.tokens), ticket.tokens == 0
        ticket.tokens += count
        self._plain["generation_tokens"].inc(count)
        if first:
            waited = max(0.0, now - ticket.arrived)
            self._histograms["time_to_first_token_seconds"].observe(waited)
            self._histograms["request_queue_time_seconds"].observe(max(0.0, waited - event.stats.prefill_s))
            self._plain["prompt_tokens"].inc(len(ticket.request.prompt))
            self._plain["prefix_cached_tokens"].inc(event.stats.cached_tokens)
        else:
            self._histograms["inter_token_latency_seconds"].observe((now - ticket.last) / count)
            self._drafted(event)
        ticket.last = now

    def _drafted(self, event: Event) -> None:
        if not event.drafted:
            return
        accepted = sum(source != TARGET for source in event.sources)
        self._plain["spec_decode_num_drafts"].inc()
        self._plain["spec_decode_num_draft_tokens"].inc(event.drafted)
        self._plain["spec_decode_num_accepted_tokens"].inc(accepted)
        for position in range(min(accepted, POSITIONS)):
            self._at(position).inc()

    def _at(self, position: int) -> Any:
        while len(self._positions) <= position:
            per_position = self._counters["spec_decode_num_accepted_tokens_per_pos"]
            self._positions.append(per_position.labels(self._model, str(len(self._positions))))
        return self._positions[position]

    def _ended(self, ticket: Ticket, event: Event, now: float) -> None:
        if event.failure is not None:
            return
        assert event.finished is not None
        self._counters["request_success"].labels(self._model, reason_of(event.finished)).inc()
        self._histograms["e2e_request_latency_seconds"].observe(max(0.0, now - ticket.arrived))
        self._histograms["request_prompt_tokens"].observe(len(ticket.request.prompt))
        self._histograms["request_generation_tokens"].observe(ticket.tokens)


class Lag:
    """How late the event loop is: it wants to wake up every so often, and looks at the clock when it does."""

    EVERY = 0.01

    def __init__(self) -> None:
        self.last = self._most = 0.0

    async def watch(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(self.EVERY)
            self.last = max(0.0, time.perf_counter() - began - self.EVERY)
            self._most = max(self._most, self.last)

    def most(self) -> float:
        """Since this was last asked."""
        most, self._most = self._most, 0.0
        return most
