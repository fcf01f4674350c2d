"""What can be seen and said on the bench: kinds of things, colours, and the sentences of each verb."""

from __future__ import annotations

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 48, 49),
    "blue": (38, 98, 214),
    "green": (46, 160, 67),
    "yellow": (240, 200, 30),
    "purple": (136, 62, 170),
    "orange": (240, 130, 30),
}

# vessels hold liquid; tools do something to a vessel; fixtures stand on the bench and are operated
VESSELS = ("beaker", "flask", "test tube", "cylinder", "bottle", "jar", "bowl")
TOOLS = ("glass rod", "thermometer", "dropper", "spoon", "funnel")
FIXTURES = ("burner", "clamp", "scale")

# The first form of each verb is the sentence of the script; the others are other ways to say it, used only as
# captions when the embedded encoder is trained, so that a query need not repeat the script word for word.
# {a} is what the hand acts with or on, {b} the receiver; "{a.colour}" and "{a.kind}" are its parts.
PHRASES: dict[str, tuple[str, ...]] = {
    "take up": ("take up {a}", "pick up {a}", "lift {a}", "grasp {a} and raise it"),
    "put down": ("put down {a}", "set down {a}", "place {a} on the table", "lower {a}"),
    "pour": (
        "pour {a} into {b}",
        "pour the {a.colour} liquid into {b}",
        "pour the {a.colour} liquid from the {a.kind} into {b}",
        "empty {a} into {b}",
        "pour the {a.colour} liquid into the {b.kind}",
        "pour from the {a.kind} into the {b.kind}",
    ),
    "stir": ("stir {a}", "stir the liquid in {a}", "mix {a} with the rod"),
    "heat": ("heat {a}", "warm {a} over a flame", "heat the {a.colour} liquid in the {a.kind}"),
    "cool": ("cool {a}", "cool {a} with ice", "chill {a}"),
    "cover": ("cover {a}", "put a lid on {a}", "close {a}"),
    "uncover": ("uncover {a}", "take the lid off {a}", "open {a}"),
    "shake": ("shake {a}", "shake {a} to and fro", "swirl {a}"),
    "insert": ("insert {a} into {b}", "put {a} into {b}", "dip {a} into {b}"),
    "pull out": ("pull {a} out of {b}", "remove {a} from {b}", "take {a} out of {b}"),
    "squeeze": ("squeeze {a} over {b}", "drip from {a} into {b}", "add drops to {b} with {a}"),
    "scoop": ("scoop powder into {a}", "add a spoon of powder to {a}", "spoon powder into {a}"),
    "wipe": ("wipe {a}", "clean {a} with a cloth", "dry {a}"),
    "label": ("label {a}", "stick a label on {a}", "mark {a} with a label"),
    "peel": ("peel the label off {a}", "remove the label from {a}"),
    "turn on": ("turn on {a}", "light {a}", "switch {a} on"),
    "turn off": ("turn off {a}", "put out {a}", "switch {a} off"),
    "screw": ("screw {a}", "tighten {a}"),
    "unscrew": ("unscrew {a}", "loosen {a}"),
    "weigh": ("weigh {a}", "put {a} on the scale", "weigh {a} on the scale"),
    "point at": ("point at {a}", "show {a} with a finger"),
    "push": ("push {a} aside", "move {a} aside", "slide {a} along the table"),
}
VERBS = tuple(PHRASES)


class Name:
    """How a thing is called: `{a}` gives "the red beaker", `{a.colour}` "red", `{a.kind}` "beaker"."""

    def __init__(self, kind: str, colour: str) -> None:
        self.kind, self.colour = kind, colour

    def __format__(self, spec: str) -> str:
        return f"the {self.colour} {self.kind}"


def sentence(verb: str, a: Name, b: Name | None = None, form: int = 0) -> str:
    """The sentence of one step; `form` 0 is the script's own."""
    phrases = PHRASES[verb]
    return phrases[form % len(phrases)].format(a=a, b=b)
