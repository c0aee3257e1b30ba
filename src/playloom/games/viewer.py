"""Contact sheet and video of a recorded episode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from playloom.data.recording import Episode, list_episodes
from playloom.errors import RecordingError
from playloom.games.arena.env import render_episode
from playloom.media.contact_sheet import Tile, contact_sheet, film_frames, wrap
from playloom.media.images import write_picture
from playloom.media.video import write_mp4
from playloom.provenance import Manifest


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
