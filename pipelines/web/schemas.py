"""What goes over the wire, as the OpenAPI page describes it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

MOST_STEPS, MOST_ANSWERS = 200, 100
Sentence = Annotated[str, Field(max_length=1000)]
VideoId = Annotated[str, Field(min_length=1, max_length=1000, description="A video of the manifest.")]
Script = Annotated[
    str, Field(max_length=100_000, description="A step per line; numbers and bullets before it are dropped.")
]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Problem(BaseModel):
    """Why not: what was found, what was expected, what to run on the server."""

    detail: str
    expected: str = ""
    run: str = ""


class Step(BaseModel):
    """A sentence, and where it happens: seconds of the file, null where it does not."""

    step: str
    start: float | None = None
    end: float | None = None
    score: float | None = Field(
        default=None, description="Mean cosine there; null for steps of the own script."
    )


class Found(BaseModel):
    """One video that answers."""

    video_id: str
    score: float = Field(
        description="Cosine of query and moment; of the ordered alignment for a script or a video."
    )
    start: float
    end: float
    peak: float = Field(description="The moment that is most like the query, seconds of the file.")
    step: str = Field(description="The step of the video's own script there.")
    task: str
    procedure: str
    split: str
    duration: float
    steps: list[Step] = Field(description="Where each step of the script that was asked for is.")


class Answers(BaseModel):
    answers: list[Found]
    milliseconds: float


class Brief(BaseModel):
    """A video of the manifest."""

    video_id: str
    task: str
    procedure: str
    split: str
    steps: int
    indexed: bool


class Videos(BaseModel):
    videos: list[Brief]
    count: int = Field(description="How many there are in all.")


class Video(Brief):
    """One video with its script and where each step is."""

    duration: float
    trim: float = Field(description="Where the video begins in its file.")
    script: list[Step]
    truth: list[Step] | None = Field(default=None, description="True times, where the manifest has them.")
    playable: bool = Field(description="The file is there, and of a kind that browsers may play.")


class About(BaseModel):
    """What is served."""

    dataset: str
    run: str
    version: str
    videos: int
    indexed: int
    procedures: int
    tasks: list[str] = Field(description="At most 500.")
    splits: list[str]
    examples: list[str] = Field(description="Sentences to try.")
    most_upload: int = Field(description="Bytes; 0: uploads are off.")
    most_minutes: float = Field(description="Length of an upload.")


class Health(BaseModel):
    status: str
    videos: int


class Where(Strict):
    """Which videos may answer; empty fields allow all."""

    task: Sentence | None = None
    procedure: Sentence | None = None
    split: Sentence | None = None
    min_seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    max_seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class ScriptQuery(Where):
    script: Script
    top: int = Field(12, ge=1, le=MOST_ANSWERS)


class Which(Strict):
    """A video: one of the manifest, or an upload."""

    video: VideoId | None = None
    upload: str | None = Field(default=None, max_length=100)


class CheckQuery(Which):
    script: Script = Field(
        "", description="A step per line; empty: the own script of a video of the manifest."
    )


class CompareQuery(Strict):
    a: Which
    b: Which


class CheckedStep(BaseModel):
    """A step of the script and what became of it."""

    place: int
    step: str
    status: str = Field(description="done, missing, or moved: done out of order.")
    start: float | None
    end: float | None
    sure: float = Field(description="The probability of this status.")


class Extra(BaseModel):
    """Something done that the script has not there."""

    status: str = Field(description="repeated, or added: not in the script.")
    step: str = Field(description="The known sentence most like it; empty where there is none.")
    place: int | None = Field(description="Which step was done again.")
    start: float
    end: float
    sure: float


class Checked(BaseModel):
    """A recording beside its script."""

    ok: bool = Field(description="As its script, as far as can be seen.")
    wrong: float = Field(description="The probability of any fault, at even odds.")
    by: str = Field(description="What judged: script (its sentences), or references (other recordings too).")
    calibrated: bool
    duration: float
    steps: list[CheckedStep]
    extras: list[Extra]
    notes: list[str]


class Parting(BaseModel):
    """A stretch where two recordings part; seconds of each file."""

    kind: str = Field(description="only in A, only in B, or different.")
    start_a: float
    end_a: float
    start_b: float
    end_b: float
    steps_a: list[str]
    steps_b: list[str]


class Compared(BaseModel):
    """Two recordings beside each other."""

    matched: bool | None = Field(description="The same procedure; null where no pairs taught what that is.")
    same: float | None = Field(description="The probability that it is the same, at even odds.")
    distance: float
    partings: list[Parting]
    path: list[tuple[float, float]] = Field(description="Seconds of A and of B that belong together.")


class Upload(BaseModel):
    """A video that was sent; it is deleted after a while, and when the server stops."""

    upload: str = Field(description="Names it in later requests.")
    name: str
    bytes: int
    duration: float = Field(description="Seconds, as the file says; 0 where it does not.")
    seconds_kept: float


PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The request cannot be read."},
    403: {"model": Problem, "description": "Sent by a page of another site."},
    404: {"model": Problem, "description": "No such video."},
    413: {"model": Problem, "description": "Too large."},
    422: {"model": Problem, "description": "Cannot be answered as asked."},
    503: {"model": Problem, "description": "Too busy; try again."},
}
