"""Made-up and ordinary words, so that copying is learned as a rule and not as a list of known names."""

from __future__ import annotations

import random


def words(text: str) -> list[str]:
    """The words of a line."""
    return text.split()


ONSETS = words("b c d f g h j k l m n p r s t v w z br cl dr fl gr kr pl pr sh sl st th tr")
VOWELS = words("a e i o u a e i o ai ea ia ou")
CODAS = ["", "", "", "l", "n", "r", "s", "t", "m", "nd", "rk", "st", "x", "ck"]
FIRST = words(
    "Ada Amir Anja Bruno Carla Chen Dana David Elena Emil Farid Fiona Gita Hugo Ida Ivan Jonas Julia Karim Kemal Lena "
    "Lucas Maria Milan Nadia Noah Olga Omar Paula Pedro Quinn Rania Robert Sofia Sven Tara Theo Uma Victor Wanda Yuki "
    "Zora Alice Brian Clara Daniel Edith Felix Greta Harold Irene James Kate Leon Martha Nils Oliver Priya Rosa Simon"
)
LAST = words(
    "Adler Brown Costa Diaz Evans Fischer Garcia Hill Ito Jensen Khan Lopez Moore Novak Okafor Park Rossi Silva"
)
CITIES = words(
    "Berlin Paris London Madrid Rome Vienna Oslo Lima Quito Cairo Tokyo Delhi Seoul Dublin Porto Riga Prague Athens "
    "Boston Chicago Denver Austin Toronto Sydney Nairobi Accra Lagos Basel Geneva Milan Naples Bremen Ghent Lyon York"
)
ITEMS = words(
    "apple bread butter candle carrot chair cheese clock coat coffee cup desk drum egg fan flour fork glass "
    "glove hammer "
    "hat honey ink jam jar kettle knife ladder lamp lemon map melon milk mirror nail needle oil onion orange paint "
    "paper pear pen pencil pepper phone "
    "pillow plate potato radio rice rope ruler salt saw scarf shelf shirt shoe soap sock "
    "spoon stamp stove string sugar table tea tent ticket tomato towel umbrella vase wallet watch water wheel whistle"
)
COLOURS = words("red blue green yellow black white brown grey orange purple pink silver gold")
MATERIALS = words("wool tin paper wooden steel glass leather cotton plastic rubber silk stone copper clay brass iron")
VERBS = words(
    "buy clean fix paint call visit water mend wash pack sort return open close print read write send book check sell "
    "move carry count feed find lift bring measure plan order repair sweep fold"
)
NOUNS = words(
    "garden roof fence letter report window car bicycle kitchen dog cat parcel ticket meeting room school bridge shop "
    "train boat office library door floor ladder lamp tree plant table shirt book invoice engine attic tent camera "
    "neighbour dentist plumber teacher doctor uncle sister lawyer mechanic"
)


def made_up(rng: random.Random, low: int = 2, high: int = 3) -> str:
    """A pronounceable word that probably does not exist."""
    parts = [rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(rng.randint(low, high))]
    return "".join(parts)


def person(rng: random.Random) -> str:
    """A first name, often an invented one."""
    return made_up(rng).capitalize() if rng.random() < 0.4 else rng.choice(FIRST)


def city(rng: random.Random) -> str:
    """A town, often an invented one."""
    return made_up(rng).capitalize() if rng.random() < 0.4 else rng.choice(CITIES)


def item(rng: random.Random) -> str:
    """A thing: plain, with a material or colour, or invented."""
    roll = rng.random()
    if roll < 0.2:
        return made_up(rng)
    if roll < 0.5:
        return f"{rng.choice(MATERIALS + COLOURS)} {rng.choice(ITEMS)}"
    return rng.choice(ITEMS)


def chore(rng: random.Random) -> str:
    """A line for a to-do list."""
    noun = made_up(rng) if rng.random() < 0.15 else rng.choice(NOUNS)
    tail = ""
    if rng.random() < 0.5:
        tail = rng.choice(
            (
                f" with {person(rng)}",
                f" for {person(rng)}",
                f" in {city(rng)}",
                f" and the {rng.choice(NOUNS)}",
                f" before {rng.choice(('noon', 'lunch', 'Friday', 'Monday', 'dinner'))}",
                f" and {rng.choice(VERBS)} {rng.randint(2, 40)} {rng.choice(ITEMS)}s",
            )
        )
    return f"{rng.choice(VERBS)} the {noun}{tail}"


def distinct(rng: random.Random, make, count: int) -> list[str]:
    """``count`` different values of ``make(rng)``."""
    seen: dict[str, None] = {}
    while len(seen) < count:
        seen[make(rng)] = None
    return list(seen)
