"""The engine's own thread, and the way from and to the event loop. Nothing here waits for the other side.

What a step did is handed over once, for all requests together: one wake-up of the event loop a step.
"""

import asyncio
import copy
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from betoken.engine import Engine, Event, Request
from betoken.serve.errors import APIError, EngineDiedError, ServerBusyError, readable
from betoken.serve.heap import give_back
from betoken.stats import Stats
from betoken.stops import FinishReason

LOG = logging.getLogger("betoken.serve")
# Without work for so long, memory is given back.
IDLE_SECONDS = 5.0
ENDED = "the server has ended; ask another one"


@dataclass(frozen=True, slots=True)
class Part:
    """What one step did to one of a call's requests; nothing in it changes any more. `stats` is there in the last part."""

    index: int
    event: Event
    stats: Stats | None = None

    @property
    def finished(self) -> FinishReason | None:
        return self.event.finished


@dataclass(slots=True, eq=False)
class Ticket:
    """One request on its way. The times are the engine thread's: when it was taken, when its last token came."""

    call: "Call"
    index: int
    request: Request
    arrived: float
    seq_id: int = -1
    last: float = 0.0
    tokens: int = 0


class Call:
    """What one HTTP request asks of the engine: some requests, and what comes of them, in order."""

    def __init__(self, worker: "Worker", requests: Sequence[Request]) -> None:
        self._worker = worker
        self._queue: asyncio.Queue[Part | APIError] = asyncio.Queue()
        now = worker.clock()
        self.tickets = [Ticket(self, index, request, now) for index, request in enumerate(requests)]
        self._left = len(self.tickets)
        self._first: Part | APIError | None = None

    def put(self, part: Part | APIError) -> None:
        """From the event loop's thread only."""
        self._queue.put_nowait(part)

    async def begun(self, seconds: float) -> None:
        """Wait for the first part, so long at most. Raises APIError where that is an error."""
        try:
            async with asyncio.timeout(seconds):
                self._first = await self._queue.get()
        except TimeoutError:
            return
        first = self._first
        failure = first if isinstance(first, APIError) else first.event.failure
        if failure is not None:
            self.close()
            raise readable(failure)

    async def parts(self, alive: float = float("inf")) -> AsyncGenerator[Part | None]:
        """All parts. None where there was nothing for so many seconds. Raises APIError; closes itself."""
        try:
            while self._left:
                part = await self._next(alive)
                if isinstance(part, APIError):
                    raise part
                if part is not None and part.finished is not None:
                    self._left -= 1
                    if part.event.failure is not None:
                        raise readable(part.event.failure)
                yield part
        finally:
            self.close()

    async def _next(self, alive: float) -> Part | APIError | None:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if not self._queue.empty():
            return self._queue.get_nowait()
        try:
            async with asyncio.timeout(None if alive == float("inf") else alive):
                return await self._queue.get()
        except TimeoutError:
            return None

    def close(self) -> None:
        """Nobody waits any more: what is unfinished is aborted."""
        if self._left:
            self._worker.cancel(self.tickets)


Watcher = Callable[[Sequence[tuple[Ticket, Event]], float], None]


