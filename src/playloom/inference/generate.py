"""Generate one clip from a job: a prompt, actions and settings as a user names them."""

from __future__ import annotations

import gc
import hashlib
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import REST_VALUES, Schema, check_schema
from playloom.actions.script import Script, fit_length
from playloom.atomic_io import ensure_writable
from playloom.data.prompts import PromptData, find_prompt, list_prompts, load_prompt, prompt_folder
from playloom.data.recording import Render
from playloom.device import free_memory, pick_device, set_threads
from playloom.errors import BadInputError, ResourceError
from playloom.inference.backend import BackendName, choose_backend
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.inference.session import Mode, Prompt, StepResult
from playloom.media.action_table import read_inputs
from playloom.media.images import ResizeMode
from playloom.media.output_folder import DreamFolder, GeneratedClip, OutputStep
from playloom.models.decode_order import DecodeOrder, card_row_delay
from playloom.models.folder import ModelDescription, model_folder, read_model
from playloom.provenance import Manifest, created_at, frames_hash

UNFAMILIAR_DB = 4.0  # a picture is of another game if the tokenizer keeps it worse than usual by more than this
DEFAULT_STEPS = 10
_NO_ACTIONS = np.zeros((0, len(REST_VALUES)), np.uint8)
_TINY = 1e-9
_COPIES = 8  # of every frame: in its step, in the stack, in the arrays of dream.npz, and in the wider video

Progress = Callable[[int, int], None]  # called with the number of finished steps and the total after every step


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Model, prompt and sampling of a job; None: the model card's choice, or the first bundled one."""

    model: str | None = None
    """A bundled model's name, or a folder."""
    prompt: str | Prompt | None = None
    """A name or path (see `playloom.data.prompts`), or frames and actions."""
    schema: Schema | Literal["auto"] = "named"
    """Schema of CSV files."""
    context: int = 10
    """Prompt frames that the model sees, at most its context."""
    start_step: int | None = None
    """Step of the prompt to continue from."""
    resize: ResizeMode = "crop"
    """Fit of pictures of another shape."""
    temperature: float | None = None
    """See `Sampling`, as for the next four."""
    top_k: int | None = None
    """See `Sampling`."""
    top_p: float | None = None
    """See `Sampling`."""
    action_temperature: float | None = None
    """See `Sampling`."""
    risk_weight: float | None = None
    """See `Sampling`."""
    seed: int = 0
    """Seed of all draws."""
    decode_order: DecodeOrder | None = None
    """`raster`, or the row delay."""
    device: str = "auto"
    """See `playloom.device.pick_device`."""
    backend: BackendName = "auto"
    """What runs the networks; see `BackendName`."""
    timestamp: bool = False
    """True to write the time into manifests; equal jobs give equal files without it."""

    def load_engine(self) -> Engine:
        """See `open_engine`."""
        return open_engine(self.model, device=self.device, decode_order=self.decode_order, backend=self.backend)

    def sampling(self, model: ModelDescription) -> Sampling:
        """Return the job's sampling, completed by the model's card."""
        names = ("temperature", "top_k", "top_p", "action_temperature", "risk_weight")
        return Sampling.from_card(model.card, **{name: getattr(self, name) for name in names})

    def read_prompt(self, engine: Engine, *, horizon: int | None, render: Render | None) -> tuple[Prompt, PromptData]:
        """Read the prompt; returns it for the engine, and with its name, notes and `horizon` true steps (None: all)."""
        model = engine.model
        longest = model.config.transformer.context_steps
        notes = []
        if self.context > longest:
            notes.append(f"the model sees at most {longest} steps, so a context of {self.context} is cut to that")
        if isinstance(self.prompt, Prompt):
            model.config.tokenizer.check_size(self.prompt.frames_THWC)
            frames_THWC, actions_TA = self.prompt.frames_THWC, self.prompt.actions_TA
            return self.prompt, PromptData(
                frames_THWC=frames_THWC,
                actions_TA=actions_TA,
                true_next_frames_SHWC=frames_THWC[:0],
                true_next_actions_SA=actions_TA[:0],
                notes=tuple(notes),
                start_step=len(frames_THWC) - 1,
                kind="given",
            )
        folder = prompt_folder(model.folder)
        if self.prompt is None and not list_prompts(folder):
            raise BadInputError("this installation has no bundled prompt: give --prompt PICTURE, FOLDER or RECORDING")
        sizes = model.config.tokenizer
        data = load_prompt(
            find_prompt(list_prompts(folder)[0], folder) if self.prompt is None else self.prompt,
            context=min(self.context, longest),
            frame_size=(sizes.frame_height, sizes.frame_width),
            schema=self.schema,
            resize=self.resize,
            start_step=self.start_step,
            horizon=horizon,
            render=render,
            model=model.folder,
        )
        if self.prompt is None:
            notes.append(f"no prompt was given, so the dream begins at {data.name}")
        if data.kind == "given" and (warning := picture_warning(engine, data.frames_THWC)):
            notes.append(warning)
        codes_TN = data.codes_TN if data.weights == model.fingerprint else None
        prompt = Prompt(frames_THWC=data.frames_THWC, actions_TA=data.actions_TA, codes_TN=codes_TN)
        return prompt, replace(data, notes=(*notes, *data.notes))


