"""`SlotCache`: keys and values in preallocated slots, one length per row. Rollback is a smaller number; nothing is moved for a chain.

It knows nothing of trees or tokens: it writes where it is told, shows what is there, and moves slots.
"""

import contextlib
import math
import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from betoken.errors import NoRoomError

SLOT_STEP = 256
LAZY = 1 << 20  # bytes: less is written as fast as asked for


@dataclass(slots=True)
class _Group:
    """Layers whose keys and values have one shape share one tensor, so that moving slots is one copy for all of them."""

    heads: int
    key_dim: int
    value_dim: int
    layers: list[int] = field(default_factory=list)
    keys_LBHSD: Tensor | None = None
    values_LBHSD: Tensor | None = None

    def tensors(self) -> tuple[Tensor, Tensor]:
        assert self.keys_LBHSD is not None and self.values_LBHSD is not None
        return self.keys_LBHSD, self.values_LBHSD


@dataclass(frozen=True, slots=True)
class SavedRow:
    """A copy of one row's keys and values, `[layers, heads, length, dim]` for each kind of layer."""

    tensors: tuple[tuple[Tensor, Tensor], ...]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for pair in self.tensors for tensor in pair)


class SlotCache:
    """Keys and values `[rows, heads, slots, dim]` of every layer, grown as needed, zero-filled (0 * NaN would poison a masked slot).

    num_layers: how many layers are expected; a layer of another shape than the first gets a tensor of its own
    in_use:     how many slots of each row hold something, in order; the rest need not be kept
    `limit`: bytes, at most; None: whatever there is
    """

    def __init__(
        self, num_layers: int, *, device: torch.device, in_use: Callable[[], Sequence[int]] | None = None
    ) -> None:
        self._num_layers, self._device = num_layers, device
        self._in_use = in_use
        self.limit: int | None = None
        self.rows = 0
        self.slots = 0
        self._groups: list[_Group] = []
        self._place: dict[int, tuple[_Group, int]] = {}
        self._first, self._count, self._window = 0, 0, 0
        self._starts: Sequence[int] = ()
        self._slots_BQ: Tensor | None = None
        self._index: dict[int, Tensor] = {}

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(tensor.nbytes for group in self._groups for tensor in group.tensors())

    def needed(self, rows: int, slots: int) -> int:
        """Bytes of so many rows and slots; 0 before the first forward pass, which shows what a layer holds."""
        each = sum(
            tensor.shape[0] * tensor.shape[2] * tensor.shape[4] * tensor.element_size()
            for group in self._groups
            for tensor in group.tensors()
        )
        return each * rows * slots

    def reserve(self, rows: int, slots: int) -> None:
        """Make room for at least this many rows and slots, keeping what is there. Raises NoRoomError beyond the limit."""
        if rows <= self.rows and slots <= self.slots:
            return
        rows, slots = self._size(rows, slots)  # near the limit one of them may even shrink
        used = self._used()
        for group in self._groups:
            keys, values = group.tensors()
            group.keys_LBHSD, group.values_LBHSD = (_grown(old, rows, slots, used) for old in (keys, values))
        self.rows, self.slots = rows, slots

    def _used(self) -> Sequence[int]:
        return self._in_use() if self._in_use is not None else [self.slots] * self.rows

    def _size(self, rows: int, slots: int) -> tuple[int, int]:
        """Generous, so that growing is rare; no more than what is needed where the limit is near."""
        used = self._used()
        least = max(rows, len(used)), max(slots, *used, 0)
        rows = max(rows, self.rows) if rows <= self.rows or self.rows == 0 else max(rows, 2 * self.rows)
        if slots > self.slots:
            slots = max(2 * self.slots, -(-slots // SLOT_STEP) * SLOT_STEP)
        slots = max(slots, self.slots)
        if self.limit is None or self.needed(rows, slots) <= self.limit:
            return rows, slots
        wanted = self.needed(*least)
        if wanted > self.limit:
            raise NoRoomError(f"keys and values would take {wanted:,} bytes; there is room for {self.limit:,}")
        return least

    def save(self, row: int, length: int) -> SavedRow:
        """A copy of the first `length` slots of a row."""
        return SavedRow(
            tuple(
                (keys[:, row, :, :length].clone(), values[:, row, :, :length].clone())
                for keys, values in (group.tensors() for group in self._groups)
            )
        )

    def load(self, row: int, saved: SavedRow, length: int) -> None:
        """Put the first `length` slots of a copy back, into any row."""
        self.reserve(row + 1, length)
        for group, pair in zip(self._groups, saved.tensors, strict=True):
            for tensor, copy in zip(group.tensors(), pair, strict=True):
                tensor[:, row, :, :length] = copy[:, :, :length]

    def tensors(self) -> list[Tensor]:
        """Keys and values, `[layers, rows, heads, slots, dim]`, of each kind of layer; others once there is more room, or less."""
        return [tensor for group in self._groups for tensor in group.tensors()]

    def place(self, layer: int) -> tuple[int, int]:
        """Of which kind a layer is that was written before, and where it is among those."""
        group, index = self._place[layer]
        return self._groups.index(group), index

    def trim(self) -> None:
        """Give all memory back; no row may be in use."""
        for group in self._groups:
            group.keys_LBHSD, group.values_LBHSD = (tensor[:, :0, :, :0].clone() for tensor in group.tensors())
        self.rows = self.slots = 0

    @property
    def start(self) -> int:
        """The first slot the next forward writes, of its first row."""
        return self._starts[0] if self._starts else 0

    def aim(self, first_row: int, starts: Sequence[int], width: int, window: int) -> None:
        """Say where the next forward writes: rows from `first_row` on, row i its `width` slots from `starts[i]` on; and
        that it reads the first `window` slots."""
        self.reserve(first_row + len(starts), window)
        self._first, self._count, self._starts = first_row, len(starts), starts
        self._window = window
        self._slots_BQ = None
        self._index.clear()
        if any(start != starts[0] for start in starts):
            first_B1 = torch.tensor(starts, device=self._device)[:, None]
            self._slots_BQ = first_B1 + torch.arange(width, device=self._device)

    def write(self, layer: int, keys_BHQD: Tensor, values_BHQD: Tensor) -> tuple[Tensor, Tensor]:
        """Write one layer's new keys and values; returns views of all its slots up to the last written one, `[B, H, S, D]`."""
        keys_BHSD, values_BHSD = self._views(layer, keys_BHQD, values_BHQD)
        if self._slots_BQ is None:
            start = self._starts[0]
            keys_BHSD[:, :, start : start + keys_BHQD.shape[2]] = keys_BHQD
            values_BHSD[:, :, start : start + keys_BHQD.shape[2]] = values_BHQD
        else:
            flat = self._flat_slots(keys_BHSD.shape[1])
            for slots, new in ((keys_BHSD, keys_BHQD), (values_BHSD, values_BHQD)):
                slots.view(-1, slots.shape[3]).index_copy_(0, flat, new.reshape(-1, new.shape[3]))
        return keys_BHSD[:, :, : self._window], values_BHSD[:, :, : self._window]

    def _flat_slots(self, heads: int) -> Tensor:
        """`[B * H * Q]` where ragged rows write, counted through rows, heads and slots; the same for every layer."""
        if heads not in self._index:
            assert self._slots_BQ is not None
            rows = torch.arange(self._count * heads, device=self._device).view(self._count, heads, 1)
            self._index[heads] = (rows * self.slots + self._slots_BQ[:, None]).flatten()
        return self._index[heads]

    def move(self, row: int, source: Sequence[int], start: int) -> None:
        """Copy the slots `source` of a row, in order, to the slots from `start` on."""
        index = torch.tensor(source, device=self._device)
        for group in self._groups:
            for tensor in group.tensors():
                tensor[:, row, :, start : start + len(source)] = tensor[:, row].index_select(2, index)

    def copy_row(self, source: int, destination: int, length: int) -> None:
        """Copy the first `length` slots of one row to another."""
        for group in self._groups:
            for tensor in group.tensors():
                tensor[:, destination, :, :length] = tensor[:, source, :, :length]

    def _views(self, layer: int, keys_BHQD: Tensor, values_BHQD: Tensor) -> tuple[Tensor, Tensor]:
        place = self._place.get(layer)
        if place is None:
            place = self._allocate(layer, keys_BHQD, values_BHQD)
        group, index = place
        keys, values = group.tensors()
        rows = slice(self._first, self._first + self._count)
        return keys[index, rows], values[index, rows]

    def _allocate(self, layer: int, keys_BHQD: Tensor, values_BHQD: Tensor) -> tuple[_Group, int]:
        shape = keys_BHQD.shape[1], keys_BHQD.shape[3], values_BHQD.shape[3]
        group = next((g for g in self._groups if (g.heads, g.key_dim, g.value_dim) == shape), None)
        if group is None:
            group = _Group(*shape)
            room = max(self._num_layers, layer + 1) if not self._groups else 1
            group.keys_LBHSD, group.values_LBHSD = (
                _zeros((room, self.rows, shape[0], self.slots, dim), new.dtype, self._device)
                for dim, new in ((shape[1], keys_BHQD), (shape[2], values_BHQD))
            )
            self._groups.append(group)
        elif len(group.layers) == group.tensors()[0].shape[0]:
            keys, values = group.tensors()
            group.keys_LBHSD, group.values_LBHSD = (
                torch.cat([old, torch.zeros_like(old[:1])]) for old in (keys, values)
            )
        self._place[layer] = group, len(group.layers)
        group.layers.append(layer)
        return self._place[layer]


def _grown(old: Tensor, rows: int, slots: int, used: Sequence[int]) -> Tensor:
    """A copy of another size, and of what is in use: one long row must not make all others long to copy."""
    layers, had_rows, heads, had_slots, dim = old.shape
    new = _zeros((layers, rows, heads, slots, dim), old.dtype, old.device)
    for row, length in enumerate(used[: min(had_rows, rows)]):
        kept = min(length, had_slots, slots)
        new[:, row, :, :kept] = old[:, row, :, :kept]
    return new


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """On a CPU pages that the system makes zeros of when they are first touched, small ones: torch writes everything at once, and while
    it fills half a gigabyte that nobody may ever need, every row waits."""
    size = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or size < LAZY:
        return torch.zeros(shape, dtype=dtype, device=device)
    pages = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):
            pages.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype).view(shape)
