"""Dream with onnxruntime, NumPy and Pillow alone: no playloom, no torch.

python 07_onnx_without_playloom.py MODEL PROMPT.npz writes onnx.gif, in which the player walks forward. MODEL is a
folder of `playloom export onnx`; PROMPT.npz has `frames` and `actions`, such as those in `assets/prompts`.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

folder, prompt = Path(sys.argv[1]), np.load(sys.argv[2])
about = json.loads((folder / "onnx.json").read_text())
onnxruntime.set_default_logger_severity(3)  # a cache bound as input and output would not be copied, as warnings say
graphs = {name: onnxruntime.InferenceSession(folder / f"{name}.onnx") for name in about["graphs"]}
step, vocabulary, caches, sampling = about["step"], about["vocabulary"], about["caches"], about["sampling"]
heads, groups, width = about["heads"]  # of queries, of keys and values, and the width of each
order = np.concatenate([one["positions"] for one in step["passes"]])
pass_of = np.repeat(np.arange(len(step["passes"])), [len(one["positions"]) for one in step["passes"]])
size, images, actions = step["positions"], step["image_slots"], slice(step["image_slots"], -2)
state = {}  # keys and values of each layer: keyframes, past steps, and behind them the current step
for layer, number in enumerate(about["cache_of_layer"]):
    shape = (1, groups, (caches[number]["capacity"] + 1) * size, width)
    state |= {f"{kind}_{layer}": np.zeros(shape, np.float32) for kind in ("keys", "values")}
tokens = np.full((1, step["columns"]), vocabulary["no_token"])  # slots, no token, the previous step's last token
previous, done, random = tokens[:, actions].copy(), 0, np.random.default_rng(0)


def run(first, last):
    """Run some passes of the open step, cache their keys and values; return logits [R, V] of the slots they predict."""
    passes = step["passes"][first:last]
    start, stop = passes[0]["first"], passes[-1]["first"] + len(passes[-1]["positions"])
    inputs = dict(zip(("places", "cosine", "sine"), table, strict=True)) | state
    inputs |= {"ids": tokens[:, np.concatenate([one["columns"] for one in passes])], "order": np.arange(start, stop)}
    inputs["rows"] = np.array([row for one in passes for row in one["rows"]] if last == first + 1 else [], np.int64)
    for number, cache in enumerate(caches):
        past, early = cache["capacity"] * size, max(0, done - cache["steps"] + 1)
        seen = min(cache["keyframes"], -(-early // cache["every"])) + min(done, cache["steps"] - 1)
        bound = np.full((stop - start, past + size), -60, np.float32)  # an upper bound of each attention score
        bound[:, past - seen * size : past] = np.inf
        bound[:, past:][pass_of <= pass_of[start:stop, None]] = np.inf
        bound = np.tile(bound, (heads // groups, 1))[None, None]  # heads that share keys are more queries
        inputs |= {f"start_{number}": np.array([past + start]), f"mask_{number}": bound}
    logits, *new = graphs["transformer"].run(["logits", *(f"new_{name}" for name in state)], inputs)
    state.update(zip(state, new, strict=True))
    return logits[0]


def frame(codes=None):
    """Open a step with the codes of a picture, or draw them; return them."""
    global table
    previous[:], tokens[:, -1] = tokens[:, actions], tokens[:, -3]
    steps = {"positions": order, "steps": np.array([done]), "previous": previous}
    table = graphs["step"].run(["places", "cosine", "sine"], steps)
    if codes is not None:
        tokens[:, :images] = codes
        run(0, step["image_passes"])
    for index, one in enumerate(step["passes"][: step["image_passes"]] if codes is None else []):
        logits = run(index, index + 1)[:, : vocabulary["codes"]]
        scaled = logits / sampling["temperature"] + random.gumbel(size=logits.shape)
        if weight := sampling.get("risk_weight"):
            scaled -= weight * graphs["risk"].run(None, {"logits": logits[None]})[0][0]
        tokens[0, one["slots"]] = scaled.argmax(-1)
    return tokens[:, :images]


def action(values):
    """Complete the step with the values of the sixteen controls; make it the newest past step."""
    global done
    tokens[:, actions] = values + np.array(vocabulary["action_offsets"])
    run(step["image_passes"], len(step["passes"]))
    for layer, number in enumerate(about["cache_of_layer"]):
        cache, ring = caches[number], caches[number]["steps"] - 1
        slot, (keyframe, rest) = cache["capacity"] - 1 - done % ring, divmod(done - ring, cache["every"])
        for kind in ("keys", "values"):
            by_step = state[f"{kind}_{layer}"].reshape(groups, -1, size, width)
            if cache["keyframes"] and keyframe >= 0 and rest == 0:
                by_step[:, cache["keyframes"] - 1 - keyframe % cache["keyframes"]] = by_step[:, slot]
            by_step[:, slot] = by_step[:, -1]
    done += 1


for picture, values in zip(prompt["frames"][:10], prompt["actions"][:10], strict=True):
    frame(graphs["encoder"].run(None, {"frames": picture[None]})[0])
    action(values)
forward, pictures = np.array([0] * 12 + [5, 10, 5, 5]), []
for _ in range(30):
    pictures.append(Image.fromarray(graphs["decoder"].run(None, {"codes": frame()})[0][0]))
    action(forward)
pictures[0].save("onnx.gif", save_all=True, append_images=pictures[1:], duration=100, loop=0)
