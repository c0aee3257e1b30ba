"""The outputs worth keeping, copied into a folder that is easy to carry away: few files, two folders deep at most.

Owns what is worth keeping and the archive of small things. Runs no stage.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from playloom.atomic_io import atomic_write

LARGEST = 16 * 2**20
"""Bytes a file should stay under; some ways of carrying files end there."""
_MODEL = ("model.json", "card.md", "tokenizer.safetensors", "transformer.safetensors")


def collect(run: Path, target: Path) -> tuple[list[Path], list[str]]:
    """Copy what is there so far: the model, the trained tokenizer until there is one, the figures, and one archive.

    `extras.zip` holds stamps, logs, the newest previews, the evaluation's pictures and the chosen moments.

    Args:
        run: a run's folder, finished or not.
        target: made if needed; files of an earlier call are replaced.

    Returns:
        The files written, and a note for each that is too large to carry in one piece.
    """
    written = [_copy(run / "export/model" / name, target / "model" / name) for name in _MODEL]
    if not (run / "export/model/model.json").is_file():
        names = ("tokenizer.json", "tokenizer.safetensors")
        written += [_copy(run / "tokenizer" / name, target / "tokenizer" / name) for name in names]
    written.append(_copy(run / "evaluate/evaluation.json", target / "evaluation.json"))
    written.append(_archive(run, target / "extras.zip"))
    files = [path for path in written if path is not None]
    large = [path for path in files if path.stat().st_size >= LARGEST]
    notes = [f"{path} is {path.stat().st_size / 2**20:.1f} MiB; more than {LARGEST / 2**20:.0f}" for path in large]
    return files, notes


def _copy(source: Path, target: Path) -> Path | None:
    if not source.is_file():
        return None
    with atomic_write(target) as temporary:
        shutil.copyfile(source, temporary)
    return target


def _archive(run: Path, target: Path) -> Path:
    files = [*sorted((run / "stamps").glob("*.json")), *sorted((run / "export/moments").glob("*"))]
    files += sorted((run / "evaluate/pictures").glob("*.png"))
    for stage in ("tokenizer", "world"):
        files += [path for path in [run / stage / "log.jsonl"] if path.is_file()]
        files += sorted((run / stage / "previews").glob("*.png"))[-3:]
    with atomic_write(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.write(path, path.relative_to(run).as_posix())
    return target
