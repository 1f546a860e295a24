"""The training loop of target and draft: one process a core, exact resume, a schedule in tokens."""

from __future__ import annotations

import os
import random
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from model import TinyLlama, weighted_loss
from optim import Optimiser
from presets import Preset, Shape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from seeding import seed_copying
from torch import Tensor

SHORT = {256: 0.50, 512: 0.38, 1024: 0.12}
LONG = {512: 0.30, 1024: 0.15, 2048: 0.35, 4096: 0.20}
SAVE_SECONDS = 180.0


@dataclass(frozen=True)
class Job:
    """What to train."""

    name: str
    shape: Shape
    out: str
    tokens: int
    preset: Preset
    device: str = "cpu"
    plain_tokens: int = 0
    stop_at: int | None = None
    threads: int = 1

    @property
    def checkpoint(self) -> Path:
        """Where its state lies."""
        return Path(self.out) / f"{self.name}.pt"


@dataclass
class State:
    """What a resume needs besides weights and optimiser."""

    tokens: int = 0
    step: int = 0
    total: int = 0
    decay_start: int = 0
    rows: dict[int, int] = field(default_factory=dict)
    seconds: float = 0.0
    seeded: bool = False


class Windows:
    """Packed windows on disk, dealt in order."""

    def __init__(self, folder: Path) -> None:
        self.ids = {n: np.load(folder / f"w{n}.npy", mmap_mode="r") for n in (256, 512, 1024, 2048, 4096)}
        self.weights = {n: np.load(folder / f"m{n}.npy", mmap_mode="r") for n in self.ids}

    def take(self, length: int, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """``count`` rows from ``start``, wrapping at the end."""
        rows = np.arange(start, start + count) % len(self.ids[length])
        return self.ids[length][rows].astype(np.int64), self.weights[length][rows].astype(np.float32) / 4


def step_lengths(job: Job, state: State) -> list[tuple[int, int]]:
    """(rows, length) of each micro-batch of one worker at this step; the same for every worker."""
    rng = random.Random(f"{job.preset.seed}-{job.name}-{state.step}")
    room = job.preset.unit * job.preset.units
    table = SHORT
    if state.tokens >= state.total * (1 - job.preset.long):
        table, room = LONG, max(room, max(LONG))
    plan: list[tuple[int, int]] = []
    while room > 0:
        fitting = {n: w for n, w in table.items() if n <= room}
        length = rng.choices(list(fitting), list(fitting.values()))[0]
        rows = max(1, min(job.preset.unit, room) // length)
        plan.append((rows, length))
        room -= rows * length
    return plan


def rate_scale(state: State, warm_up: int = 40) -> float:
    """Warm-up, plateau, straight line to zero."""
    if state.tokens < state.decay_start:
        return min(1.0, (state.step + 1) / warm_up)
    return max(0.0, (state.total - state.tokens) / max(1, state.total - state.decay_start))


def distil_loss(logits: Tensor, teacher: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Mostly the divergence from the teacher, a little of the data."""
    aim = teacher.flatten(0, 1).float().softmax(-1)
    losses = -(aim * logits.flatten(0, 1).float().log_softmax(-1)).sum(-1)
    return 0.9 * (losses * weights.flatten()).sum() + 0.1 * weighted_loss(logits, targets, weights)


class Worker:
    """One process of the run."""

    def __init__(self, job: Job, rank: int) -> None:
        self.job, self.rank, self.world = job, rank, job.preset.workers
        torch.manual_seed(job.preset.seed)
        self.model = TinyLlama(job.shape).to(job.device)
        self.optimiser = Optimiser(self.model, job.preset.muon_rate, job.preset.adam_rate)
        self.windows = Windows(Path(job.out))
        self.state = State(total=job.tokens, decay_start=round(job.tokens * (1 - job.preset.decay)))
        self.teacher: TinyLlama | None = None
        if job.checkpoint.exists():
            self._load()
        if job.plain_tokens and (job.stop_at is None or job.stop_at > job.plain_tokens):
            self.teacher = load_model(Path(job.out) / "target.pt", job.preset.target, job.device)

    def _load(self) -> None:
        saved = torch.load(self.job.checkpoint, map_location=self.job.device, weights_only=True)
        self.model.load_state_dict(saved["model"])
        self.optimiser.load(saved["optimiser"])
        self.state = State(**saved["state"])

    def save(self) -> None:
        """Write the checkpoint under a temporary name, then rename it."""
        part = self.job.checkpoint.with_suffix(".part")
        state: dict[str, Any] = dict(vars(self.state))
        torch.save({"model": self.model.state_dict(), "optimiser": self.optimiser.state(), "state": state}, part)
        part.rename(self.job.checkpoint)

    def schedule(self) -> None:
        """Let a file named ``NAME.decay`` start the decay; its content may name the total of tokens."""
        order = Path(self.job.out) / f"{self.job.name}.decay"
        news = torch.tensor([-1], dtype=torch.int64)
        if self.rank == 0 and order.exists():
            text = order.read_text().strip()
            news[0] = int(text) if text else self.state.tokens + round(self.job.preset.decay * self.state.total)
            order.rename(order.with_suffix(".seen"))
        if self.world > 1:
            dist.broadcast(news, 0)
        if news.item() >= 0:
            self.state.total = int(news.item())
            self.state.decay_start = min(self.state.decay_start, self.state.tokens)

    def seed(self) -> None:
        """Write the copying circuit once, when the tokens are known well enough (see ``seeding``)."""
        start = self.job.preset.seed_tokens
        if start is None or self.job.name != "target" or self.state.seeded or self.state.tokens < start:
            return
        ids, _ = self.windows.take(256, self.state.rows.get(256, 0), 48)
        if self.rank == 0:
            seed_copying(self.model, torch.from_numpy(ids[:, :-1]).to(self.job.device))
        if self.world > 1:
            for tensor in self.model.parameters():
                dist.broadcast(tensor.data, 0)
        self.state.seeded = True

    def _reduce(self, loss: Tensor) -> float:
        if self.world == 1:
            return float(loss)
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in grads] + [loss.reshape(1)])
        dist.all_reduce(flat)
        offset = 0
        for grad in grads:
            grad.copy_(flat[offset : offset + grad.numel()].view_as(grad))
            offset += grad.numel()
        return float(flat[-1])

    def step(self) -> float:
        """One optimiser step; returns the weighted loss per token."""
        job, state = self.job, self.state
        batches: list[tuple[np.ndarray, np.ndarray]] = []
        weight = 0.0
        for rows, length in step_lengths(job, state):
            start = state.rows.get(length, 0)
            ids, weights = self.windows.take(length, start, rows * self.world)
            weight += float(weights[:, 1:].sum())
            mine = slice(self.rank * rows, (self.rank + 1) * rows)
            batches.append((ids[mine], weights[mine]))
            state.rows[length] = start + rows * self.world
            state.tokens += rows * self.world * length
        total = torch.zeros((), device=job.device)
        self.model.zero_grad(set_to_none=True)
        for ids, weights in batches:
            loss = self._loss(torch.from_numpy(ids).to(job.device), torch.from_numpy(weights).to(job.device)) / weight
            loss.backward()
            total += loss.detach()
        value = self._reduce(total)
        self.optimiser.step(rate_scale(state))
        state.step += 1
        return value

    def _loss(self, ids: Tensor, weights: Tensor) -> Tensor:
        fast = torch.autocast("cuda", torch.bfloat16) if self.job.device.startswith("cuda") else nullcontext()
        inputs, targets = ids[:, :-1], ids[:, 1:]
        with fast:
            logits = self.model(inputs)
            if self.teacher is None or self.state.tokens <= self.job.plain_tokens:
                return weighted_loss(logits, targets, weights[:, 1:])
            with torch.no_grad():
                aim = self.teacher(inputs)
            return distil_loss(logits, aim, targets, weights[:, 1:])

    def run(self) -> None:
        """Train to the end (or to ``stop_at``)."""
        saved = started = time.monotonic()
        bar = _bar()
        task = bar.add_task(self.job.name, total=self.state.total, completed=self.state.tokens, loss=0.0, rate=0)
        with bar if self.rank == 0 else nullcontext():
            while self.state.tokens < min(self.state.total, self.job.stop_at or self.state.total):
                self.schedule()
                self.seed()
                before, clock = self.state.tokens, time.monotonic()
                loss = self.step()
                took = time.monotonic() - clock
                self.state.seconds += took
                if self.rank == 0:
                    rate = (self.state.tokens - before) / took
                    bar.update(task, total=self.state.total, completed=self.state.tokens, loss=loss, rate=rate)
                    self._log(loss, rate)
                    if time.monotonic() - saved > SAVE_SECONDS:
                        self.save()
                        saved = time.monotonic()
        if self.rank == 0:
            self.save()
            print(f"{self.job.name}: {self.state.tokens:,} tokens, {time.monotonic() - started:,.0f} s in this run")

    def _log(self, loss: float, rate: float) -> None:
        with (Path(self.job.out) / f"{self.job.name}.log").open("a") as handle:
            handle.write(f"{self.state.step} {self.state.tokens} {loss:.4f} {rate:.0f} {time.strftime('%H:%M:%S')}\n")


def _bar() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn(
            "{task.completed:,}/{task.total:,} tokens, loss {task.fields[loss]:.3f}, {task.fields[rate]:,.0f}/s"
        ),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, refresh_per_second=1)


def load_model(checkpoint: Path, shape: Shape, device: str) -> TinyLlama:
    """The weights of a checkpoint, for reading."""
    model = TinyLlama(shape).to(device)
    if checkpoint.exists():
        model.load_state_dict(torch.load(checkpoint, map_location=device, weights_only=True)["model"])
    return model.eval().requires_grad_(False)


def tokens_seen(checkpoint: Path) -> int:
    """How many tokens a checkpoint has been trained on."""
    return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["state"]["tokens"])


def _main(rank: int, job: Job, port: int) -> None:
    torch.set_num_threads(job.threads)
    world = job.preset.workers
    if world > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        dist.init_process_group("gloo", rank=rank, world_size=world, timeout=timedelta(days=2))
    Worker(job, rank).run()
    if world > 1:
        dist.destroy_process_group()


def train(job: Job) -> None:
    """Run the job; this process is worker 0. All process ids go to ``OUT/pids``."""
    world = job.preset.workers
    port = 20000 + os.getpid() % 20000
    spawn = mp.get_context("spawn")
    others = [spawn.Process(target=_main, args=(rank, job, port), daemon=True) for rank in range(1, world)]
    for other in others:
        other.start()
    (Path(job.out) / "pids").write_text(" ".join(str(p) for p in (os.getpid(), *(o.pid for o in others))))
    _main(0, job, port)
    for other in others:
        other.join()
