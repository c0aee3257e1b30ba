"""Load a world model and use it from Python: clips, sessions, and models on the Hugging Face Hub."""

from __future__ import annotations

import dataclasses
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from playloom.actions.codec import Schema
from playloom.actions.script import Action, as_script
from playloom.atomic_io import ensure_writable
from playloom.errors import BadInputError, CheckpointError, import_extra
from playloom.games import render
from playloom.inference.backend import BackendName
from playloom.inference.engine import Engine
from playloom.inference.generate import DreamJob, GenerationConfig, generate_clip, open_engine
from playloom.inference.sampling import Sampling
from playloom.inference.session import Mode, Prompt, Session
from playloom.media.images import ResizeMode
from playloom.media.output_folder import GeneratedClip
from playloom.models.card import CARD
from playloom.models.decode_order import DecodeOrder
from playloom.models.folder import FILES, bundled_models, copy_model, model_folder

_HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
_HUB_HEADER = "---\nlibrary_name: playloom\ntags: [world-model]\n---\n"


class Model:
    """A loaded world model with the engine that runs it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        """Runs any number of sessions as one batch."""

    def __repr__(self) -> str:
        world_model = self.engine.model
        millions = world_model.config.parameter_count / 1e6
        return f"Model({self.name}, {millions:.1f} million parameters on {self.engine.device})"

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.engine.model.config.name

    @property
    def card(self) -> Mapping[str, Any]:
        """Facts that training recorded: data, hardware, figures, recommended sampling."""
        return self.engine.model.card

    @property
    def sampling(self) -> Sampling:
        """Sampling that the card recommends, used where none is given."""
        return Sampling.from_card(self.card)

    def dream(
        self,
        prompt: str | Path | Prompt | None = None,
        actions: Action | Iterable[Action] | Path | None = None,
        *,
        steps: int | None = None,
        mode: Mode = "world",
        schema: Schema | None = None,
        seed: int = 0,
        sampling: Sampling | None = None,
        context: int | None = None,
        start_step: int | None = None,
        resize: ResizeMode = "crop",
        progress: Callable[[int, int], None] | None = None,
    ) -> GeneratedClip:
        """Generate a clip after a prompt.

        Args:
            prompt: a bundled prompt's name, a picture, a folder of pictures, a recording, an `.npz`, an earlier clip's
                folder, or frames and actions; None: the first of the model's own prompts, else of
                the bundled ones.
            actions: a script ("turn_right for 10; forward for 2s"), a CSV file, inputs by name, or one action for each
                step; None: the recorded ones, else rest.
            steps: number of steps of 0.1 s; None: as many as actions, else 10.
            mode: `world` generates frames, `policy` actions, `full` both.
            schema: encoding of raw numbers in `actions`: `named` or `binned`.
            seed: the same request and seed give the same clip.
            sampling: None, or a field that is None: the card's.
            context: number of context frames; None: as many as the model has.
            start_step: step of the prompt to continue from, from 0.
            resize: resize mode of pictures of another shape: `crop` or `letterbox`.
            progress: called after every step with the steps done and the steps in all.
        """
        if isinstance(actions, Path):
            actions = str(actions)
        job = DreamJob(
            **self._start(prompt, sampling, context, seed=seed, start_step=start_step, resize=resize),
            actions=None if actions is None else as_script(actions, schema),
            steps=steps,
            mode=mode,
            schema=schema or "named",
        )
        return generate_clip(self.engine, job, render=render, progress=progress)

    def open(
        self,
        prompt: str | Path | Prompt | None = None,
        *,
        seed: int = 0,
        sampling: Sampling | None = None,
        context: int | None = None,
        start_step: int | None = None,
        resize: ResizeMode = "crop",
    ) -> Session:
        """Open a session on a prompt; then `session.step("forward")`, `session.fork()`, `session.close()`.

        Args are those of `dream`. Notes on the prompt become Python warnings.
        """
        options = self._start(prompt, sampling, context, seed=seed, start_step=start_step, resize=resize)
        config = GenerationConfig(**options)
        found, data = config.read_prompt(self.engine, horizon=0, render=render)
        for note in data.notes:
            warnings.warn(note, stacklevel=2)
        return self.engine.open(found, sampling=config.sampling(self.engine.model), seed=seed)

    def _start(
        self, prompt: str | Path | Prompt | None, sampling: Sampling | None, context: int | None, **options: Any
    ) -> dict[str, Any]:
        if isinstance(prompt, Prompt) and (context, options["start_step"]) != (None, None):
            raise BadInputError("context and start_step do not apply to a Prompt; cut its frames and actions instead")
        folder, bundled = self.engine.model.folder, {model_folder(name): name for name in bundled_models()}
        return {
            "model": None if folder is None else bundled.get(folder, str(folder)),
            "backend": self.engine.backend.name,
            "prompt": str(prompt) if isinstance(prompt, Path) else prompt,
            "context": self.engine.model.config.transformer.context_steps if context is None else context,
            "decode_order": self.engine.schedule.row_delay,
            **options,
            **({} if sampling is None else dataclasses.asdict(sampling)),
        }

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder for `load`: `model.json`, `card.md` and the weights (float16 where that changes no number).

        Where onnxruntime runs the model, its files are copied.
        """
        world_model = self.engine.model
        ensure_writable(Path(folder) / "model.json")
        if not world_model.networks:
            assert world_model.folder is not None
            copy_model(world_model.folder, Path(folder))
            return
        import torch

        from playloom.models.checkpoint import require_networks, save_model

        world_model = require_networks(world_model)
        states = [tensor for network in world_model.networks for tensor in network.state_dict().values()]
        exact = all(torch.equal(t.half().to(t.dtype), t) for t in states if t.is_floating_point())
        save_model(folder, world_model, torch.float16 if exact else None)

    @classmethod
    def from_pretrained(cls, model: str | Path, **options: Any) -> Model:
        """Load a model; see `load`."""
        return load(model, **options)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload a playloom model",
    ) -> str:
        """Upload the model to the Hugging Face Hub, with its card as README; return the address of the commit.

        The repository `owner/name` is created if it is new, `private` None: with the owner's default. Without a token
        the Hub's login is used.
        """
        hub = import_extra("huggingface_hub", "hub").HfApi(token=token)
        with tempfile.TemporaryDirectory(prefix="playloom-") as folder:
            self.save_pretrained(folder)
            card = (Path(folder) / CARD).read_text(encoding="utf-8")
            (Path(folder) / "README.md").write_text(_HUB_HEADER + card, encoding="utf-8")
            hub.create_repo(repo_id, private=private, exist_ok=True)
            commit = hub.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message)
        return str(commit.commit_url)