@dataclass(frozen=True, kw_only=True)
class DreamJob(GenerationConfig):
    """One clip."""

    mode: Mode = "world"
    """See `Mode`."""
    steps: int | None = None
    """Number of steps; None: as many as actions, else `DEFAULT_STEPS` (`policy`: as far as the true frames go)."""
    actions: str | None = None
    """A CSV file or an action script; None: the recorded actions if known, else rest."""
    out: Path = Path("out/dream")
    """Folder to write; numbered if taken."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise BadInputError(f"steps is {self.steps}: expected 1 or more")
        check_schema(self.schema)


class DreamReport(NamedTuple):
    """A clip, and the folder that was written."""

    written: DreamFolder
    clip: GeneratedClip


def open_engine(
    model: str | None = None,
    *,
    device: str = "auto",
    decode_order: DecodeOrder | None = None,
    backend: BackendName = "auto",
) -> Engine:
    """Load a bundled model or a folder, and return its engine; None: the first bundled one, its card's order.

    Only the backend torch loads the networks, see `choose_backend`.
    """
    loaded = read_model(model_folder(model))
    backend = choose_backend(backend, loaded, device)
    if backend == "torch":
        from playloom.models.checkpoint import load_model

        set_threads()  # torch was imported just now
        loaded = load_model(model_folder(model), pick_device(device))
    return Engine(loaded, row_delay=card_row_delay(loaded.card, decode_order), backend=backend)


def picture_warning(engine: Engine, frames_THWC: NDArray[np.uint8]) -> str | None:
    """Return a warning if the tokenizer keeps less of the last frame's contrast than the card gives as usual."""
    rows = engine.model.card.get("evaluation", {}).get("rows", ())
    usual = [row["value"] - row["baselines"]["mean frame"] for row in rows if row["name"] == "PSNR of reconstructions"]
    if not usual:
        return None
    truth_HWC = frames_THWC[-1].astype(np.float32)
    again_HWC = engine.frames(engine.codes(Prompt(frames_THWC=frames_THWC[-1:], actions_TA=_NO_ACTIONS)))[0]
    # PSNR above that of the picture's mean colour
    contrast, error = np.square(truth_HWC - truth_HWC.mean((0, 1))).mean(), np.square(truth_HWC - again_HWC).mean()
    gain = float(10 * np.log10(max(contrast, _TINY) / max(error, _TINY)))
    if gain >= usual[0] - UNFAMILIAR_DB:
        return None
    kept, known = (max(0.0, 1 - 10 ** (-decibels / 10)) for decibels in (gain, usual[0]))
    return (
        f"the picture does not look like the game of {engine.model.config.name}: its tokenizer keeps {kept:.0%} of the "
        f"picture's contrast, usually {known:.0%}; expect the dream to turn into that game"
    )


def build_manifest(
    engine: Engine,
    frames_THWC: NDArray[np.uint8],
    *,
    mode: str,
    sampling: Sampling,
    seed: int,
    timestamp: bool = False,
    prompt: PromptData | None = None,
) -> Manifest:
    """Return the manifest of a dream from the prompt frames; `prompt` names the prompt if it is known."""
    model, row_delay = engine.model, engine.schedule.row_delay
    return Manifest(
        model=model.config.name,
        weights=model.fingerprint,
        seed=seed,
        mode=mode,
        sampling=sampling.to_dict(),
        backend=engine.backend.name,
        order="raster" if row_delay == model.config.layout.grid_width else f"row delay {row_delay}",
        prompt=prompt.name or None if prompt else None,
        prompt_kind=prompt.kind if prompt else None,
        parent=frames_hash(frames_THWC),
        created=created_at() if timestamp else None,
    )


