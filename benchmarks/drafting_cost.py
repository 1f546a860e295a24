"""What drafting from an index costs: an index update, a draft of 40 nodes, memory, and loading the compiled code.

    python benchmarks/drafting_cost.py FOLDER_OF_TRACES [--tokens 1000000] [--output FILE]

One core; after compilation; everything the traces hold is indexed as earlier texts, then held-out conversations draft.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median, quantiles

import numpy as np

from betoken.memory import BLEND
from betoken.memory.library import Library
from betoken.memory.reader import Reader
from betoken.trace import read

LOADING = """
import time; start = time.perf_counter()
from betoken.memory.reader import Reader
imported = time.perf_counter() - start
from betoken.memory.library import Library
start = time.perf_counter()
reader = Reader(0, nodes=4, floor=0.0, ends=(), library=Library(10), remember=True)
reader.begin(0, 1, ""); reader.read(0, [1, 2, 1, 2], 0); reader.draft(0, 4); reader.end(0)
print(imported, time.perf_counter() - start)
"""


def texts(folder: Path) -> list[list[int]]:
    """Every conversation of every trace, whole, the traces in turns so that a prefix has some of each."""
    found = []
    for path in sorted(folder.glob("*.jsonl.gz")):
        conversations = read(path).conversations
        found += [
            (place / len(conversations), [token for segment in one.segments for token in segment.tokens])
            for place, one in enumerate(conversations)
        ]
    return [tokens for _, tokens in sorted(found)]


def fill(library: Library, given: list[list[int]], most: int) -> tuple[float, list[list[int]]]:
    """Index `most` tokens; microseconds a token, and the texts left over."""
    start, left = time.perf_counter(), list(given)
    while left and len(library) < most:
        library.add(left.pop(0)[: most - len(library)])
    return 1e6 * (time.perf_counter() - start) / len(library), left


def live(library: Library, given: list[list[int]], drafts: int) -> tuple[list[float], list[float]]:
    """Read held-out texts token by token; microseconds of each draft, and of each update by a token."""
    # No sequence ends here, so that nothing is added to the library.
    reader = Reader(BLEND, nodes=40, floor=0.0, ends=(), library=library, remember=True)
    drafting, reading = [], []
    for number, tokens in enumerate(given):
        half = len(tokens) // 2
        reader.begin(number, half, "")
        reader.read(number, tokens[:half], half)
        for end in range(half, min(len(tokens), half + 200)):
            start = time.perf_counter()
            reader.draft(number, 40)
            between = time.perf_counter()
            reader.read(number, tokens[:end], 0)
            reading.append(1e6 * (time.perf_counter() - between))
            drafting.append(1e6 * (between - start))
        if len(drafting) >= drafts:
            break
    return drafting, reading


def spread(values: list[float]) -> dict[str, float]:
    cuts = quantiles(values, n=20)
    return {"n": len(values), "median": median(values), "p95": cuts[18], "mean": float(np.mean(values))}


def worst_case(tokens: int) -> float:
    """Bytes a token of texts that repeat each other word for word, which opens the most nodes."""
    library = Library(2 * tokens)
    rng = np.random.default_rng(0)
    for _ in range(tokens // 2000):
        text = rng.integers(0, 30_000, 1000)
        library.add(text)
        library.add(text)
    return library.nbytes / len(library)


def loading() -> tuple[float, float]:
    """Seconds a fresh process needs to import the compiled code, and to run it once."""
    done = subprocess.run([sys.executable, "-c", LOADING], capture_output=True, text=True, check=True)
    imported, first = map(float, done.stdout.split())
    return imported, first


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    given = texts(options.folder)
    loading()
    found: dict[str, object] = {"loading_s": loading(), "bytes_a_token_word_for_word_twice": worst_case(200_000)}
    for most in options.tokens:
        library = Library(most)
        update, left = fill(library, given, most)
        live(library, left[-2:], 20)
        drafting, reading = live(library, left, 2000)
        found[str(most)] = {
            "indexed": len(library),
            "index_us_a_token": update,
            "bytes_a_token": library.nbytes / len(library),
            "draft_us": spread(drafting),
            "live_update_us_a_token": spread(reading),
        }
    print(json.dumps(found, indent=2))
    if options.output:
        options.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
