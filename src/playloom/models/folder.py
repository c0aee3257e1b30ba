"""Models on disk without their networks: folder, config, card and fingerprints; and the bundled models."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import playloom
from playloom.atomic_io import atomic_folder
from playloom.errors import CheckpointError, ConfigError, did_you_mean
from playloom.json_io import read_json, write_json
from playloom.models.card import CARD, model_card, write_card
from playloom.models.config import ModelConfig

if TYPE_CHECKING:
    from torch import nn

FORMAT = 1  # format of `model.json`
WEIGHTS = ("tokenizer.safetensors", "transformer.safetensors", "heads.safetensors")
"""Files of the networks; the last only with heads."""
FILES = ("model.json", "*.safetensors", "*.onnx", "onnx.json", "*.md", "prompts/*")
"""Files of a model's folder, as patterns."""
OUTDATED = (WEIGHTS[-1], "*.onnx", "onnx.json")
"""Files that belong to the weights they were written with, and that not every model has, as patterns."""
MEASURED = ("row_delay", "sampling", "evaluation")
"""Entries of a model's card that an evaluation writes."""
_BUNDLE = Path(__file__).parents[1] / "assets" / "models"
_SAMPLING = ("temperature", "top_k", "top_p", "action_temperature", "risk_weight")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ModelDescription:
    """A model's facts, without its networks."""

    config: ModelConfig
    card: dict[str, Any] = field(default_factory=dict)
    """Facts recorded by the training run: data seeds, updates, hardware, metrics."""
    fingerprint: str = "fresh"
    """Name of exactly these weights, for manifests."""
    folder: Path | None = None
    """Folder it was read from, with its prompts; None: it was not."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """Fingerprint of each weights file in the folder."""

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """Networks of a `WorldModel`; none of a model whose networks are not loaded."""
        return ()


def bundled_models() -> list[str]:
    """Return the names of the bundled models."""
    return sorted(path.parent.name for path in _BUNDLE.glob("*/model.json"))


def model_folder(name: str | Path | None = None) -> Path:
    """Return the folder of a bundled model's name, or of a path with `model.json`; None: the first bundled model."""
    names = bundled_models()
    if name is None and names:
        return _BUNDLE / names[0]
    if name in names:
        return _BUNDLE / str(name)
    if name is not None and holds_file(Path(name), "model.json"):
        return Path(name)
    raise CheckpointError(
        f"{str(name)!r:.200} is neither a folder with model.json nor a bundled model; {did_you_mean(str(name), names)}"
    )


def holds_file(folder: Path, name: str) -> bool:
    """Return whether a folder holds a file; False where that cannot be read, or for a text that no path can be."""
    try:
        return (folder / name).is_file()
    except OSError:
        return False


def read_model(folder: Path | str) -> ModelDescription:
    """Read `model.json` of a model's folder, or of a bundled model by name. CheckpointError when it is damaged."""
    folder = model_folder(folder) if folder in bundled_models() else Path(folder)
    content = _read_model_json(folder)
    try:
        config = ModelConfig.from_dict(content["config"])
        weights = {name: str(content["weights"][name]) for name in WEIGHTS[: 2 if config.heads is None else 3]}
        card = _checked_card(content.get("card", {}))
    except (KeyError, TypeError, ConfigError) as error:
        cause = f"it has no {error}" if isinstance(error, KeyError) else error
        raise CheckpointError(f"{folder / 'model.json'} is damaged or of another version: {cause}") from error
    return ModelDescription(
        config=config,
        card=card,
        fingerprint=hashlib.blake2b(" ".join(weights.values()).encode(), digest_size=8).hexdigest(),
        folder=folder,
        weights=weights,
    )


