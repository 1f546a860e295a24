"""Small Python programs from a grammar, and edits whose answer is the whole program with the change made."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from words import made_up, words

Task = tuple[str, str]
VERBS = words("find sort count build load check merge clean update filter split parse pick move read group plan get")
OBJECTS = words(
    "users items orders words lines files values prices points letters books cars rooms names parcels seats trips days "
    "weeks boxes records nodes paths keys tickets songs plants games scores parts cells shapes colours messages"
)
LOCALS = words(
    "total count result best index value size limit name found line left width price score delay step left data"
)
TYPES = ("int", "str", "float", "bool", "list", "dict")
SENTENCES = (
    "Return the {o} that are still {a}.",
    "Count the {o} and return the number.",
    "Build a list of {a} {o}.",
    "Find the {a} {o} and return them.",
    "Return all {o} in {a} order.",
    "Check the {o} and keep the {a} ones.",
)
ADJECTIVES = words("free new old valid heavy open missing small late unique active empty sorted long cheap")


def _word(rng: random.Random, choices: list[str]) -> str:
    return made_up(rng, 1, 2) if rng.random() < 0.3 else rng.choice(choices)


def _name(rng: random.Random) -> str:
    return f"{_word(rng, VERBS)}_{_word(rng, OBJECTS)}"


def _variable(rng: random.Random) -> str:
    word = _word(rng, LOCALS)
    return word if rng.random() < 0.65 else f"{word}_{_word(rng, OBJECTS)}"


class Names:
    """Distinct identifiers for one program."""

    def __init__(self, rng: random.Random) -> None:
        self.used: set[str] = set()
        self.rng = rng

    def new(self, make: Callable[[random.Random], str]) -> str:
        """A fresh identifier."""
        while True:
            name = make(self.rng)
            if name not in self.used:
                self.used.add(name)
                return name

    def plural(self) -> tuple[str, str]:
        """A collection and the name of its element."""
        many = self.new(lambda r: _word(r, OBJECTS))
        one = (
            many[:-1] if many.endswith("s") and len(many) > 3 else self.new(lambda r: f"{many[:4]}_{_word(r, LOCALS)}")
        )
        self.used.add(one)
        return many, one


def _condition(rng: random.Random, one: str, limit: str) -> str:
    attribute = rng.choice(("weight", "size", "price", "age", "name", "score", "length", "value"))
    return rng.choice(
        (
            f"{one}.{attribute} > {limit}",
            f"{one}.{attribute} < {rng.randint(2, 500)}",
            f"{one} not in {limit}",
            f"{one} is not None",
            f"{one} == {limit}",
            f"{one}.{attribute} == {limit}",
            f"len({one}) > {rng.randint(1, 60)}",
        )
    )


def _loop(rng: random.Random, many: str, one: str, acc: str, limit: str, chatty: bool) -> list[str]:
    """The body of a function that walks a collection."""
    number = rng.random() < 0.5
    lines = [f"{acc} = {rng.choice((0, 0, 1, rng.randint(2, 90))) if number else '[]'}", f"for {one} in {many}:"]
    if chatty:
        lines.append(f"    print({one})")
    gain = rng.choice(("1", "1", f"{one}.{rng.choice(('size', 'price', 'weight'))}", str(rng.randint(2, 40))))
    act = f"{acc} += {gain}" if number else f"{acc}.append({one})"
    shape = rng.random()
    if shape < 0.5:
        lines += [f"    if {_condition(rng, one, limit)}:", f"        {act}"]
    elif shape < 0.75:
        lines += [f"    if {_condition(rng, one, limit)}:", "        continue", f"    {act}"]
    else:
        lines.append(f"    {act}")
    if chatty and rng.random() < 0.5:
        lines.append(f"print({acc})")
    return [*lines, f"return {acc}"]


def _while(rng: random.Random, one: str, acc: str, limit: str) -> list[str]:
    """The body of a function that waits."""
    call = rng.choice(("read", "next", "get", "step", made_up(rng)))
    value = rng.choice(("value", "reply", "answer", "result_now"))
    return [
        f"{acc} = 0",
        f"while {acc} < {limit}:",
        f"    {value} = {one}.{call}()",
        f"    if {value} is not None:",
        f"        return {value}",
        f"    {acc} += {rng.randint(1, 9)}",
        f"return {rng.choice(('None', acc, '-1', 'False'))}",
    ]


def _simple(rng: random.Random, one: str, acc: str, limit: str) -> list[str]:
    """A short computation."""
    other = rng.choice(("rate", "margin", "offset", "scale"))
    return [
        f"{acc} = {one} {rng.choice('+-*')} {limit}",
        f"{other} = {acc} {rng.choice('+-*')} {rng.randint(2, 300)}",
        f"return {rng.choice((other, f'{acc} + {other}', f'{other} * {rng.randint(2, 9)}'))}",
    ]


class Function:
    """One generated function: header parts and body, so that an edit is a change of parts."""

    def __init__(self, rng: random.Random, names: Names, chatty: bool = False, call: str | None = None) -> None:
        self.name = names.new(_name)
        many, one = names.plural()
        self.acc, self.limit = names.new(_variable), names.new(_variable)
        kind = rng.random()
        if chatty or kind < 0.55:
            self.args, self.body = [many, self.limit], _loop(rng, many, one, self.acc, self.limit, chatty)
        elif kind < 0.8:
            self.args, self.body = [one, self.limit], _while(rng, one, self.acc, self.limit)
        else:
            self.args, self.body = [one, self.limit], _simple(rng, one, self.acc, self.limit)
        if call and rng.random() < 0.8:
            self.body.insert(len(self.body) - 1, f"{self.acc} = {call}({self.args[0]}, {self.limit})")
        self.hints: list[str] = []
        self.returns = ""
        self.doc = ""

    def text(self) -> str:
        """Its source."""
        args = [f"{a}: {h}" for a, h in zip(self.args, self.hints, strict=True)] if self.hints else self.args
        arrow = f" -> {self.returns}" if self.returns else ""
        lines = [f"def {self.name}({', '.join(args)}){arrow}:"]
        if self.doc:
            lines.append(f'    """{self.doc}"""')
        return "\n".join(lines + ["    " + line for line in self.body])


def _constants(rng: random.Random, names: Names, count: int) -> dict[str, int]:
    return {
        names.new(lambda r: f"{_word(r, LOCALS)}_{_word(r, OBJECTS)}".upper()): rng.randint(1, 900)
        for _ in range(count)
    }


def _klass(rng: random.Random, names: Names) -> str:
    """A small class."""
    title = names.new(lambda r: _word(r, OBJECTS)).rstrip("s").capitalize() + rng.choice(("", "Store", "Box", "List"))
    a, b = names.new(lambda r: _word(r, OBJECTS)), names.new(_variable)
    m1, m2 = names.new(_name), names.new(_name)
    return "\n".join(
        [
            f"class {title}:",
            f"    def __init__(self, {a}, {b}={rng.randint(0, 99)}):",
            f"        self.{a} = {a}",
            f"        self.{b} = {b}",
            "",
            f"    def {m1}(self, entry):",
            f"        self.{a}.append(entry)",
            f"        return len(self.{a})",
            "",
            f"    def {m2}(self, amount):",
            f"        self.{b} = self.{b} {rng.choice('+-')} amount",
            f"        return self.{b}",
        ]
    )


def program(
    rng: random.Random, functions: int, chatty: bool = False
) -> tuple[str, dict[str, int], list[Function], str]:
    """Source, its constants, its functions, and the constants' part of the source."""
    names = Names(rng)
    constants = _constants(rng, names, rng.choice((0, 1, 2))) if rng.random() < 0.6 else {}
    parts: list[Function] = []
    for _ in range(functions):
        call = parts[-1].name if parts and rng.random() < 0.6 else None
        parts.append(Function(rng, names, chatty, call))
    head = "\n".join(f"{key} = {value}" for key, value in constants.items())
    chunks = ([head] if head else []) + [f.text() for f in parts]
    if rng.random() < 0.15:
        chunks.append(_klass(rng, names))
    return "\n\n\n".join(chunks), constants, parts, head


