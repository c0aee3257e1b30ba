"""Branches of stories: dreams that go on by themselves, all in the broker's shared batches, frame by frame into a tree.

Owns the life of a branch. A branch that is cancelled ends after the frame that is being dreamed; that one is dropped.
Used from one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from playloom.actions import REST_VALUES
from playloom.actions.script import parse_script
from playloom.engine import DreamStep, Prompt, Sampling
from playloom.errors import BadInputError
from playloom.provenance import Manifest
from playloom.serving.broker import Frame as Following
from playloom.serving.dreaming import read_actions
from playloom.serving.refusals import Refusal, refusal_of
from playloom.serving.score import SEED_END
from playloom.serving.stories import Stories, is_open
from playloom.serving.story import Story
from playloom.serving.story_format import BranchOrder
from playloom.serving.studio import pick_seed
from playloom.serving.vectors import read_vector
from playloom.stories.frames import Frame
from playloom.stories.tree import Branch, Node, State

_Actions = Sequence[NDArray[np.uint8] | None]


@dataclass(kw_only=True, eq=False)
class _Order:
    """What the branches of one order have in common."""

    story: Story
    start: int
    context: int
    actions: _Actions
    sampling: Sampling
    prompt: asyncio.Task[Prompt] | None = None


class Branches:
    """All branches of a server that are not finished."""

    def __init__(self, stories: Stories) -> None:
        self.stories, self.studio = stories, stories.studio
        self._slots = asyncio.Semaphore(self.studio.settings.branches)
        self._tasks: set[asyncio.Task[None]] = set()
        self.dreaming = 0
        """Branches being dreamed."""

    @property
    def unfinished(self) -> int:
        """Branches being dreamed or waiting."""
        return len(self._tasks)

    async def start(self, story: Story, asked: BranchOrder) -> tuple[list[Branch], list[str]]:
        """Begin branches.

        Returns:
            The branches, and what was chosen on the way, in sentences.

        Raises:
            PlayloomError: when what was asked for cannot be.
        """
        studio = self.studio
        studio.gate.check_open()
        studio.check_steps(asked.frames)
        story.tree.node(asked.from_)
        self.stories.check_size(story)
        if asked.context is not None and asked.context > studio.context:
            raise BadInputError(f"a context of {asked.context} frames was asked for; the model sees {studio.context}")
        actions, notes = _actions(asked)
        how, seed = studio.sampling(asked.temperature, asked.top_k, asked.top_p), pick_seed(asked.seed)
        if seed + asked.count > SEED_END:
            raise BadInputError(
                f"{asked.count} branches count up from seed {seed:,}, past the last one; send one below 2**63 - 8"
            )
        order = _Order(
            story=story,
            start=asked.from_,
            context=asked.context or studio.context,
            actions=actions,
            sampling=how,
        )
        async with story.lock:
            story.tree.node(asked.from_)
            self.stories.check_frames(story, asked.count * asked.frames)
            first = story.tree.header.next_branch
            branches = [
                Branch(
                    id=first + index,
                    start=asked.from_,
                    frames=asked.frames,
                    seed=seed + index,
                    temperature=how.temperature,
                    top_k=how.top_k,
                    top_p=how.top_p,
                    context=order.context,
                    presses=asked.presses,
                )
                for index in range(asked.count)
            ]
            await story.add(branches)
        for branch in branches:
            task = asyncio.get_running_loop().create_task(self._run(order, branch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return branches, notes

    async def cancel(self, story: Story, branch: int) -> None:
        """End a branch; what was made stays.

        Raises:
            Refusal: 404.
        """
        if branch not in story.tree.branches:
            raise Refusal(404, f"there is no branch {branch} in this story")
        await self._settle(story, branch, "cancelled")

    async def cancel_all_of(self, name: str) -> None:
        """End every branch of a story, where it is open."""
        story = await self.stories.find_open(name)
        if story is not None:
            for branch in story.tree.unfinished():
                await self._settle(story, branch.id, "cancelled")

    async def close(self) -> None:
        """Give up what is not finished; it is told so when the stories are opened again."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, order: _Order, branch: Branch) -> None:
        async with self._slots:
            self.dreaming += 1
            try:
                await self._to_its_end(order, branch)
            finally:
                self.dreaming -= 1  # not before its end is written down: a server that stops waits for it

    async def _to_its_end(self, order: _Order, branch: Branch) -> None:
        story = order.story
        try:
            await self._dream(order, branch)
            await self._settle(story, branch.id, "done")
        except Exception as error:
            if not story.deleted:
                await self._settle(story, branch.id, "failed", refusal_of(error).sentence)

    async def _dream(self, order: _Order, branch: Branch) -> None:
        story, studio = order.story, self.studio
        if not is_open(story, branch.id):
            return
        studio.gate.check_open()
        prompt = await self._prompt(order)
        marked = asyncio.ensure_future(self._mark(story, branch.id))
        try:  # beside it, so that the branches of an order begin together and share every batch
            await self._dream_on(order, branch, prompt)
        finally:
            await marked

    async def _dream_on(self, order: _Order, branch: Branch, prompt: Prompt) -> None:
        story, studio = order.story, self.studio
        mode = "world" if branch.presses == "player" else "full"
        manifest = studio.manifest(prompt, order.sampling, branch.seed, mode)
        turns: list[tuple[NDArray[np.uint8] | None, Following]] = [(action_A, "dream") for action_A in order.actions]
        parent = branch.start
        async with aclosing(studio.dream(prompt, turns, order.sampling, branch.seed)) as steps:
            async for step in steps:
                kept = await self._keep(story, branch.id, parent, step, manifest)
                if kept is None:
                    return
                parent = kept

    async def _mark(self, story: Story, branch: int) -> None:
        """Write down that a branch is being dreamed."""
        async with story.lock:
            if is_open(story, branch):
                await story.add([replace(story.tree.branches[branch], state="dreaming")])

    async def _keep(self, story: Story, branch: int, parent: int, step: DreamStep, manifest: Manifest) -> int | None:
        """Put a dreamed step into the tree; returns its id, or None where the branch has been ended."""
        assert step.frame_HWC is not None and step.codes_N is not None, "every step of a branch has a frame"
        frame = Frame(
            frame_HWC=step.frame_HWC,
            codes_N=step.codes_N,
            weights=manifest.weights,
            manifest=manifest.at_step(step.index + 1),
        )
        async with story.lock:
            if not is_open(story, branch):
                return None
            node = Node(
                id=story.tree.header.next_node,
                parent=parent,
                origin="dreamed",
                action=tuple(step.action_A.tolist()),
                pressed="player" if step.action_given else "model",
                branch=branch,
            )
            await story.add([node], [frame])
        return node.id

    async def _settle(self, story: Story, branch: int, state: State, problem: str | None = None) -> None:
        """Write down how a branch ended, unless it has ended already."""
        async with story.lock:
            if is_open(story, branch):
                ended = replace(story.tree.branches[branch], state=state, problem=problem)
                await story.settle(ended)

    async def _prompt(self, order: _Order) -> Prompt:
        """The frames that all branches of an order see first; read once."""
        if order.prompt is None:
            order.prompt = asyncio.get_running_loop().create_task(self._read_prompt(order))
        return await order.prompt

    async def _read_prompt(self, order: _Order) -> Prompt:
        story, studio = order.story, self.studio
        nodes = story.tree.path(order.start)[-order.context :]
        frames = [await story.disk(lambda n=n: story.place.read_frame(n.id)) for n in nodes]  # type: ignore[misc]
        codes = [
            frame.codes_N if frame.weights == studio.model.fingerprint else await studio.codes(frame.frame_HWC)
            for frame in frames
        ]
        actions = [np.array(node.action, np.uint8) for node in nodes[1:]]
        return Prompt(
            frames_THWC=np.stack([frame.frame_HWC for frame in frames]),
            actions_TA=np.stack(actions) if actions else np.zeros((0, len(REST_VALUES)), np.uint8),
            codes_TN=np.stack(codes),
        )


def _actions(asked: BranchOrder) -> tuple[_Actions, list[str]]:
    """The action of every frame, None where the model presses; and what was chosen on the way."""
    ways = {"actions": asked.actions, "script": asked.script, "held": asked.held}
    said = [name for name, value in ways.items() if value is not None]
    if len(said) > 1:
        raise BadInputError(f"{' and '.join(said)} were sent; send one of them")
    model = asked.presses == "model"
    notes: list[str] = []
    given: list[NDArray[np.uint8]] = []
    if asked.actions is not None:
        given = read_actions(asked.actions, asked.schema_, "action")[: asked.frames]
    elif asked.script is not None:
        script = parse_script(asked.script, None if model else asked.frames)
        given, notes = list(script.values_SA[: asked.frames]), list(script.notes)
    elif asked.held is not None and model:
        raise BadInputError("held is what a player presses all along; with presses: model send actions or a script")
    elif asked.held is not None:
        given = [read_vector(asked.held, asked.schema_, "held")]
    elif not model:
        given = [REST_VALUES]
    rest = asked.frames - len(given)
    return [*given, *([None] * rest if model else [given[-1]] * rest)], notes