def run_dream(
    job: DreamJob,
    *,
    render: Render | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> DreamReport:
    """Load the model, generate a clip and write its folder; see `generate_clip`."""
    ensure_writable(job.out, numbered=True)
    clip = generate_clip(job.load_engine(), job, render=render, progress=progress, stop=stop)
    gc.collect()  # the engine refers to itself: else its memory is held while the video is encoded
    return DreamReport(clip.write_folder(job.out), clip)


def generate_clip(
    engine: Engine,
    job: DreamJob,
    *,
    render: Render | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> GeneratedClip:
    """Generate a clip in memory with the given engine; `render` is needed for recordings only.

    `stop` is called after every step; True ends the clip there, and raises a KeyboardInterrupt before the first step.
    """
    sampling = job.sampling(engine.model)
    prompt, data = job.read_prompt(engine, horizon=job.steps, render=render)
    _check_memory(job.steps or 0, data.frames_THWC[0].nbytes)
    given = _given_actions(job, data)
    steps = _steps(job, given, data)
    _check_memory(steps, data.frames_THWC[0].nbytes)
    generated = engine.dream(
        prompt,
        mode=job.mode,
        steps=steps,
        actions_SA=None if given is None else given.values_SA,
        frames_SHWC=data.true_next_frames_SHWC if job.mode == "policy" else None,
        sampling=sampling,
        seed=job.seed,
    )
    started = time.perf_counter()
    done = _until_stopped(generated, steps, progress, stop)
    seconds = time.perf_counter() - started
    codes = [step.codes_N[None] for step in done if step.codes_N is not None]
    manifest = build_manifest(
        engine, data.frames_THWC, mode=job.mode, sampling=sampling, seed=job.seed, timestamp=job.timestamp, prompt=data
    )
    return GeneratedClip(
        real_frames_THWC=data.frames_THWC,
        real_actions_TA=data.actions_TA,
        steps=tuple(OutputStep(s.frame_HWC, s.action_A, s.action_given) for s in done),
        manifest=manifest,
        frames_dreamed=job.mode != "policy",
        true_frames_SHWC=data.true_next_frames_SHWC[: len(done) if _uses_recorded_actions(job, data) else 0],
        true_actions_SA=data.true_next_actions_SA,
        real_kind=data.kind,
        dreamed_before_T=np.empty(0, bool) if data.dreamed_T is None else data.dreamed_T,
        codes_TN=np.concatenate([engine.codes(prompt), *codes]),
        request={} if isinstance(job.prompt, Prompt) else _request(job, data, len(done)),
        notes=(*data.notes, *_notes(job, given, len(done), steps)),
        seconds=seconds,
        stopped=len(done) < steps,
    )


def _until_stopped(
    steps: Iterator[StepResult], total: int, progress: Progress | None, stop: Callable[[], bool]
) -> list[StepResult]:
    if stop():
        raise KeyboardInterrupt
    done: list[StepResult] = []
    for step in steps:
        done.append(step)
        if progress is not None:
            progress(len(done), total)
        if stop():
            break
    return done


def _given_actions(job: DreamJob, data: PromptData) -> Script | None:
    if job.mode == "policy" or (job.mode == "full" and job.actions is None):
        return None
    if job.actions is not None:
        # full mode samples the actions after these, so they are not filled up with rest
        return read_inputs(job.actions, job.schema, job.steps if job.mode == "world" else None)
    recorded_SA = data.true_next_actions_SA
    steps = job.steps or len(data.true_next_frames_SHWC) or len(recorded_SA) or DEFAULT_STEPS
    if not len(recorded_SA):
        note = "no actions are given or known, so nothing is held; say --actions to hold something"
        return Script(np.tile(REST_VALUES, (steps, 1)), (note,))
    return fit_length(Script(recorded_SA, ("the actions are the recorded ones",)), steps, "the recording")


def _steps(job: DreamJob, given: Script | None, data: PromptData) -> int:
    if job.steps is not None:
        return job.steps
    if job.mode == "policy":  # the last action needs no frame after it
        return min(DEFAULT_STEPS, 1 + len(data.true_next_frames_SHWC))
    actions = DEFAULT_STEPS if given is None else len(given.values_SA)
    return max(DEFAULT_STEPS, actions) if job.mode == "full" else actions


def _notes(job: DreamJob, given: Script | None, done: int, steps: int) -> Iterator[str]:
    if given is not None:
        yield from given.notes
    elif job.mode == "policy" and job.actions is not None:
        yield "policy mode dreams the input, so --actions is not used"
    if done < steps:
        yield f"stopped after {done} of {steps} steps; these are kept"


def _check_memory(steps: int, frame_bytes: int) -> None:
    needed, free = _COPIES * steps * frame_bytes, free_memory()
    if needed > free:
        raise ResourceError(
            f"the frames of {steps} steps need about {needed / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB "
            "are free: dream fewer steps, then continue from the folder (--prompt FOLDER)"
        )


def _uses_recorded_actions(job: DreamJob, data: PromptData) -> bool:
    """True if the true frames are comparable with the generated ones."""
    return job.mode == "world" and job.actions is None and len(data.true_next_actions_SA) > 0


def _request(job: DreamJob, data: PromptData, steps: int) -> dict[str, Any]:
    """Return the request that makes the folder again, without `out`: equal dreams give equal files."""
    values = {field.name: getattr(job, field.name) for field in fields(job)}
    values |= {"prompt": job.prompt or data.name, "steps": steps}
    words = ["playloom", "dream"]
    for field in fields(job):
        value, flag = values[field.name], field.name.replace("_", "-")
        if field.name == "out" or (value == field.default and field.name != "seed"):
            continue
        words += [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    request = {
        "command": shlex.join(words),
        "prompt": values["prompt"],
        "prompt_sha256": _sha256(data.source),
        "start_step": data.start_step,
        "context": len(data.frames_THWC),
        "steps": steps,
        "actions": job.actions or ("recorded" if _uses_recorded_actions(job, data) else None),
        "actions_sha256": _sha256(Path(job.actions)) if job.actions else None,
        "schema": job.schema,
        "resize": job.resize,
    }
    return {name: value for name, value in request.items() if value is not None}


def _sha256(path: Path | None) -> str | None:
    try:
        return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:  # a folder, or a script, which may be longer than a file name can be
        return None
