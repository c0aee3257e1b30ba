"""The Python code of README and docs/stories.md runs against a real server."""

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from serving_toys import finished, served


@pytest.mark.parametrize("page", ["docs/stories.md"])
def test_what_the_pages_show_is_run_as_it_stands_there(page, tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / page).read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "/v1/stories" in block]
    monkeypatch.chdir(tmp_path)
    with served() as (address, _):
        code = code.replace("127.0.0.1:5000", address)
        subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
        with httpx.Client(base_url=f"http://{address}") as web:
            (item,) = web.get("/v1/stories").json()["stories"]
            assert finished(web, item["id"])["branches"][3]["frames_done"] == 20
    if "mp4" in code:
        assert sorted(path.name for path in tmp_path.iterdir()) == [f"branch-{i}.mp4" for i in range(4)]