def _wrap(rng: random.Random, order: str, source: str, answer: str) -> Task:
    fence = "```python\n" if rng.random() < 0.9 else "```\n"
    return f"{order}\n\n{fence}{source}\n```", f"{fence}{answer}\n```"


def rename(rng: random.Random, functions: int) -> Task:
    """Rename a variable or a function."""
    source, _, parts, _ = program(rng, functions)
    part = rng.choice(parts)
    what, old = rng.choice((("variable", part.acc), ("variable", part.limit), ("function", parts[0].name)))
    new = Names(rng).new(_name if what == "function" else _variable)
    while re.search(rf"\b{new}\b", source):
        new = f"{new}_{made_up(rng, 1, 1)}"
    order = rng.choice(
        (
            f"Rename the {what} {old} to {new} in this code.",
            f"Rename {old} to {new}.",
            f"Change the {what} name {old} to {new}.",
        )
    )
    return _wrap(rng, order, source, re.sub(rf"\b{old}\b", new, source))


def docstring(rng: random.Random, functions: int) -> Task:
    """Add a given docstring."""
    source, _, parts, _ = program(rng, functions)
    part = rng.choice(parts)
    before = part.text()
    part.doc = rng.choice(SENTENCES).format(o=_word(rng, OBJECTS), a=_word(rng, ADJECTIVES))
    where = "the function" if functions == 1 else f"the function {part.name}"
    order = rng.choice((f'Add a docstring to {where}: "{part.doc}"', f'Give {where} the docstring "{part.doc}".'))
    return _wrap(rng, order, source, source.replace(before, part.text()))


