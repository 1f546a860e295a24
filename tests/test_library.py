"""What is remembered: bounded, by namespace, saved and loaded, from several threads."""

import contextlib
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from betoken.errors import BetokenError
from betoken.memory import BLEND, LONGEST_MATCH
from betoken.memory.beliefs import KINDS
from betoken.memory.library import Library
from betoken.memory.reader import Reader

texts = st.lists(st.integers(0, 4), max_size=12)
adds = st.lists(st.tuples(texts, st.sampled_from(("", "a", "b"))), max_size=12)


def contents(library: Library) -> list[tuple[int, str, list[int]]]:
    return [
        (number, name, library.shelf(name).index.tokens(text_id).tolist())
        for number, (name, text_id) in library.texts.items()
    ]


def drafted(
    library: Library, tokens: list[int], namespace: str = "", rule: int = BLEND
) -> tuple[list[int], list[int], list[float]]:
    """What is drafted for a text when only its last token is its own."""
    reader = Reader(rule, nodes=12, floor=0.0, ends=(), library=library, remember=True)
    reader.begin(0, len(tokens), namespace)
    reader.read(0, tokens, len(tokens))
    tokens, parents, scores = reader.draft(0, 12)
    return tokens.tolist(), parents.tolist(), scores.tolist()


@settings(deadline=None)
@given(adds, st.integers(1, 30), st.lists(st.integers(0, 11), max_size=4))
def test_the_newest_texts_stay(given_texts: list[tuple[list[int], str]], capacity: int, removed: list[int]) -> None:
    """Evicted too much or too little, the wrong one, or a number that means another text after an eviction."""
    library = Library(capacity)
    expected: list[tuple[int, str, list[int]]] = []
    for number, (text, name) in enumerate(given_texts):
        assert library.add(text, name) == number
        if text:
            expected.append((number, name, text[-capacity:]))
        while sum(len(kept) for _, _, kept in expected) > capacity:
            expected.pop(0)
    for number in removed:
        assert library.remove(number) == any(number == known for known, _, _ in expected)
        expected = [entry for entry in expected if entry[0] != number]
    assert contents(library) == expected
    assert len(library) == sum(len(kept) for _, _, kept in expected) <= capacity
    assert set(library.namespaces) == {name for _, name, _ in expected}


@settings(deadline=None, max_examples=25)
@given(adds)
def test_what_is_loaded_is_what_was_saved(tmp_path_factory: pytest.TempPathFactory, given_texts: list) -> None:
    library = Library(200)  # more than all the texts
    for text, name in given_texts:
        library.add(text, name)
        library.shelf(name).learn(np.full(KINDS, float(len(text))))
    path = tmp_path_factory.mktemp("saved") / "memory.npz"
    library.save(path)
    loaded = Library(200)
    loaded.load(path)
    assert contents(loaded) == contents(library)
    for name in library.namespaces:
        assert np.array_equal(loaded.shelf(name).weights(), library.shelf(name).weights())
        assert drafted(loaded, [1, 2], name) == drafted(library, [1, 2], name)
    if given_texts:
        assert loaded.add([1]) == max((number for number, _, _ in contents(library)), default=-1) + 1 or contents(
            loaded
        )
    assert [entry.name for entry in path.parent.iterdir()] == ["memory.npz"]


@pytest.mark.parametrize("rule", [BLEND, LONGEST_MATCH])
def test_no_namespace_sees_another(rule: int) -> None:
    """A tenant's secret came back as another's draft: the text, or a probability that depends on it."""
    alone, shared = Library(), Library()
    shared.add([1, 2, 3, 4, 5, 6] * 3, "tenant")
    for library in (alone, shared):
        library.add([1, 2, 9, 1, 2, 9], "me")
    assert drafted(shared, [1, 2], "me", rule) == drafted(alone, [1, 2], "me", rule)
    assert 3 in drafted(shared, [1, 2], "tenant", rule)[0]
    assert 3 not in drafted(shared, [1, 2], "", rule)[0]


