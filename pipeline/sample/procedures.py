"""What the made videos are about: procedures of steps, and the levels of every factor they are crossed with.

A step is an (action, object) pair. Each of the 12 actions occurs with 5 objects, each of the 24 objects with 2 or 3
actions, and no pair occurs twice, so that every word of a step is shared with steps of other procedures.
"""

from dataclasses import dataclass

ABSENT = "none"
"""Level of a factor where there is nothing: no sound, no object, no speech."""


@dataclass(frozen=True)
class Procedure:
    """A task as HowTo100M has them: its id and name, its category, its steps in order as (action, object)."""

    task_id: int
    name: str
    category: str
    steps: tuple[tuple[str, str], ...]


# Those of six steps come first: they are the ones that get a further video where 12 does not divide the number.
_TABLE = """
10101; Make a Vegetable Stew; Soups; chop onion, fry mushroom, peel carrot, mash pumpkin, salt tomato, lift corn
10102; Bake a Fruit Cake; Desserts; whisk egg, mash banana, roll butter, grate chocolate, brush cake, wash strawberry
10103; Grill a Fish Plate; Main Dishes; brush fish, salt cucumber, grate lemon, fry bread, wash broccoli, chop pepper
10104; Cook a Breakfast Platter; Breakfast; fry egg, lift bread, peel avocado, grate cheese, whisk tomato, glaze melon
10105; Make a Potato Pie; Main Dishes; peel potato, roll cheese, chop mushroom, brush apple, salt egg
10106; Decorate a Dessert; Desserts; glaze cake, whisk chocolate, wash grapes, peel banana, roll lemon
10107; Prepare a Garden Salad; Salads; wash tomato, chop cucumber, lift carrot, salt corn, mash avocado
10108; Make Apple Toast; Breakfast; peel apple, brush bread, whisk butter, glaze banana, fry onion
10109; Make Fish Soup; Soups; fry fish, chop pumpkin, roll potato, grate carrot
10110; Serve a Fruit Plate; Desserts; glaze grapes, roll melon, whisk strawberry, lift cake
10111; Make a Party Dip; Appetizers; mash potato, grate cucumber, wash pepper, lift fish
10112; Dress a Vegetable Tray; Appetizers; mash broccoli, salt melon, brush corn, glaze apple
"""


def _procedure(row: str) -> Procedure:
    task_id, name, category, steps = row.split("; ")
    pairs = (step.split() for step in steps.split(", "))
    return Procedure(int(task_id), name, category, tuple((action, thing) for action, thing in pairs))


PROCEDURES = tuple(map(_procedure, _TABLE.split("\n")[1:-1]))

SOUND_OF_ACTION = {
    "chop": "knock",
    "peel": "scrape",
    "grate": "rasp",
    "whisk": "rattle",
    "fry": "sizzle",
    "wash": "water",
    "brush": "swish",
    "roll": "rumble",
    "mash": "squelch",
    "salt": "shake",
    "lift": "clack",
    "glaze": "gurgle",
}

ACTIONS = tuple(SOUND_OF_ACTION)
ACTION_SOUNDS = tuple(SOUND_OF_ACTION.values())
OBJECTS = tuple(sorted({thing for procedure in PROCEDURES for _, thing in procedure.steps}))
BACKGROUNDS = ("tiles", "brick", "garden", "night", "plaster", "pegboard", "curtain", "steel")
NOISES = ("street", "fan", "rain", "hum", "music", "crowd")
VOICES = ("adam", "beth", "carl", "dora", "erik", "fay")

STEP_PHRASES = {
    "now": "now {action} the {object}",
    "we": "we {action} the {object}",
    "then": "then {action} the {object}",
    "just": "just {action} the {object}",
    "let us": "let us {action} the {object}",
    "please": "please {action} the {object}",
    "time to": "time to {action} the {object}",
    "go and": "go and {action} the {object}",
}

CHATTER = {
    "hello": "hello and welcome back",
    "thanks": "thanks so much for watching",
    "question": "leave your question down below",
    "weather": "what a lovely day outside",
    "family": "my sister always asks me this",
    "patience": "take your time and have fun",
    "subscribe": "please subscribe to my channel",
    "almost": "okay we are almost there",
}
"""Filler lines that name no object."""

MENTIONS = {
    "later": "we need the {object} later",
    "yesterday": "yesterday i bought the {object}",
    "love": "my kids love the {object}",
    "forget": "do not forget the {object}",
}
"""Filler lines that name an object, which is not the one to be seen."""