def load(
    model: str | Path | None = None,
    *,
    device: str = "auto",
    decode_order: DecodeOrder | None = None,
    backend: BackendName = "auto",
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Model:
    """Load a world model.

    Args:
        model: a bundled model's name, a folder, or `owner/name` on the Hugging Face Hub (extra `hub`); None: the first
            bundled model.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        decode_order: `raster` or the row delay of the decoding order; None: the card's, else raster.
        backend: what runs the networks: `torch`, `onnx` (onnxruntime, on a CPU), `onnx-int8` (weights of 8 bits, less
            exact), or `auto`: onnx-int8 on a CPU where the model has ONNX graphs, else torch.
        revision: branch, tag or commit on the Hub.
        token: access token of the Hub.
        cache_dir: folder of downloads; None: the Hub's own.
        local_files_only: use only what was downloaded before.

    Raises:
        CheckpointError: when there is no such model, or its files are damaged.
        MissingExtraError: when torch is needed, or a Hub model is named, and the package for it is not installed.
        PlayloomError: when the device is not there, or has too little memory.
    """
    if isinstance(model, str) and _HUB_ID.fullmatch(model) and not Path(model).parent.exists():
        hub = import_extra("huggingface_hub", "hub")
        options = {"revision": revision, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        try:
            model = str(hub.snapshot_download(model, allow_patterns=list(FILES), **options))
        except (OSError, ValueError) as error:  # base classes of the Hub's and the network's errors
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{model} cannot be loaded from the Hugging Face Hub: {reason:.300}") from error
    name = None if model is None else str(model)
    return Model(open_engine(name, device=device, decode_order=decode_order, backend=backend))