@pytest.mark.parametrize("rule", [BLEND, LONGEST_MATCH])
def test_a_removed_text_is_never_drafted_again(rule: int) -> None:
    library = Library()
    gone = library.add([1, 2, 7, 7, 7])
    library.add([1, 2, 3, 4])
    assert 7 in drafted(library, [1, 2], rule=rule)[0]
    assert library.remove(gone)
    assert 7 not in drafted(library, [1, 2], rule=rule)[0]
    library.clear()
    assert not set(drafted(library, [8, 2], rule=rule)[0]) & {1, 3, 4, 7}


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "other format"])
def test_a_damaged_file_changes_nothing(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "memory.npz"
    saved = Library()
    saved.add([1, 2, 3])
    saved.save(path)
    whole = path.read_bytes()
    if damage == "other format":
        with path.open("wb") as file:
            np.savez(file, format=np.array(99))
    else:
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"hello\n"}[damage])
    library = Library()
    library.add([5, 6])
    with pytest.raises(BetokenError, match=r"memory\.npz"):
        library.load(path)
    assert contents(library) == [(0, "", [5, 6])]


PARTS = {
    "another token type": {"tokens": np.zeros(3, np.float64)},
    "a token below zero": {"tokens": np.array([1, -1, 2], np.int32)},
    "lengths that do not add up": {"lengths": np.array([2], np.int64)},
    "an owner nobody knows": {"owners": np.array([4], np.int64)},
    "numbers twice": {
        "numbers": np.zeros(3, np.int64), "owners": np.zeros(3, np.int64), "lengths": np.ones(3, np.int64)
    },
    "weights that are none": {"learnt": np.full((2, KINDS), np.nan, np.float32)},
    "weights of another shape": {"learnt": np.zeros((2, 3), np.float32)},
    "names that are none": {"names": np.frombuffer(b"{}", np.uint8)},
    "no dimensions": {"names": np.array(3)},
}  # fmt: skip


@pytest.mark.parametrize("what", PARTS)
def test_wrong_parts_are_refused_before_they_are_believed(tmp_path: Path, what: str) -> None:
    saved = Library()
    saved.add([1, 2, 3])
    path = tmp_path / "memory.npz"
    with path.open("wb") as file:
        np.savez(file, **{**saved._packed(), **PARTS[what]})
    library = Library()
    library.add([5, 6])
    with pytest.raises(BetokenError, match="saved memory"):
        library.load(path)
    assert contents(library) == [(0, "", [5, 6])]


def test_no_damaged_byte_is_a_traceback(tmp_path: Path) -> None:
    saved, path = Library(), tmp_path / "memory.npz"
    saved.add(list(range(50)))
    saved.save(path)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(150):
        spoilt = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            spoilt[place] = rng.integers(0, 256)
        path.write_bytes(spoilt)
        with contextlib.suppress(BetokenError):
            Library().load(path)


def test_names_that_end_in_nothing_stay_apart(tmp_path: Path) -> None:
    """Two tenants became one: numpy's strings drop NULs at their end."""
    library, path = Library(), tmp_path / "memory.npz"
    library.add([1, 2, 3], "t")
    library.add([7, 8, 9], "t\0")
    library.save(path)
    loaded = Library()
    loaded.load(path)
    assert contents(loaded) == contents(library)


def test_a_namespace_without_texts_is_forgotten_altogether() -> None:
    library = Library(60)
    for number in range(50):
        library.add([1, 2, 3, 4, 5, 6], f"tenant {number}")
    assert len(library._shelves) == len(library.namespaces) == 10


@pytest.mark.parametrize("rule", [BLEND, LONGEST_MATCH])
@pytest.mark.parametrize("way", ["clear", "clear one", "load"])
def test_forgetting_reaches_sequences_that_are_underway(tmp_path: Path, rule: int, way: str) -> None:
    library, path = Library(), tmp_path / "empty.npz"
    Library().save(path)
    library.add([1, 2, 7, 8, 7, 8])
    reader = Reader(rule, nodes=12, floor=0.0, ends=(), library=library, remember=True)
    reader.begin(0, 2, "")
    reader.read(0, [1, 2], 2)
    assert 7 in reader.draft(0, 12)[0]
    if way == "load":
        library.load(path)
    else:
        library.clear("" if way == "clear one" else None)
    assert 7 not in reader.draft(0, 12)[0]
    reader.read(0, [1, 2, 3, 4], 2)
    number = reader.end(0)
    assert contents(library) == [(number, "", [3, 4])]
    assert library.shelf("").learnt is None, "what it learnt from the forgotten came back"