class Worker:
    """Steps an engine in a thread of its own.

    build:   makes the engine, one that isolates errors, in the thread, for whatever computes with torch has to stay there: as soon as
             another thread of the process has computed anything in parallel, OpenMP's threads sleep between two operations instead
             of spinning, and a step of a small model takes twice as long
    watch:   told after each step what came of it, and when (metrics)
    left:    told how many requests were aborted
    """

    def __init__(
        self,
        build: Callable[[], Engine],
        *,
        max_queue: int,
        watch: Watcher | None = None,
        left: Callable[[int], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.engine: Engine
        self.clock = clock
        self._max_queue, self._build, self._watch, self._left = max_queue, build, watch, left
        self._inbox: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self._tickets: dict[int, Ticket] = {}
        self._open = 0
        self._lock = threading.Lock()
        self.failure: BaseException | None = None
        self.draining = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="betoken-engine", daemon=True)

    def start(self) -> None:
        """Start the thread; returns when there is an engine. Raises what `build` raised."""
        self._thread.start()
        self._ready.wait()
        if self.failure is not None:
            raise self.failure

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """The event loop that is told what comes of calls."""
        self._loop = loop

    def stop(self) -> None:
        """End the thread after its step; waits for it."""
        self._inbox.put(("stop", None))
        if self._thread.is_alive():
            self._thread.join()

    def abandon(self) -> None:
        """Tell whoever still waits that the server ends now. From any thread, and from handlers of signals."""
        self._inbox.put(("abandon", None))

    @property
    def alive(self) -> bool:
        return self.failure is None and self._thread.is_alive()

    @property
    def open_requests(self) -> int:
        """Taken and not ended."""
        return self._open

    def submit(self, requests: Sequence[Request]) -> Call:
        """Have these decoded. Raises ServerBusyError, EngineDiedError."""
        if self.failure is not None:
            raise EngineDiedError(self.failure)
        if self.draining:
            raise ServerBusyError("the server is about to end; ask another one")
        with self._lock:
            if self._open + len(requests) > self._max_queue + self.engine.limits.rows:
                raise ServerBusyError(f"{self._open} requests are being served or wait already; try again later", 429)
            self._open += len(requests)
        call = Call(self, requests)
        for ticket in call.tickets:
            self._inbox.put(("add", ticket))
        if self.failure is not None:  # it died meanwhile, and nobody reads the inbox any more
            raise EngineDiedError(self.failure)
        return call

    def cancel(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            self._inbox.put(("cancel", ticket))

    def _run(self) -> None:
        try:
            self.engine = self._build()
            self._ready.set()
            while self._hear():
                if self.engine.unfinished:
                    self._step()
            self._tell_all(ServerBusyError(ENDED))
        except BaseException as failure:
            if self._ready.is_set():
                LOG.exception("the engine has died")
            self._die(failure)
        finally:
            self._ready.set()

    def _hear(self) -> bool:
        """Everything in the inbox; without work, wait for something. False: the end."""
        patience: float | None = IDLE_SECONDS
        while True:
            idle = not self.engine.unfinished
            try:
                what, ticket = self._inbox.get(idle, patience if idle else None)
            except Empty:
                if not idle:
                    return True
                self.engine.trim()
                give_back()
                patience = None  # once is enough
                continue
            if what == "stop":
                return False
            if what == "abandon":
                self._abandon()
            else:
                (self._add if what == "add" else self._abort)(ticket)

    def _add(self, ticket: Ticket) -> None:
        try:
            ticket.seq_id = self.engine.add(ticket.request)
        except Exception as failure:
            self._ended(1)
            self._tell([(ticket.call, readable(failure))])
            return
        self._tickets[ticket.seq_id] = ticket

    def _abort(self, ticket: Ticket) -> None:
        if self._tickets.pop(ticket.seq_id, None) is not None:
            self.engine.abort(ticket.seq_id)
            self._ended(1)
            if self._left is not None:
                self._left(1)

    def _abandon(self) -> None:
        calls = {ticket.call for ticket in self._tickets.values()}
        for ticket in [*self._tickets.values()]:
            self._abort(ticket)
        self._tell([(call, ServerBusyError(ENDED)) for call in calls])

    def _ended(self, count: int) -> None:
        with self._lock:
            self._open -= count

    def _step(self) -> None:
        events = self.engine.step()
        done = [(self._tickets[event.seq_id], event) for event in events]
        self._tell([(ticket.call, _part(ticket, event)) for ticket, event in done])
        if self._watch is not None:
            self._watch(done, self.clock())
        finished = [event.seq_id for _, event in done if event.finished is not None]
        for seq_id in finished:
            del self._tickets[seq_id]
        if finished:
            self._ended(len(finished))

    def _tell(self, parts: Sequence[tuple[Call, Part | APIError]]) -> None:
        if parts and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_deliver, parts)

    def _die(self, failure: BaseException) -> None:
        self.failure = failure
        self._tell_all(EngineDiedError(failure))

    def _tell_all(self, why: APIError) -> None:
        """Whoever waits, here or in the inbox, waits in vain."""
        calls = {ticket.call for ticket in self._tickets.values()}
        while not self._inbox.empty():
            what, ticket = self._inbox.get_nowait()
            calls |= {ticket.call} if what == "add" else set()
        self._tell([(call, why) for call in calls])


def _deliver(parts: Sequence[tuple[Call, Part | APIError]]) -> None:
    for call, part in parts:
        call.put(part)


def _part(ticket: Ticket, event: Event) -> Part:
    return Part(ticket.index, event, None if event.finished is None else copy.deepcopy(event.stats))
