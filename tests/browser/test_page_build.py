"""The committed page is the build of the committed sources, small, and asks nothing of anybody but its own server."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

WEB = Path(__file__).parents[2] / "web"
BUILT = Path(__file__).parents[2] / "src" / "playloom" / "server" / "static"
SHAPERS = ("index.html", "package.json", "package-lock.json", "vite.config.ts", "stamp.ts", "public", "src")
MOST_BYTES = 450_000


def hash_of_sources(root: Path) -> str:
    """SHA-256 over path, length and content of all that shapes the build, as `web/stamp.ts` takes it."""
    files = [
        file for name in SHAPERS for file in ([root / name] if (root / name).is_file() else (root / name).rglob("*"))
    ]
    named = sorted((file.relative_to(root).as_posix(), file) for file in files if file.is_file())
    total = hashlib.sha256()
    for name, file in named:
        content = file.read_bytes()
        total.update(f"{name}\n{len(content)}\n".encode())
        total.update(content)
    return total.hexdigest()


def test_the_build_is_of_these_sources():
    stamped = json.loads((BUILT / "build.json").read_text(encoding="utf-8"))["sources"]
    assert stamped == hash_of_sources(WEB), "web/ has changed since the page was built: run `npm run build` in web/"


def test_a_change_of_one_byte_would_be_seen(tmp_path):
    for name in SHAPERS:
        target = tmp_path / name
        if (WEB / name).is_dir():
            target.mkdir()
            (target / "some.ts").write_text("1")
        else:
            target.write_text("1")
    before = hash_of_sources(tmp_path)
    (tmp_path / "src" / "some.ts").write_text("2")
    assert hash_of_sources(tmp_path) != before


def test_it_is_small_and_has_no_map_files():
    files = [file for file in BUILT.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".html", ".svg", ".json", ".js", ".mjs", ".css", ".txt"}
    assert sum(file.stat().st_size for file in files) < MOST_BYTES


def test_the_licences_of_what_is_bundled_travel_with_it():
    needed = json.loads((WEB / "package.json").read_text(encoding="utf-8"))["dependencies"]
    text = (BUILT / "licences.txt").read_text(encoding="utf-8")
    assert all(f"\n{name}\n" in text for name in needed)
    assert text.count("Permission is hereby granted") >= len(needed)


def test_index_names_only_files_that_are_there():
    page = (BUILT / "index.html").read_text(encoding="utf-8")
    named = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(named) >= 3
    for address in named:
        assert address.startswith("./")
        assert (BUILT / address).is_file()


def test_nothing_is_fetched_from_elsewhere():
    """No address of another host, but for names of XML namespaces and React's pages on its errors, which are text."""
    kinds = {".html", ".js", ".mjs", ".css", ".svg"}
    text = "".join(file.read_text(encoding="utf-8") for file in BUILT.rglob("*") if file.suffix in kinds)
    hosts = set(re.findall(r"https?://([^/\"'`\s?]+)", text))
    assert hosts <= {"www.w3.org", "react.dev"}
    assert "sourceMappingURL" not in text