def hints(rng: random.Random, functions: int) -> Task:
    """Add given type hints."""
    source, _, parts, _ = program(rng, functions)
    part = rng.choice(parts)
    before = part.text()
    part.hints, part.returns = [rng.choice(TYPES) for _ in part.args], rng.choice(TYPES)
    where = "the function" if functions == 1 else f"the function {part.name}"
    listed = ", ".join(f"{a}: {h}" for a, h in zip(part.args, part.hints, strict=True))
    order = f"Add type hints to {where}: {listed}, returns {part.returns}."
    return _wrap(rng, order, source, source.replace(before, part.text()))


def constant(rng: random.Random, functions: int) -> Task:
    """Change a number."""
    while True:
        source, constants, _, _ = program(rng, functions)
        if constants:
            break
    key, value = rng.choice(sorted(constants.items()))
    new = rng.randint(1, 900)
    order = rng.choice(
        (
            f"Change the constant {key} from {value} to {new} in this code.",
            f"Change {key} from {value} to {new}.",
            f"Set {key} to {new}.",
        )
    )
    return _wrap(rng, order, source, source.replace(f"{key} = {value}", f"{key} = {new}"))


def unprint(rng: random.Random, functions: int) -> Task:
    """Remove the prints."""
    source, _, _, _ = program(rng, functions, chatty=True)
    answer = "\n".join(line for line in source.split("\n") if not line.strip().startswith("print("))
    order = rng.choice(
        ("Remove the print statements from this code.", "Delete all print lines.", "Remove every print.")
    )
    return _wrap(rng, order, source, answer)


def copy_code(rng: random.Random, functions: int) -> Task:
    """Repeat the code, or one function of it."""
    source, _, parts, _ = program(rng, functions)
    if functions > 1 and rng.random() < 0.5:
        part = rng.choice(parts)
        return _wrap(rng, f"Show only the function {part.name}.", source, part.text())
    return _wrap(
        rng, rng.choice(("Repeat this code exactly.", "Copy the code.", "Write this code again.")), source, source
    )


CODE_TASKS: dict[Callable[[random.Random, int], Task], float] = {
    rename: 4,
    docstring: 2,
    hints: 2,
    constant: 2,
    unprint: 1.5,
    copy_code: 3,
}
