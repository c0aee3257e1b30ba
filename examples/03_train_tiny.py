"""Train a tiny model on a synthetic game: the right stick turns a panorama.

Needs the extra `train`. Arguments: training steps of each network (default 200).
"""

import subprocess
import sys
from pathlib import Path

import numpy as np

import playloom
from playloom.actions.codec import encode_named
from playloom.media.clips import Clip, write_clip

steps = sys.argv[1] if len(sys.argv) > 1 else "200"
source = np.random.default_rng(0)
panorama = source.integers(0, 256, (16, 200, 3), np.uint8).repeat(6, axis=1)[:, :1024]

for number in range(6):
    state = np.zeros((60, 16), np.float32)  # in the order of `CONTROLS`
    state[:, 2] = np.clip(np.cumsum(source.normal(0, 0.4, 60)) * 0.5, -1, 1)
    actions = encode_named(state)
    moves = actions[:-1, 14].astype(int) - 5
    places = np.concatenate([[0], np.cumsum(moves)])  # the action of step t moves frame t + 1
    frames = np.stack([np.roll(panorama, -place, axis=1)[:, :24] for place in places])
    write_clip(Path("game") / f"{number}.npz", Clip(frames, actions))

short = ["--preset", "tiny", "--steps", steps, "--batch", "4"]
for words in (
    ["import", "game", "--out", "data", "--preset", "tiny"],
    ["train", "tokenizer", "--data", "data", "--out", "runs/tokenizer", *short],
    ["train", "world", "--data", "data", "--tokenizer", "runs/tokenizer", "--out", "runs/world", *short],
):
    subprocess.run([sys.executable, "-m", "playloom", *words], check=True)

model = playloom.load("runs/world/model")
print(model.dream("game/5.npz", actions="turn_right for 10").save("tiny.gif"))
