"""Games to record: the arena in ViZDoom with its bots, and any Gymnasium environment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from playloom.data.recording import Episode


def render(episode: Episode) -> Iterator[NDArray[np.uint8]]:
    """Render a recording, frames uint8 [180, 300, 3]; the game is imported only now."""
    from playloom.games.arena.env import render_episode

    return iter(render_episode(episode))


def render_edited(episode: Episode) -> Iterator[NDArray[np.uint8]]:
    """Render a recording with foreign objects, see `render`."""
    from playloom.games.arena.env import render_edited

    return render_edited(episode)
