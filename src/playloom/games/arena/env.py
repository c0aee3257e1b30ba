"""The arena as a Gymnasium environment, and recorded episodes: replay rendering, contact sheet and video.

Edited episodes are the exact replay of a recording, with foreign objects added that touch nothing. These are things of
the map that the engine's simulation ignores, so states and actions stay those of the recording. Their places follow
from its states.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import decode_values, encode_vector
from playloom.actions.controller import CONTROLS
from playloom.data.recording import STATE_COLUMNS, Episode, list_episodes
from playloom.errors import ActionError, GameError, MissingExtraError, RecordingError
from playloom.games.arena.engine import FRAME_SHAPE, GAME_NAME, GameProcess, GameSpec
from playloom.games.arena.maps import CELL, ForeignObject, Variant, variant_of
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

_FRAGS = STATE_COLUMNS.index("frags")
_FOCAL = 120.0  # pixels
_BEHIND = 80.0  # distance of the camera behind the player, map units
_WIDTH = 300
_BODY, _EDGE = 35.0, 140.0  # columns from the middle between which an object begins
_DISTANCES = (100.0, 400.0)  # from the player, map units
_PASSING = 60.0  # least distance of player and camera from an object, map units
_HEIGHTS = (36.0, 100.0)  # of an object, map units
_STAY = (20, 80)  # steps; an object leaves out of sight between them, at the latest after the second
_GAP = 16  # mean of the steps between two objects
_SEQUENCES = 2  # independent sequences of objects
_TRIES = 60
_POSE = [STATE_COLUMNS.index(name) for name in ("x", "y", "yaw")]

Row = NDArray[np.float64]


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
        if np.shape(action) != (len(CONTROLS),):
            raise ActionError(f"an action of the arena has {len(CONTROLS)} numbers; got the shape {np.shape(action)}")
        values = encode_vector(action)
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


def render_edited(episode: Episode) -> Iterator[NDArray[np.uint8]]:
    """Render an episode with the objects of `plan_objects`; frames uint8 [180, 300, 3].

    Raises:
        GameError: The episode is of another game, or a state differs from the recorded one.
    """
    if episode.meta.game != GAME_NAME:
        raise GameError(
            f"a recording cannot be edited: it is of the game {episode.meta.game!r}, expected {GAME_NAME!r}; "
            "leave out --edited"
        )
    return render_episode(episode, objects=plan_objects(episode))


def plan_objects(episode: Episode) -> tuple[ForeignObject, ...]:
    """Choose the objects of an episode from its seed: each begins in sight, beside the player's body, on open ground.

    About half of all frames show at least one.
    """
    random = np.random.default_rng((episode.meta.seed, 1))
    variant = variant_of(episode.meta.variant)
    poses = episode.states[:, _POSE].astype(np.float64)
    objects = []
    for _ in range(_SEQUENCES):
        step = int(random.integers(_GAP))
        while step < len(poses):
            height, width = random.uniform(*_HEIGHTS) * np.array([1, random.uniform(0.7, 1.2)])
            place, seed = _place(variant, poses[step], random), int(random.integers(2**31))
            later = poses[step : step + _STAY[1]]
            if place is None or min(_nearest(pose, place) for pose in later) < _PASSING:
                step += 1
                continue
            outside = [_column(pose, place, width / 2) > _WIDTH / 2 for pose in later[_STAY[0] :]]
            steps = _STAY[0] + (outside.index(True) if True in outside else len(outside))
            size = {"height": float(height), "width": float(width)}
            objects.append(ForeignObject(x=place[0], y=place[1], start=step, steps=steps, seed=seed, **size))
            step += steps + int(random.exponential(_GAP))
    return tuple(objects)


def _place(variant: Variant, pose: Row, random: np.random.Generator) -> tuple[float, float] | None:
    """A random place in sight of a pose; None after too many tries."""
    for _ in range(_TRIES):
        angle, distance = random.uniform(-180, 180), np.exp(random.uniform(*np.log(_DISTANCES)))
        x, y = pose[:2] + distance * _ahead(angle)
        if _BODY <= _column(pose, (x, y)) <= _EDGE and _open(variant, pose, (x, y)):
            return float(x), float(y)
    return None


def _column(pose: Row, place: tuple[float, float], half_width: float = 0.0) -> float:
    """Columns from the picture's middle to a place, less half a width in map units; infinite behind the camera."""
    ahead = _ahead(pose[2])
    offset = place - pose[:2]
    depth = float(offset @ ahead) + _BEHIND
    side = abs(float(offset @ (ahead[1], -ahead[0]))) - half_width
    return side * _FOCAL / depth if depth > 0 else math.inf


def _nearest(pose: Row, place: tuple[float, float]) -> float:
    """Distance from the nearer of player and camera to a place, map units."""
    bodies = pose[:2] - np.outer((0, _BEHIND), _ahead(pose[2]))
    return float(np.hypot(*(bodies - place).T).min())


def _open(variant: Variant, pose: Row, place: tuple[float, float]) -> bool:
    points = np.linspace(pose[:2], place, 25)
    cells = np.floor(points / (CELL, -CELL)).astype(int)
    return all(variant.cell(column, row) in ".ab~" for column, row in cells.tolist())


def _ahead(yaw: float) -> Row:
    """Unit vector of a clockwise yaw in degrees."""
    return np.array([math.cos(math.radians(yaw)), -math.sin(math.radians(yaw))])
