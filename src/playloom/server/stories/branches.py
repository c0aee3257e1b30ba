"""Generate the frames of branches. A cancelled branch ends after its current frame, which is dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import REST_VALUES, read_vector
from playloom.actions.script import parse_script
from playloom.errors import BadInputError
from playloom.inference.sampling import Sampling
from playloom.inference.types import ActionSource, Prompt, StepResult
from playloom.server.errors import ApiError, to_api_error
from playloom.server.schemas import SEED_END, read_actions
from playloom.server.stories.schemas import ACTIVE_STATES, Branch, BranchList, BranchRequest, Node, State
from playloom.server.stories.service import Story, StoryService
from playloom.server.stories.store import Frame

_Actions = Sequence[NDArray[np.uint8] | None]


class BranchRunner:
    """All unfinished branches of a server. Used from one event loop."""

    def __init__(self, stories: StoryService) -> None:
        self.stories, self.service = stories, stories.service
        self._slots = asyncio.Semaphore(self.service.settings.max_branches)
        self._tasks: set[asyncio.Task[None]] = set()
        self.dreaming = 0  # running branches; one counts until its end is on disk: a stopping server waits for it

    async def start(self, story: Story, params: BranchRequest) -> BranchList:
        """Start the branches of a request."""
        service, context = self.service, params.context or self.service.context
        service.limiter.check_open()
        service.check_steps(params.frames)
        self.stories.check_size(story)
        if context > service.context:
            raise BadInputError(f"context is too long: got {context} frames, expected at most {service.context}")
        actions, notes = _actions(params)
        sampling, seed = params.resolve(service)
        if seed + params.count > SEED_END:
            last = SEED_END - params.count
            raise BadInputError(f"seed is too large for {params.count} branches: got {seed}, expected at most {last}")

        def new_branches() -> list[Branch]:
            story.tree.node(params.from_)
            self.stories.check_frames(story, params.count * params.frames)
            first = story.tree.header.next_branch
            branch = Branch(
                id=first,
                from_=params.from_,
                frames=params.frames,
                seed=seed,
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                context=context,
                controlled_by=params.controlled_by,
            )
            return [branch.model_copy(update={"id": first + i, "seed": seed + i}) for i in range(params.count)]

        branches = await story.change(new_branches)
        prompt = asyncio.create_task(self._prompt(story, story.tree.path(params.from_)[-context:]))
        for branch in branches:
            task = asyncio.create_task(self._run(story, branch, actions, sampling, prompt))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return BranchList(branches=branches, notes=notes)

    async def cancel(self, story: Story, branch: int) -> None:
        """Cancel a branch; its finished frames stay."""
        if branch not in story.tree.branches:
            raise ApiError(404, f"there is no branch {branch} in this story")
        await _set_state(story, branch, "cancelled")

    async def close(self) -> None:
        """Stop unfinished branches; they are marked failed when the stories are read again."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(
        self, story: Story, branch: Branch, actions: _Actions, sampling: Sampling, encoding: asyncio.Task[Prompt]
    ) -> None:
        async with self._slots:
            self.dreaming += 1
            try:
                if _is_active(story, branch.id):
                    self.service.limiter.check_open()
                    prompt = await encoding
                    # Marked while it runs, so that the branches of a request start together and share every batch.
                    frames = self._generate(story, branch, actions, sampling, prompt)
                    await asyncio.gather(_set_state(story, branch.id, "dreaming"), frames)
                await _set_state(story, branch.id, "done")
            except Exception as error:
                await _set_state(story, branch.id, "failed", to_api_error(error).message)
            finally:
                self.dreaming -= 1

    async def _generate(
        self, story: Story, branch: Branch, actions: _Actions, sampling: Sampling, prompt: Prompt
    ) -> None:
        mode = "world" if branch.controlled_by == "player" else "full"
        manifest = self.service.manifest(prompt, sampling, branch.seed, mode)
        turns = [(action_A, "dream") for action_A in actions]
        parent = branch.from_
        async with aclosing(self.service.dream(prompt, turns, sampling, branch.seed)) as steps:  # type: ignore[arg-type]
            async for step in steps:
                assert step.frame_HWC is not None and step.codes_N is not None, "every step of a branch has a frame"
                frame = Frame(step.frame_HWC, step.codes_N, manifest.weights, manifest.at_step(step.index + 1))
                added = await _add_step(story, branch.id, parent, step, frame)
                if not added:
                    return
                parent = added[0].id

    async def _prompt(self, story: Story, nodes: Sequence[Node]) -> Prompt:
        frames = await story.read_frames(nodes)
        frames_THWC, weights = np.stack([frame.frame_HWC for frame in frames]), self.service.model.fingerprint
        codes = [frame.codes_N if frame.weights == weights else None for frame in frames]
        return Prompt(
            frames_THWC=frames_THWC,
            actions_TA=np.array([node.action for node in nodes[1:]], np.uint8).reshape(-1, len(REST_VALUES)),
            codes_TN=await self.service.known_codes(frames_THWC, codes),
        )


def _is_active(story: Story, branch: int) -> bool:
    found = story.tree.branches.get(branch)
    return not story.deleted and found is not None and found.state in ACTIVE_STATES


async def _set_state(story: Story, branch: int, state: State, error: str | None = None) -> None:
    def changed() -> list[Branch]:
        if not _is_active(story, branch):
            return []
        return [story.tree.branches[branch].model_copy(update={"state": state, "error": error})]

    await story.change(changed, required=state == "dreaming")


async def _add_step(story: Story, branch: int, parent: int, step: StepResult, frame: Frame) -> Sequence[Node]:
    def new_node() -> list[Node]:
        if not _is_active(story, branch):
            return []
        source: ActionSource = "player" if step.action_given else "model"
        id_, action = story.tree.header.next_node, tuple(step.action_A.tolist())
        return [Node(id=id_, parent=parent, origin="dreamed", action=action, action_source=source, branch=branch)]

    return await story.change(new_node, [frame])


def _actions(params: BranchRequest) -> tuple[_Actions, list[str]]:
    """Return the action of every frame, None where it is sampled, and notes about them."""
    sources = {"actions": params.actions, "script": params.script, "action": params.action}
    sent = [name for name, value in sources.items() if value is not None]
    if len(sent) > 1:
        raise BadInputError(f"{' and '.join(sent)} were sent; send one of them")
    model = params.controlled_by == "model"
    notes: list[str] = []
    given: list[NDArray[np.uint8]] = [] if model else [REST_VALUES]
    if params.actions is not None:
        given = read_actions(params.actions, params.schema_, "action")[: params.frames]
    elif params.script is not None:
        script = parse_script(params.script, None if model else params.frames)
        given, notes = list(script.values_SA[: params.frames]), list(script.notes)
    elif params.action is not None:
        if model:
            raise BadInputError("action needs controlled_by: player; with controlled_by: model send actions or script")
        given = [read_vector(params.action, params.schema_, "action")]
    rest = params.frames - len(given)
    return [*given, *([None] * rest if model else [given[-1]] * rest)], notes
