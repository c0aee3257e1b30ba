"""PSNR of a tokenizer's reconstructions inside the masks of enemies, pick-ups and shots.

    python benchmarks/object_reconstruction.py RECORDINGS MODEL [MODEL ...]

Test episodes of the arena are replayed, and every tenth frame is encoded and decoded. The engine's label buffer
gives the masks. The squared errors of all pixels of a class are pooled. Prints a Markdown table.
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from playloom.actions.codec import decode_values
from playloom.data.recording import Episode, list_episodes, load_episode, load_meta
from playloom.games.arena.engine import DoomEngine, GameSpec
from playloom.models.checkpoint import load_model
from playloom.models.folder import model_folder

EPISODES, EVERY, BATCH = 20, 10, 16
SHOTS = ("PlasmaBall", "LoomBall", "BulletPuff", "Blood", "Rocket")
SCENERY = ("Torch", "Pillar", "Loom", "Fog")
Masks = dict[str, NDArray[np.bool_]]


def kind_of(name: str, own: bool) -> str | None:
    """Return the class of a labelled object; None for scenery and foreign objects."""
    if name in ("LoomPlayer", "LoomBot", "DoomPlayer"):
        return "own body" if own else "enemies"
    if name in SHOTS:
        return "shots"
    return None if any(part in name for part in SCENERY) else "pick-ups"


def labelled_frames(episode: Episode) -> Iterator[tuple[NDArray[np.uint8], Masks]]:
    """Yield frames, uint8 [180, 300, 3], and a mask of each class, bool [180, 300]."""
    meta, states = episode.meta, decode_values(episode.actions_TA)
    with tempfile.TemporaryDirectory() as folder:
        game = DoomEngine(GameSpec(variant=meta.variant, mode=meta.mode, seed=meta.seed), Path(folder), enemy_info=True)
        for step in range(meta.steps - 1):
            if step % EVERY == 0:
                state, row = game._state(), game.row()
                labels_HW = state.labels_buffer[:, 10:-10]
                masks: Masks = defaultdict(lambda: np.zeros((180, 300), bool))
                for label in state.labels:
                    own = np.hypot(label.object_position_x - row[0], label.object_position_y - row[1]) < 4
                    if kind := kind_of(label.object_name, bool(own)):
                        masks[kind] |= labels_HW == label.value
                yield game.frame(), masks
            game.step(states[step])
        game.close()


def main(recordings: str, names: list[str]) -> None:
    """Print the table."""
    models = {name: load_model(model_folder(name), torch.device("cpu")) for name in names}
    errors: dict[tuple[str, str], float] = defaultdict(float)
    pixels: dict[str, int] = defaultdict(int)
    paths = [path for path in list_episodes(Path(recordings).resolve()) if load_meta(path).split == "test"][:EPISODES]
    for path in paths:
        labelled = list(labelled_frames(load_episode(path)))
        for first in range(0, len(labelled), BATCH):
            frames, masks = zip(*labelled[first : first + BATCH], strict=True)
            truth = np.stack(frames)
            for name, model in models.items():
                with torch.inference_mode():
                    decoded = model.tokenizer.decode(model.tokenizer.encode(torch.from_numpy(truth))).cpu().numpy()
                squares_BHW = ((decoded.astype(np.float64) - truth) ** 2).mean(axis=-1)
                for squares_HW, by_kind in zip(squares_BHW, masks, strict=True):
                    for kind, mask in [*by_kind.items(), ("whole frame", np.ones(squares_HW.shape, bool))]:
                        errors[name, kind] += squares_HW[mask].sum()
            for by_kind in masks:
                for kind, mask in [*by_kind.items(), ("whole frame", np.ones(truth.shape[1:3], bool))]:
                    pixels[kind] += int(mask.sum())
    print("| pixels of | count | " + " | ".join(names) + " |\n|---|--:|" + "--:|" * len(names))
    for kind in sorted(pixels):
        values = [f"{10 * np.log10(255**2 * pixels[kind] / errors[name, kind]):.2f} dB" for name in names]
        print(f"| {kind} | {pixels[kind]:,} | " + " | ".join(values) + " |")


if __name__ == "__main__":
    main(sys.argv[1], [str(Path(name).resolve()) if Path(name).exists() else name for name in sys.argv[2:]])