@pytest.mark.parametrize("rule", [BLEND, LONGEST_MATCH])
def test_what_others_add_is_seen_by_sequences_that_are_underway(rule: int) -> None:
    library = Library()
    library.add([1, 2, 5, 6])
    reader = Reader(rule, nodes=12, floor=0.0, ends=(), library=library, remember=True)
    reader.begin(0, 2, "")
    reader.read(0, [9, 8], 2)
    assert 7 not in reader.draft(0, 12)[0]
    library.add([9, 8, 7, 9, 8, 7])
    assert 7 in reader.draft(0, 12)[0]
    for _ in range(40):  # node numbers change when the index is built anew
        library.remove(library.add(list(range(100, 160))))
    assert 7 in reader.draft(0, 12)[0]


def test_a_number_from_before_a_load_removes_nothing(tmp_path: Path) -> None:
    other, path = Library(), tmp_path / "memory.npz"
    other.add([1, 2, 3], "other")
    other.save(path)
    library = Library()
    reader = Reader(BLEND, nodes=4, floor=0.0, ends=(), library=library, remember=True)
    reader.begin(0, 1, "")
    reader.read(0, [5, 6, 7], 1)
    reader.end(0)
    library.load(path)
    assert not reader.remove(0)
    assert contents(library) == [(0, "other", [1, 2, 3])]


def test_saving_replaces_files_and_nothing_else(tmp_path: Path) -> None:
    library, real, link = Library(), tmp_path / "real.npz", tmp_path / "link.npz"
    library.add([1, 2, 3])
    real.write_bytes(b"old")
    link.symlink_to(real)
    mine = tmp_path / "link.npz.tmp"
    mine.write_text("mine")
    library.save(link)
    assert link.is_symlink() and real.read_bytes() != b"old" and mine.read_text() == "mine"
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(BetokenError, match="no plain file"):
            library.save(place)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["link.npz", "link.npz.tmp", "pipe", "real.npz"]


def test_files_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(BetokenError, match="cannot be written"):
        Library().save(tmp_path / "no folder" / "memory.npz")
    with pytest.raises(BetokenError, match="cannot be read"):
        Library().load(tmp_path / "nothing.npz")


def test_many_threads_one_library() -> None:
    """Two engines share a memory: an array was replaced, or a node number reused, under somebody's draft."""
    library = Library(3000)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        reader = Reader(BLEND, nodes=16, floor=0.0, ends=(), library=library, remember=True)
        try:
            for number in range(30):
                text = rng.integers(0, 40, 60).tolist()
                reader.begin(number, 5, "")
                for end in range(5, 60, 6):
                    reader.read(number, text[:end], 5)
                    tokens, parents, scores = reader.draft(number, 16)
                    assert len(tokens) == len(parents) == len(scores) <= 16
                    assert all(0 <= token < 40 for token in tokens)
                forgotten = reader.end(number)
                if number % 3 == 0 and forgotten is not None:
                    library.remove(forgotten)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert 0 < len(library) <= 3000


def test_namespaces_are_bounded_too() -> None:
    """A salt a request was a namespace a request: each kept arrays of its own, though it held a dozen tokens."""
    library = Library(namespaces=3)
    held = library.shelf("held")
    held.readers += 1
    for place in range(20):
        library.add([place, 1, 2], f"salt {place}")
        library.add([7, 8], "often")
        assert len(library._shelves) <= 4
    assert set(library.namespaces) == {"often", "salt 19"} | set(library.namespaces) & {"salt 18"}
    assert library.shelf("held") is held, "somebody looks at it"
    assert len(library) == sum(len(text) for _, _, text in contents(library))
    assert [number for number, name, _ in contents(library) if name == "often"] == [*range(1, 40, 2)]
