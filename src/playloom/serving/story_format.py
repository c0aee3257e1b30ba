"""What `/v1/stories` takes and gives, as types. Knows only the format."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from playloom.serving.dreaming import Picture
from playloom.serving.parsing import RequestModel
from playloom.serving.score import Seed, Temperature, TopK, TopP, Vector
from playloom.stories.tree import Origin, Presser, State

MOST_BRANCHES = 8
"""Branches of one order."""
MOST_COPIES = 9
"""Frames after the first that one edit is copied to."""
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Note = Annotated[str, Field(max_length=2000)]
Id = Annotated[int, Field(ge=0, lt=2**31)]
_Form = ConfigDict(use_attribute_docstrings=True)


class NewStory(RequestModel):
    """Where a story begins: a moment, pictures, or what somebody plays."""

    name: Name | None = None
    """For people; none: what it begins at."""
    moment: str | None = Field(default=None, max_length=255)
    """A bundled moment's name; see `/v1/moments`. None, and nothing else: the first one."""
    images: Annotated[list[Picture], Field(min_length=1, max_length=100)] | None = None
    """Or pictures, oldest first; as many of the last as the model sees are used."""
    context_actions: Annotated[list[Vector], Field(max_length=100)] | None = None
    """The actions between the images, one less than images; none: at rest."""
    schema_: Literal["named", "binned"] = Field(default="named", alias="schema")
    """What the sixteen numbers of every action in this request are."""
    session: str | None = Field(default=None, max_length=255)
    """Or the token of a session, live or stepped: its newest frames, as many as the model sees."""


class Renaming(RequestModel):
    """A story's new name."""

    name: Name
    """For people."""


class BranchOrder(RequestModel):
    """One or more branches from one frame, all alike but for their seeds."""

    from_: Id = Field(alias="from")
    """The frame to go on from."""
    count: int = Field(default=1, ge=1, le=MOST_BRANCHES)
    """How many branches; their seeds count up."""
    frames: int = Field(default=10, ge=1)
    """How many frames each."""
    context: int | None = Field(default=None, ge=1)
    """Most frames that the model sees of what came before, that one included; none: as many as it can."""
    presses: Presser = "player"
    """`player`: what is given below is pressed. `model`: it presses itself, after what is given."""
    actions: Annotated[list[Vector], Field(min_length=1, max_length=10_000)] | None = None
    """Sixteen numbers a frame. The player holds the last one to the end."""
    script: str | None = Field(default=None, max_length=10_000)
    """Or held inputs, as `forward for 2s; turn_left`; see docs/dream.md."""
    held: Vector | None = None
    """Or one action held all along."""
    schema_: Literal["named", "binned"] = Field(default="named", alias="schema")
    """What the sixteen numbers of every action in this request are."""
    temperature: Temperature = None
    """Divides the logits; 0 is greedy; none: the model's own."""
    top_k: TopK = None
    """Only the k likeliest tokens."""
    top_p: TopP = None
    """Only the likeliest tokens that reach p together."""
    seed: Seed = None
    """Of the first branch; same frames, same order, same seed: same branches; none: any."""


class EditOrder(RequestModel):
    """A picture to lay over a frame, and over some of those that follow."""

    overlay: str
    """PNG with transparency, base64, of the frame's size; another size is stretched to it."""
    copies: int = Field(default=0, ge=0, le=MOST_COPIES)
    """On how many of the next frames too: the more frames show it, the more the model has to go by."""
    along: Id | None = None
    """A frame further on: which way the next frames are; none: always the first that was made."""


class NodePatch(RequestModel):
    """What somebody says about a frame."""

    starred: bool | None = None
    """One of the best; none: as it is."""
    note: Note | None = None
    """Words beside it; none: as they are."""


class NodeInfo(BaseModel):
    """One frame of a story."""

    model_config = _Form

    id: int
    """Counted up from 0, never used again; its pictures are `nodes/ID.png` and `nodes/ID.webp`."""
    parent: int | None
    """The frame before it; null where there is none."""
    origin: Origin
    """`given`, `dreamed`, or `edited` by hand."""
    action: list[int] | None
    """The action that led to it, sixteen bins; null without a parent."""
    pressed: Presser | None
    """Who pressed that; null for frames given."""
    branch: int | None
    """The branch that dreamed it."""
    starred: bool
    """One of the best, somebody said."""
    note: str
    """Words beside it."""
    edit_of: int | None
    """The frame that it is an edit of; it may be gone."""


class BranchInfo(BaseModel):
    """One order to dream on."""

    model_config = _Form

    id: int
    """Counted up from 0, never used again."""
    from_: int = Field(alias="from")
    """The frame it goes on from."""
    frames: int
    """How many were asked for."""
    made: int
    """How many are there."""
    state: State
    """How it stands."""
    problem: str | None
    """Why it failed, in a sentence."""
    seed: int
    """Asked for again, the same comes."""
    temperature: float
    """Divides the logits."""
    top_k: int | None
    """Only the k likeliest tokens."""
    top_p: float | None
    """Only the likeliest tokens that reach p together."""
    context: int
    """Most frames it sees of what came before."""
    presses: Presser
    """Who holds the controller."""
    first: int | None
    """Its first frame; null: none yet."""
    last: int | None
    """Its newest frame."""


class StoryInfo(BaseModel):
    """A whole story."""

    model_config = _Form

    id: str
    """Secret: whoever knows it can look at the story."""
    name: str
    """For people."""
    created: str
    """ISO 8601, UTC."""
    size: list[int]
    """Height and width of its frames."""
    context: int
    """Most frames that the model sees of what came before."""
    hertz: int
    """Frames a second when it is played."""
    model: str
    """What dreams on now."""
    revision: int
    """Number of the newest event."""
    nodes: list[NodeInfo]
    """All frames, each after the one before it."""
    branches: list[BranchInfo]
    """All branches, oldest first."""


class StoryItem(BaseModel):
    """A story in the list."""

    model_config = _Form

    id: str
    """Its id."""
    name: str
    """For people."""
    created: str
    """ISO 8601, UTC; empty where it is damaged."""
    frames: int
    """How many."""
    branches: int
    """How many."""
    picture: str | None
    """Where a picture of it is: its newest star, else its newest frame."""
    problem: str | None
    """Why it cannot be opened, in a sentence; null: it can."""


class StoryList(BaseModel):
    """All stories, newest first."""

    stories: list[StoryItem]


class NodeList(BaseModel):
    """Some frames."""

    nodes: list[NodeInfo]


class BranchList(BaseModel):
    """Some branches."""

    model_config = _Form

    branches: list[BranchInfo]
    """As they stand."""
    notes: list[str]
    """What was chosen on the way, in sentences."""


class RemovedInfo(BaseModel):
    """What is gone."""

    model_config = _Form

    nodes: list[int]
    """Frames: the one named, and all after it."""
    branches: list[int]
    """Branches that began there, and ended ones of which no frame is left."""
