"""What docs/env.md shows is run as it stands there, on the bundled model and, at its end, in the real game."""

import re
from pathlib import Path
from typing import Any

import numpy as np

PAGE = Path(__file__).parents[2] / "docs" / "env.md"


def test_the_page_is_true() -> None:
    first, planner, vector, arena = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(first, names)
    assert names["frame"].shape == (180, 300, 3) and names["reward"] == 0
    assert not np.array_equal(names["picture"], names["frame"])

    exec(planner, names)
    env, found = names["env"], names["rewards"]
    env.reset(seed=0)
    rests = [env.step(0)[1] for _ in found]
    assert np.mean(found) > np.mean(rests) + 0.05 and found[-1] > -0.1 > rests[-1]
    assert len(planner.splitlines()) < 40

    exec(vector, names)
    assert names["frames"].shape == (8, 180, 300, 3) and names["rewards"].shape == (8,)

    exec(arena, names)
    assert names["off_sun"](names["frame"]) < 0.15
    env.close()
