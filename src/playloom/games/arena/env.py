"""The arena as a Gymnasium environment, and recorded episodes: replay rendering, contact sheet and video."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import decode_values, encode_named
from playloom.actions.controller import CONTROLS
from playloom.data.recording import STATE_COLUMNS, Episode, list_episodes
from playloom.errors import ActionError, GameError, MissingExtraError, RecordingError
from playloom.games.arena.engine import FRAME_SHAPE, GameProcess, GameSpec
from playloom.games.arena.wad import ForeignObject
from playloom.media.contact_sheet import Tile, contact_sheet, film_frames, wrap
from playloom.media.images import write_picture
from playloom.media.video import write_mp4
from playloom.provenance import Manifest

if TYPE_CHECKING:
    import gymnasium as gym
else:
    try:
        import gymnasium as gym
    except ImportError as error:
        raise MissingExtraError.of("gymnasium", "game") from error

GAME_NAME = "arena"
_FRAGS = STATE_COLUMNS.index("frags")


class ArenaEnv(gym.Env[NDArray[np.uint8], NDArray[np.float32]]):
    """Third-person deathmatch in one of our arenas; a step is 0.1 s.

    Observation: uint8 [180, 300, 3] RGB. Action: float32 [16] in [-1, 1], the controller state in the order
    of `CONTROLS` with +y forward / up; it passes through the action codec, so sticks act at their eleven bins
    and triggers and buttons are pressed from 0.5. Reward: frags won in the step. Never terminates; truncates
    after `max_steps`. `info["state"]` is the state row, see `STATE_COLUMNS`; `info["actions"]` the action
    values taken.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(self, variant: str = "plaza", mode: str = "ffa", max_steps: int = 600) -> None:
        self.observation_space = gym.spaces.Box(0, 255, FRAME_SHAPE, np.uint8)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (len(CONTROLS),), np.float32)
        self.render_mode = "rgb_array"
        self._variant, self._mode, self._max_steps = variant, mode, max_steps
        self._steps = 0
        self._game: GameProcess | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Start a new game; the same seed gives the same game."""
        super().reset(seed=seed)
        self.close()
        game_seed = seed if seed is not None else int(self.np_random.integers(2**31))
        self._game = GameProcess(GameSpec(variant=self._variant, mode=self._mode, seed=game_seed))
        self._steps = 0
        return self._game.frame_HWC.copy(), {"state": self._game.row.copy()}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Hold the controller state for one step."""
        if self._game is None:
            raise GameError("the arena has not been started; call reset() before step()")
        values = encode_named(as_state(action))
        before = float(self._game.row[_FRAGS])
        frame, row = self._game.step(decode_values(values))
        self._steps += 1
        info = {"state": row.copy(), "actions": values}
        return frame.copy(), float(row[_FRAGS]) - before, False, self._steps >= self._max_steps, info

    def render(self) -> NDArray[np.uint8] | None:
        """Return the current frame, uint8 [180, 300, 3]; None before the first reset."""
        return None if self._game is None else self._game.frame_HWC.copy()

    def close(self) -> None:
        """End the engine's process."""
        if self._game is not None:
            self._game.close()
            self._game = None


def as_state(action_A: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round a vector in [-1, 1] to a legal controller state: sticks unchanged, buttons pressed from 0.5."""
    state = np.array(action_A, np.float32)
    if state.shape != (len(CONTROLS),):
        raise ActionError(f"an action of the arena has {len(CONTROLS)} numbers; got the shape {state.shape}")
    for index, control in enumerate(CONTROLS):
        if control.kind != "axis":
            state[index] = float(state[index] >= 0.5)
    return state


def render_episode(
    episode: Episode, verify: bool = True, objects: Sequence[ForeignObject] = ()
) -> Iterator[NDArray[np.uint8]]:
    """Render a recorded episode; yields frames uint8 [180, 300, 3], frame t before action t.

    `verify` compares the frames' hash, with foreign `objects` every state row; `GameError` when they differ.
    """
    meta = episode.meta
    if meta.game != GAME_NAME:
        raise GameError(f"this episode is of the game {meta.game!r}; expected {GAME_NAME!r}")
    digest, same = new_frame_hash(), True
    states = decode_values(episode.actions_TA)
    spec = GameSpec(variant=meta.variant, mode=meta.mode, seed=meta.seed, objects=tuple(objects))
    with GameProcess(spec) as game:
        for step in range(meta.steps):
            frame = game.frame_HWC
            digest.update(frame.tobytes())
            same = same and np.array_equal(game.row, episode.states[step])
            yield frame
            if step + 1 < meta.steps:
                game.step(states[step])
    if verify and not (same if objects else digest.hexdigest() == meta.frame_hash):
        raise GameError(
            f"the {'states' if objects else 'frames'} of seed {meta.seed} differ from those recorded with "
            f"{meta.versions}; install those versions, or record it again"
        )


def new_frame_hash() -> hashlib.blake2b:
    """Return the running hash of an episode's frames."""
    return hashlib.blake2b(digest_size=32)


def episodes_at(recording: Path) -> list[Path]:
    """Return the episode files of a folder, or the given one; RecordingError when there is none."""
    if not recording.is_dir():
        return [recording]
    paths = list_episodes(recording)
    if not paths:
        raise RecordingError(f"{recording} has no episode; record some with: playloom record --out {recording}")
    return paths


def write_views(
    episode: Episode,
    stem: Path,
    players: list[str],
    *,
    every: int,
    verify: bool = True,
    manifest: Manifest | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Path, Path]:
    """Render an episode; write a contact sheet `<stem>.png` and a video `<stem>.mp4`, and return their paths.

    `players` names the player of every step; `every` is the number of steps between two pictures of the sheet.
    """
    meta, tiles = episode.meta, []
    sheet, video = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.mp4")
    title = f"{meta.game} {meta.variant}, {meta.mode}, {meta.style}, seed {meta.seed}, {meta.split}"

    def frames() -> Iterator[list[Tile]]:
        for step, frame_HWC in enumerate(render_episode(episode, verify)):
            pads = [(episode.actions_TA[step], players[step])]
            tile = Tile(frame_HWC=frame_HWC, kind="real", caption=f"step {step}", pads=pads)
            if step % every == 0:
                tiles.append(tile)
            if progress is not None:
                progress(step + 1, meta.steps)
            yield [tile]

    write_mp4(video, film_frames(frames(), kinds=["real"], title=title), manifest=manifest)
    write_picture(sheet, contact_sheet(wrap(tiles, 6), title=title, tile_width=180), manifest)
    return sheet, video
