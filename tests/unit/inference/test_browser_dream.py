"""The dream of `web/test/dream.json`, which the page's own runtime must repeat token by token, made by onnxruntime.

The noise is that of the page: a hash of seed, step and choice. To write the file again:
`python tests/unit/inference/test_browser_dream.py`.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnxruntime")

from playloom.data.prompts import find_prompt, load_prompt
from playloom.inference.generate import open_engine
from playloom.inference.sampling import Sampling
from playloom.inference.session import Prompt, StepInput

FILE = Path(__file__).parents[3] / "web" / "test" / "dream.json"
SEED, STEPS = 7, 8
SAMPLING = Sampling(temperature=1.0, action_temperature=1.0, risk_weight=3.0)


def scramble(value: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The finaliser of MurmurHash3."""
    bits = (value ^ (value >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return bits ^ (bits >> np.uint32(16))


class PageNoise:
    """The page's source of draws, with the method of a NumPy generator that the sampler calls."""

    def __init__(self, seed: int) -> None:
        self.seed, self.asked = np.array([seed], np.uint32), 0

    def standard_exponential(self, shape: tuple[int, int], dtype: type[np.float32]) -> NDArray[np.float32]:
        key = scramble(self.seed ^ scramble(np.array([self.asked], np.uint32)))
        self.asked += 1
        hashed = scramble(key + np.arange(shape[0] * shape[1], dtype=np.uint32) * np.uint32(0x9E3779B9))
        return -np.log((hashed.astype(np.float64) + 0.5) / 2**32).astype(dtype).reshape(shape)


def dream() -> dict[str, object]:
    """The prompt's codes and actions; then frames after given actions and, every third step, a sampled one."""
    engine = open_engine("arena-live", backend="onnx")
    data = load_prompt(find_prompt("plaza-explorer"), context=10, frame_size=(180, 300))
    prompt = Prompt(frames_THWC=data.frames_THWC, actions_TA=data.actions_TA)
    codes_TN = engine.codes(prompt)
    session = engine.open(
        Prompt(frames_THWC=data.frames_THWC, actions_TA=data.actions_TA, codes_TN=codes_TN), sampling=SAMPLING
    )
    session.source = PageNoise(SEED)  # type: ignore[assignment]
    given = data.true_next_actions_SA
    found = [
        engine.step([StepInput(session, None if step % 3 == 2 else given[step])], decode=step == STEPS - 1)[0]
        for step in range(STEPS)
    ]
    assert found[-1].frame_HWC is not None
    return {
        "prompt": {"codes": codes_TN.tolist(), "actions": data.actions_TA.tolist()},
        "seed": SEED,
        "temperature": SAMPLING.temperature,
        "action_temperature": SAMPLING.action_temperature,
        "risk_weight": SAMPLING.risk_weight,
        "given": [result.action_given for result in found],
        "actions": [result.action_A.tolist() for result in found],
        "codes": [result.codes_N.tolist() for result in found if result.codes_N is not None],
        "pixels": found[-1].frame_HWC[::30, ::30].reshape(-1, 3).tolist(),
    }


def test_the_page_is_compared_with_what_this_backend_dreams() -> None:
    kept, now = json.loads(FILE.read_text(encoding="utf-8")), dream()
    assert np.abs(np.subtract(kept.pop("pixels"), now.pop("pixels"))).max() <= 1
    assert kept == now


if __name__ == "__main__":
    FILE.write_text(json.dumps(dream(), separators=(",", ":")) + "\n", encoding="utf-8")