@contextmanager
def replace_files(folder: Path, last: str, *outdated: str) -> Iterator[Path]:
    """Fill a temporary folder whose files then replace those of the same names in `folder`; other files stay.

    The file `last` is replaced last. Files of the patterns `outdated` that have no successor are removed. When the body
    raises, `folder` stays as it was.
    """
    staged = folder / ".staged"
    for leftover in folder.glob("*.staged*"):  # of a killed writer
        shutil.rmtree(leftover, ignore_errors=True)
    with atomic_folder(staged) as temporary:
        yield temporary
    files = sorted((path for path in staged.rglob("*") if path.is_file()), key=lambda path: path.name == last)
    places = [folder / path.relative_to(staged) for path in files]
    for old in {path for pattern in outdated for path in folder.glob(pattern)} - {*places}:
        old.unlink()
    for path, place in zip(files, places, strict=True):
        place.parent.mkdir(parents=True, exist_ok=True)
        path.replace(place)
    shutil.rmtree(staged)


def copy_model(source: Path, folder: Path) -> None:
    """Copy a model's files into another folder, see `replace_files`."""
    if source.resolve() == folder.resolve():
        return
    with replace_files(folder, "model.json", *OUTDATED) as temporary:
        for path in (path for pattern in FILES for path in source.glob(pattern) if path.is_file()):
            place = temporary / path.relative_to(source)
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, place)


def fingerprint(path: Path) -> str:
    """Return a short name for exactly these bytes: 16 hex digits of BLAKE2b."""
    digest = hashlib.blake2b(digest_size=8)
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def check_fingerprint(path: Path, expected: str) -> None:
    """Raise a CheckpointError unless the file is there and has these bytes."""
    try:
        found = fingerprint(path)
    except OSError as error:
        raise CheckpointError(f"{path} is missing or damaged ({error}); fetch or export it again") from error
    if found != expected:
        raise CheckpointError(f"{path} is not the file that the JSON file beside it names; export it again")


def update_card(folder: Path, changes: Mapping[str, Any]) -> None:
    """Replace entries of a model's card, in `model.json` and `card.md`."""
    content = _read_model_json(folder)
    content["card"] = {**content.get("card", {}), **changes}
    write_card(folder, model_card(ModelConfig.from_dict(content["config"]), content["card"]))
    write_json(folder / "model.json", content)


def read_card(name: str) -> str:
    """Return the card, as Markdown, of a bundled model's name, a model's folder, or the folder of a training run."""
    places = [Path(name), Path(name) / "model"] if name not in bundled_models() else []
    found = [place for place in places if holds_file(place, CARD) or holds_file(place, "model.json")]
    folder = found[0] if found else model_folder(name)
    if not (folder / CARD).is_file():
        model = read_model(folder)
        return model_card(model.config, model.card)
    try:
        return (folder / CARD).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{folder / CARD} cannot be read ({error}); export the model again") from error


def _checked_card(card: object) -> dict[str, Any]:
    """Check the recommended decode order and sampling, which may be edited by hand."""
    if not isinstance(card, dict):
        raise ConfigError(f"its card is wrong: got {card!r:.60}, expected an object")
    sampling = card.get("sampling") or {}
    if not isinstance(sampling, dict):
        raise ConfigError(f"the card's sampling is wrong: got {sampling!r:.60}, expected an object")
    for name, value in {"row_delay": card.get("row_delay"), **sampling}.items():
        if name not in ("row_delay", *_SAMPLING):
            raise ConfigError(f"the card's sampling has an unknown key {name!r}; {did_you_mean(name, _SAMPLING)}")
        if value is not None and not isinstance(value, int if name == "row_delay" else int | float):
            raise ConfigError(f"the card's {name} is wrong: got {value!r:.60}, expected a number")
    return card


def _read_model_json(folder: Path) -> dict[str, Any]:
    path = folder / "model.json"
    content = read_json(path, CheckpointError, "give a model's folder, or export the model again")
    if content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is of format {content.get('format')!r}; this playloom ({playloom.__version__}) reads format "
            f"{FORMAT}: use the playloom that wrote it, or export the model again"
        )
    return content
