"""The page to play on that the hook of mkdocs.yml writes into the built docs."""

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from playloom.server import static_page

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("complete", [True, False], ids=["complete", "without the runtime"])
def test_the_hook_writes_the_page_that_the_docs_embed(complete, tmp_path, monkeypatch):
    if not complete:
        monkeypatch.setattr(static_page, "_RUNTIME", tmp_path / "missing")
    runpy.run_path(str(DOCS / "hooks.py"))["on_post_build"](SimpleNamespace(site_dir=str(tmp_path / "site")))
    for target in re.findall(r'(?:href|src)="([^"]+)"', (DOCS / "try.md").read_text(encoding="utf-8")):
        page = (tmp_path / "site/try" / target / "index.html").read_text(encoding="utf-8")
        assert ("playloom-static" in page) == complete
        assert ("has no page to play on" in page) != complete
