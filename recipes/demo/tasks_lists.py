"""Tasks that turn one structured form into another: prose, lists, tables and JSON."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from words import COLOURS, chore, city, distinct, item, made_up, person

Task = tuple[str, str]
Rows = list[dict[str, str | int]]
COLUMNS: dict[str, Callable[[random.Random], str | int]] = {
    "item": item,
    "price": lambda rng: rng.randint(1, 99),
    "stock": lambda rng: rng.randint(0, 400),
    "colour": lambda rng: rng.choice(COLOURS),
    "name": person,
    "age": lambda rng: rng.randint(3, 95),
    "city": city,
    "length": lambda rng: rng.randint(1, 300),
    "weight": lambda rng: rng.randint(1, 500),
    "room": lambda rng: rng.randint(1, 60),
    "code": lambda rng: f"{made_up(rng, 1, 1).upper()}-{rng.randint(10, 9999)}",
    "score": lambda rng: rng.randint(0, 100),
    "year": lambda rng: rng.randint(1850, 2030),
    "id": lambda rng: rng.randint(1, 9999),
}


def _rows(rng: random.Random, count: int) -> Rows:
    first = rng.choice(("item", "name", "city", "code"))
    rest = rng.sample([c for c in COLUMNS if c != first], rng.randint(1, 3))
    keys = [first, *rest]
    return [{key: COLUMNS[key](rng) for key in keys} for _ in range(count)]


def _json(rows: Rows) -> str:
    lines = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in rows)
    return f"[\n{lines}\n]"


def _table(rows: Rows) -> str:
    keys = list(rows[0])
    lines = ["| " + " | ".join(keys) + " |", "|" + " --- |" * len(keys)]
    lines += ["| " + " | ".join(str(row[key]) for key in keys) + " |" for row in rows]
    return "\n".join(lines)


def _csv(rows: Rows) -> str:
    keys = list(rows[0])
    return "\n".join([",".join(keys), *(",".join(str(row[key]) for key in keys) for row in rows)])


FORMS: dict[str, Callable[[Rows], str]] = {"JSON": _json, "table": _table, "CSV": _csv}


def convert(rng: random.Random, count: int) -> Task:
    """Table, JSON and CSV into each other."""
    rows = _rows(rng, count)
    source, goal = rng.choice(
        [("table", "JSON"), ("table", "JSON"), ("JSON", "table"), ("JSON", "table"), ("CSV", "JSON"), ("table", "CSV")]
    )
    article = "a table" if goal == "table" else goal
    order = rng.choice(("Convert the {s} to {g}.", "Turn the {s} into {g}.", "Write the {s} as {g}."))
    return f"{order.format(s=source, g=article)}\n\n{FORMS[source](rows)}", FORMS[goal](rows)


def people(rng: random.Random, count: int) -> Task:
    """Sentences about people into JSON or a table."""
    pattern = rng.choice(
        (
            "{name} is {age} years old and lives in {city}.",
            "{name} is {age} and lives in {city}.",
            "{name}, {age}, comes from {city}.",
            "{name} lives in {city} and is {age} years old.",
            "{name} from {city} is {age} years old.",
        )
    )
    names = distinct(rng, person, count)
    rows: Rows = [{"name": n, "age": rng.randint(4, 95), "city": city(rng)} for n in names]
    keys = ["name", "age", "city"] if rng.random() < 0.7 else rng.sample(["name", "age", "city"], 3)
    text = (" " if rng.random() < 0.8 else "\n").join(pattern.format(**row) for row in rows)
    out: Rows = [{key: row[key] for key in keys} for row in rows]
    listed = f"{keys[0]}, {keys[1]} and {keys[2]}"
    if rng.random() < 0.75:
        order = rng.choice(
            (
                f"Turn the text into a JSON list with the keys {listed}.",
                f"Write the people as a JSON list with {listed}.",
                f"Extract {listed} as JSON.",
            )
        )
        return f"{order}\n\n{text}", _json(out)
    order = rng.choice((f"Make a table with {listed}.", f"Turn the text into a table with the columns {listed}."))
    return f"{order}\n\n{text}", _table(out)


def shop(rng: random.Random, count: int) -> Task:
    """Sentences about prices into JSON or a list."""
    pattern = rng.choice(
        ("The {item} costs {price} dollars.", "A {item} is ${price}.", "The price of the {item} is {price}.")
    )
    rows: Rows = [{"item": i, "price": rng.randint(1, 99)} for i in distinct(rng, item, count)]
    text = " ".join(pattern.format(**row) for row in rows)
    if rng.random() < 0.5:
        return f"Turn the text into a JSON list with the keys item and price.\n\n{text}", _json(rows)
    answer = "\n".join(f"- {row['item']}: {row['price']}" for row in rows)
    return f"List each item with its price.\n\n{text}", answer


def _entries(rng: random.Random, count: int) -> list[str]:
    return distinct(rng, rng.choice((item, chore, person, city, chore, item)), count)


STYLES: dict[str, Callable[[list[str]], str]] = {
    "comma": ", ".join,
    "line": "\n".join,
    "bullet": lambda e: "\n".join(f"- {x}" for x in e),
    "number": lambda e: "\n".join(f"{i}. {x}" for i, x in enumerate(e, 1)),
    "json": lambda e: json.dumps(e, ensure_ascii=False),
}


def restyle(rng: random.Random, count: int) -> Task:
    """A list written in another style."""
    entries = _entries(rng, count)
    source, goal = rng.sample(list(STYLES), 2)
    noun = {"comma": "items", "line": "lines", "bullet": "list", "number": "list", "json": "JSON list"}[source]
    name = {
        "comma": "one line with commas",
        "line": "plain lines",
        "bullet": "a bullet list",
        "number": "a numbered list",
        "json": "a JSON list",
    }[goal]
    order = rng.choice((f"Write the {noun} as {name}.", f"Turn the {noun} into {name}."))
    if rng.random() < 0.2:
        order = f"Write the {noun} as {name} and keep their order."
    return f"{order}\n\n{STYLES[source](entries)}", STYLES[goal](entries)


def reorder(rng: random.Random, count: int) -> Task:
    """Sort or reverse a list; the style stays."""
    entries = _entries(rng, min(count, 12))
    style = rng.choice(("line", "bullet", "number", "comma"))
    noun = {"comma": "items", "line": "lines", "bullet": "list", "number": "list"}[style]
    if rng.random() < 0.5:
        order = rng.choice((f"Sort the {noun} alphabetically.", f"Write the {noun} in alphabetical order."))
        answer = sorted(entries, key=str.lower)
    else:
        order = rng.choice((f"Write the {noun} in reverse order.", f"Reverse the {noun}."))
        answer = entries[::-1]
    return f"{order}\n\n{STYLES[style](entries)}", STYLES[style](answer)


def edit(rng: random.Random, count: int) -> Task:
    """Add, remove or replace one entry."""
    entries = _entries(rng, count + 1)
    new, entries = entries[-1], entries[:-1]
    style = rng.choice(("line", "bullet", "number", "json"))
    old = rng.choice(entries)
    kind = rng.choice(("add", "remove", "replace", "repeat"))
    if kind == "add":
        order, answer = f'Add "{new}" to the end of the list.', [*entries, new]
    elif kind == "remove":
        order, answer = f'Remove "{old}" from the list.', [e for e in entries if e != old]
    elif kind == "replace":
        order, answer = f'Replace "{old}" by "{new}" in the list.', [new if e == old else e for e in entries]
    else:
        order, answer = rng.choice(("Repeat the list.", "Copy the list exactly.")), entries
    return f"{order}\n\n{STYLES[style](entries)}", STYLES[style](answer)


def pick(rng: random.Random, count: int) -> Task:
    """One row or one column of a table."""
    rows = _rows(rng, count)
    keys = list(rows[0])
    form = rng.choice((_json, _table))
    if rng.random() < 0.5:
        row = rng.choice(rows)
        order = f'Give the row with {keys[0]} "{row[keys[0]]}" as JSON.'
        return f"{order}\n\n{form(rows)}", json.dumps(row, ensure_ascii=False)
    key = rng.choice(keys)
    answer = "\n".join(f"- {row[key]}" for row in rows)
    return f"List the values of {key}.\n\n{form(rows)}", answer


LIST_TASKS: dict[Callable[[random.Random, int], Task], float] = {
    convert: 4,
    people: 3,
    shop: 1,
    restyle: 3,
    reorder: 1.5,
    edit: 2,
    pick: 1,
}
