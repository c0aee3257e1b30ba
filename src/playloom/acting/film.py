"""A game that was played, made visible: a sheet and a film of its real frames, the controller drawn beside them.

Owns what a step looks like and says who pressed. The frames are rendered again from the recording, which proves it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from playloom.acting.play import Played
from playloom.data.recording import episode_key
from playloom.games.arena import render_episode
from playloom.games.viewing import describe
from playloom.media.animation import write_mp4
from playloom.media.pictures import write_picture
from playloom.media.sheet import Tile, contact_sheet, film_frames, wrap
from playloom.provenance import Manifest

_COLUMNS, _TILE_WIDTH, _TILES = 6, 180, 60


def write_film(folder: Path, played: Played, *, who: str, manifest: Manifest | None = None) -> tuple[Path, Path]:
    """Write `<key>.png` and `<key>.mp4` into `folder`.

    The pictures are the game's own, so they are not marked as generated.

    Args:
        folder: where; made if needed.
        played: the recording, and which steps are the player's own.
        who: the player, in a word or two; other steps are captioned as the script's.
        manifest: goes into both files, where the inputs are a model's.

    Returns:
        Sheet and film.

    Raises:
        GameError: when the game fails, or its frames are not those that were played with.
        PlayloomError: when the place cannot be written to.
    """
    episode = played.episode
    tiles: list[Tile] = []
    every = max(10, -(-episode.meta.steps // _TILES))

    def frames() -> Iterator[list[Tile]]:
        for step, frame_HWC in enumerate(render_episode(episode)):
            values_A = episode.actions_TA[step]
            presses = who if played.own_T[step] else "script"
            tile = Tile(frame_HWC=frame_HWC, kind="real", caption=f"step {step}", pads=[(values_A, presses)])
            if step % every == 0:
                tiles.append(tile)
            yield [tile]

    key, title = episode_key(episode.meta), describe(episode.meta)
    sheet, film = folder / f"{key}.png", folder / f"{key}.mp4"
    write_mp4(film, film_frames(frames(), kinds=["real"], title=title), manifest=manifest)
    write_picture(sheet, contact_sheet(wrap(tiles, _COLUMNS), title=title, tile_width=_TILE_WIDTH), manifest)
    return sheet, film
