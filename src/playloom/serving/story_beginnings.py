"""What a story begins with: a moment, pictures, or the newest frames of a session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from playloom.actions import REST_VALUES
from playloom.engine import Prompt
from playloom.errors import BadInputError
from playloom.provenance import Manifest
from playloom.serving.dreaming import Begin, begin
from playloom.serving.recent import Recent
from playloom.serving.story_format import NewStory
from playloom.serving.studio import Studio, pick_moment
from playloom.stories.frames import Frame
from playloom.stories.tree import Node, Presser

RecentOf = Callable[[str], tuple[str, Recent]]
"""What a session plays, and its newest frames, by its token."""


class Beginning(NamedTuple):
    """Frames that a story begins with."""

    name: str
    """What to call it."""
    prompt: Prompt
    """The frames, with their codes, and the actions between them."""
    manifests: tuple[Manifest | None, ...]
    """What made each; None: nobody here did, it is taken for real."""
    pressed: tuple[Presser | None, ...]
    """Who pressed what led to each."""

    def nodes(self) -> list[Node]:
        """The first chain of the tree."""
        actions = self.prompt.actions_TA
        return [
            Node(
                id=index,
                parent=index - 1 if index else None,
                origin="given" if self.pressed[index] is None else "dreamed",
                action=tuple(actions[index - 1].tolist()) if index else None,
                pressed=self.pressed[index] if index else None,
            )
            for index in range(len(self.manifests))
        ]

    def frames(self, weights: str) -> list[Frame]:
        """Their frames.

        Args:
            weights: fingerprint of those that the codes belong to.
        """
        prompt = self.prompt
        assert prompt.codes_TN is not None, "a beginning brings its codes"
        return [
            Frame(frame_HWC=frame_HWC, codes_N=codes_N, weights=weights, manifest=manifest)
            for frame_HWC, codes_N, manifest in zip(prompt.frames_THWC, prompt.codes_TN, self.manifests, strict=True)
        ]


async def beginning(studio: Studio, asked: NewStory, recent_of: RecentOf) -> Beginning:
    """What a story is to begin with.

    Raises:
        PlayloomError: when it cannot be used.
        Refusal: 404 for a session that is not there.
    """
    if asked.session is not None:
        if asked.moment is not None or asked.images is not None:
            raise BadInputError("a story begins at a moment, at images or at a session; send one of them")
        return await _unmarked(studio, _of_session(*recent_of(asked.session)))
    prompt = await begin(
        studio,
        Begin(
            moment=asked.moment,
            images=asked.images,
            context_actions=asked.context_actions,
            schema=asked.schema_,
        ),
    )
    nothing = (None,) * len(prompt.frames_THWC)
    if asked.images is None:
        return Beginning(pick_moment(asked.moment), prompt, nothing, nothing)
    return await _unmarked(studio, Beginning("my pictures", prompt, nothing, nothing))


async def _unmarked(studio: Studio, start: Beginning) -> Beginning:
    """With those of its pictures that this server had sent out as they were before they got their mark.

    Their codes are known already, but an edit begins at the pixels: the mark would be encoded with it.
    """
    prompt, known = start.prompt, studio.remembered.manifest
    assert prompt.codes_TN is not None, "a beginning brings its codes"
    found = await studio.side(lambda: [known(frame_HWC) for frame_HWC in prompt.frames_THWC])
    made = [old or new for old, new in zip(start.manifests, found, strict=True)]
    frames = [
        frame_HWC if new is None else await studio.frame(codes_N)
        for frame_HWC, codes_N, new in zip(prompt.frames_THWC, prompt.codes_TN, found, strict=True)
    ]
    return start._replace(prompt=replace(prompt, frames_THWC=np.stack(frames)), manifests=tuple(made))


def _of_session(name: str, recent: Recent) -> Beginning:
    kept = recent.frames()
    actions = [frame.action_A for frame in kept[1:]]
    prompt = Prompt(
        frames_THWC=np.stack([frame.frame_HWC for frame in kept]),
        actions_TA=np.stack(actions) if actions else np.zeros((0, len(REST_VALUES)), np.uint8),
        codes_TN=np.stack([frame.codes_N for frame in kept]),
    )
    return Beginning(name, prompt, tuple(frame.manifest for frame in kept), tuple(frame.pressed for frame in kept))
