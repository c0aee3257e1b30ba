"""Contact sheet and video of a recorded episode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from playloom.data.recording import Episode, list_episodes, load_episode
from playloom.errors import ConfigError, RecordingError
from playloom.games.arena.env import render_episode
from playloom.media.contact_sheet import Tile, contact_sheet, film_frames, wrap
from playloom.media.images import write_picture
from playloom.media.video import write_mp4
from playloom.provenance import Manifest

_COLUMNS = 6
_TILE_WIDTH = 180


@dataclass(frozen=True, kw_only=True)
class ViewedEpisode:
    """Files of a viewed episode."""

    sheet: Path
    """Contact sheet, PNG."""
    video: Path
    """Video, MP4 at 10 frames per second."""
    steps: int
    """Steps of the video."""


def episodes_at(recording: Path) -> list[Path]:
    """Return the episode files of a folder, or the given one.

    Raises:
        RecordingError: when there is none.
    """
    if not recording.is_dir():
        return [recording]
    paths = list_episodes(recording)
    if not paths:
        raise RecordingError(f"{recording} has no episode; record some with: playloom record --out {recording}")
    return paths


def view_episode(
    path: Path,
    out: Path,
    every: int = 10,
    verify: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> ViewedEpisode:
    """Render an episode and write `<name>.png` and `<name>.mp4` into `out`.

    Args:
        path: the episode's `.npz` or `.json`.
        out: folder for both; made if needed.
        every: steps between two pictures of the sheet.
        verify: compare the frames with the recorded hash.
        progress: called with (steps done, steps in all).

    Raises:
        RecordingError: when the episode cannot be read.
        GameError: when the game fails, or its frames are not those recorded.
        ConfigError: when `every` is below 1.
    """
    if every < 1:
        raise ConfigError(f"--every is {every}; expected a whole number from 1")
    episode = load_episode(path)
    players = [episode.meta.style] * episode.meta.steps
    return write_views(episode, out / path.stem, players, every=every, verify=verify, progress=progress)


def write_views(
    episode: Episode,
    stem: Path,
    players: list[str],
    *,
    every: int,
    verify: bool = True,
    manifest: Manifest | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ViewedEpisode:
    """Render an episode and write `<stem>.png` and `<stem>.mp4`.

    The frames are the game's own, so they have no mark of generated ones. `players` names the player of every step, for
    the caption of the drawn controller. `manifest` is for the inputs of a model. Other arguments as `view_episode`.
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
    write_picture(sheet, contact_sheet(wrap(tiles, _COLUMNS), title=title, tile_width=_TILE_WIDTH), manifest)
    return ViewedEpisode(sheet=sheet, video=video, steps=meta.steps)
