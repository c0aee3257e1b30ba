"""Generate one clip, in memory or as a folder of files, from what a user names.

report = run_dream(DreamJob(prompt="plaza-explorer", steps=50), progress=print)
"""

from __future__ import annotations

import hashlib
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from playloom.actions.codec import REST_VALUES, Schema
from playloom.atomic_io import ensure_writable
from playloom.data.prompts import BUNDLED_PREFIX, PromptData, list_prompts, load_prompt
from playloom.device import free_memory, pick_device
from playloom.errors import BadInputError, ResourceError
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.inference.types import Mode, Prompt, StepResult
from playloom.media.action_table import Inputs, check_schema, fit_length, read_inputs
from playloom.media.images import ResizeMode
from playloom.media.output_folder import DreamFolder, GeneratedClip, OutputStep
from playloom.models.checkpoint import WorldModel, load_model, model_folder
from playloom.models.decode_order import DecodeOrder, card_row_delay
from playloom.models.tokenizer.metrics import contrast_gain
from playloom.provenance import Manifest, created_at, frames_hash

UNFAMILIAR_DB = 4.0
"""Pictures that the tokenizer keeps worse than usual by more than this are not of the model's game."""
Render = Callable[..., Iterator[NDArray[np.uint8]]]
"""Gives a recording its pictures back (see `playloom.games`)."""


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """All that a user can say of how a dream begins; what is to become of it is said by those who build on this."""

    model: str | None = None
    """A bundled model's name or a folder; None: the first bundled one."""
    prompt: str | Prompt | None = None
    """See `playloom.data.prompts`, or frames and actions; None: the first bundled prompt."""
    schema: Schema | Literal["auto"] = "named"
    """Of CSV files."""
    context: int = 10
    """Real steps the model sees first; its context is the most."""
    start_step: int | None = None
    """The step of the prompt to go on from."""
    resize: ResizeMode = "crop"
    """How pictures of another shape are fitted."""
    temperature: float | None = None
    """Divides the logits, 0 is greedy; None: what the model's card says, else 0.9."""
    top_k: int | None = None
    """Only the k most likely tokens."""
    top_p: float | None = None
    """Only the likeliest tokens that reach p together."""
    action_temperature: float | None = None
    """The same for dreamed inputs; None: what was asked for pictures, else what the card says."""
    seed: int = 0
    """Of every random draw; all the same and the same seed: the same pictures."""
    decode_order: DecodeOrder | None = None
    """`raster`, or the row delay; None: the model card's, else raster."""
    device: str = "auto"
    """Where to compute."""
    timestamp: bool = False
    """Whether manifests carry the time; without it equal jobs give equal files."""

    def dreamer(self) -> Engine:
        """See `open_engine`."""
        return open_engine(self.model, device=self.device, decode_order=self.decode_order)

    def sampling(self, model: WorldModel) -> Sampling:
        """How tokens are drawn: as asked for, else as the model's card recommends."""
        return Sampling.from_card(
            model.card,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            action_temperature=self.action_temperature,
        )

    def cut(self, model: WorldModel) -> tuple[str, ...]:
        """A note where more context was asked for than the model has."""
        most = model.config.transformer.context_steps
        if self.context <= most:
            return ()
        return (f"the model sees at most {most} steps, so a context of {self.context} is cut to that",)

    def read_prompt(
        self, model: WorldModel, *, horizon: int | None, render: Render | None
    ) -> tuple[Prompt, PromptData]:
        """The prompt of whatever `prompt` names, and all that is known of it.

        Args:
            model: decides the frames' size, and whether the codes a dream kept are its own.
            horizon: true steps that are wanted after the prompt; None: all there are.
            render: needed where the prompt is a recording.

        Raises:
            PlayloomError: when it cannot be used, or nothing is named and no prompt is bundled.
        """
        if isinstance(self.prompt, Prompt):
            model.tokenizer.check_size(torch.as_tensor(self.prompt.frames_THWC))
            return self.prompt, _prompt_data(self.prompt)
        bundled = list_prompts()
        if self.prompt is None and not bundled:
            raise BadInputError("this installation bundles no prompt; say --prompt PICTURE, FOLDER or RECORDING")
        sizes = model.config.tokenizer
        data = load_prompt(
            f"{BUNDLED_PREFIX}{bundled[0]}" if self.prompt is None else self.prompt,
            context=min(self.context, model.config.transformer.context_steps),
            frame_size=(sizes.frame_height, sizes.frame_width),
            schema=self.schema,
            resize=self.resize,
            start_step=self.start_step,
            horizon=horizon,
            render=render,
        )
        notes = [] if self.prompt is not None else [f"no prompt was given, so the dream begins at {data.name}"]
        unfamiliar = picture_warning(model, data.frames_THWC) if data.kind == "given" else None
        notes += [] if unfamiliar is None else [unfamiliar]
        data = replace(data, notes=(*notes, *data.notes))
        codes_TN = data.codes_TN if data.weights == model.fingerprint else None
        return Prompt(frames_THWC=data.frames_THWC, actions_TA=data.actions_TA, codes_TN=codes_TN), data


def _prompt_data(prompt: Prompt) -> PromptData:
    return PromptData(
        frames_THWC=prompt.frames_THWC,
        actions_TA=prompt.actions_TA,
        true_next_frames_SHWC=prompt.frames_THWC[:0],
        true_next_actions_SA=prompt.actions_TA[:0],
        notes=(),
        start_step=len(prompt.frames_THWC) - 1,
        kind="given",
    )


def open_engine(model: str | None = None, *, device: str = "auto", decode_order: DecodeOrder | None = None) -> Engine:
    """A dreamer over a bundled model's name or a folder.

    Args:
        model: None: the first bundled one.
        device: see `playloom.device.pick_device`.
        decode_order: `raster`, or the row delay; None: the model card's, else raster.

    Raises:
        PlayloomError: when the model cannot be loaded there, or not decode in that order.
    """
    loaded = load_model(model_folder(model), pick_device(device))
    return Engine(loaded, row_delay=card_row_delay(loaded.card, decode_order))


@torch.inference_mode()
def picture_warning(model: WorldModel, frames_THWC: NDArray[np.uint8]) -> str | None:
    """A sentence where pictures do not look like the model's game, else None.

    Args:
        model: its card says what is usual; without that figure there is no warning.
        frames_THWC: uint8 [T, H, W, 3] of the model's size; the last one is judged, from which a dream goes on.
    """
    rows = model.card.get("evaluation", {}).get("rows", ())
    usual = [row["value"] - row["baselines"]["mean frame"] for row in rows if row["name"] == "PSNR of reconstructions"]
    if not usual:
        return None
    truth_BHWC = torch.as_tensor(frames_THWC[-1:])
    again_BHWC = model.tokenizer.decode(model.tokenizer.encode(truth_BHWC)).cpu()
    gain = float(contrast_gain(again_BHWC, truth_BHWC))
    if gain >= usual[0] - UNFAMILIAR_DB:
        return None
    kept, known = (max(0.0, 1 - 10 ** (-decibels / 10)) for decibels in (gain, usual[0]))
    return (
        f"the picture does not look like the game of {model.config.name}: its tokenizer keeps {kept:.0%} of the "
        f"picture's contrast, usually {known:.0%}; expect the dream to turn into that game"
    )


def build_manifest(
    dreamer: Engine,
    frames_THWC: NDArray[np.uint8],
    *,
    mode: str,
    sampling: Sampling,
    seed: int,
    timestamp: bool = False,
    prompt: PromptData | None = None,
) -> Manifest:
    """What every picture of a dream says about itself.

    Args:
        dreamer: its weights and decoding order.
        frames_THWC: the frames it begins with.
        mode: what was given and what was dreamed.
        sampling: how tokens were drawn.
        seed: of the dream.
        timestamp: whether it carries the time; without it equal dreams give equal files.
        prompt: names where it begins; None: that is not known.
    """
    model, row_delay = dreamer.model, dreamer.schedule.row_delay
    return Manifest(
        model=model.config.name,
        weights=model.fingerprint,
        seed=seed,
        mode=mode,
        sampling=sampling.to_dict(),
        order="raster" if row_delay == model.config.layout.grid_width else f"row delay {row_delay}",
        prompt=prompt.name or None if prompt else None,
        prompt_kind=prompt.kind if prompt else None,
        parent=frames_hash(frames_THWC),
        created=created_at() if timestamp else None,
    )


DEFAULT_STEPS = 10
"""Steps where neither the user nor the given actions say how many."""
_COPIES = 8  # of every picture: in its step, in the stack, in what becomes dream.npz, and in the wider film


@dataclass(frozen=True, kw_only=True)
class DreamJob(GenerationConfig):
    """What to dream, all of it as a user says it.

    Raises:
        BadInputError: when the number of steps is no such number, or the schema is unknown.
    """

    mode: Mode = "world"
    """What is given and what is dreamed."""
    steps: int | None = None
    """How many steps; None: as many as actions are given, else `DEFAULT_STEPS` (`policy`: as far as pictures go)."""
    actions: str | None = None
    """A CSV or a script of held inputs; None: what was really done, as far as that is known."""
    out: Path = Path("out/dream")
    """The folder to write; numbered if it is taken."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise BadInputError(f"steps is {self.steps}; expected 1 or more")
        check_schema(self.schema)


class DreamReport(NamedTuple):
    """Result of `run_dream`."""

    written: DreamFolder
    """The folder and its files."""
    clip: GeneratedClip
    """The same in memory."""


Progress = Callable[[int, int], None]
"""Told steps done and steps asked, after every step."""


def run_dream(
    job: DreamJob,
    *,
    render: Render | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> DreamReport:
    """Load the model, generate a clip and write its folder; see `generate_clip` for the other arguments.

    Raises:
        PlayloomError: when something the job names cannot be used, the folder cannot be written, or the pictures of
            so many steps do not fit into the memory; nothing is written then.
    """
    ensure_writable(job.out, numbered=True)
    clip = generate_clip(job.dreamer(), job, render=render, progress=progress, stop=stop)
    return DreamReport(clip.write_folder(job.out), clip)


def generate_clip(
    dreamer: Engine,
    job: DreamJob,
    *,
    render: Render | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> GeneratedClip:
    """Generate a clip in memory.

    Args:
        dreamer: engine of the model; the job's model, device and decoding order are not looked at.
        job: the request.
        render: renders a recording's frames again (see `playloom.games`); needed for recordings only.
        progress: called after every step.
        stop: called after every step; True ends the clip there. Before the first step it is a KeyboardInterrupt.

    Raises:
        PlayloomError: when something the job names cannot be used, or the frames do not fit into the memory.
    """
    model, how = dreamer.model, job.sampling(dreamer.model)
    prompt, data = job.read_prompt(model, horizon=job.steps, render=render)
    _require_room(job.steps or 0, data.frames_THWC[0].nbytes)
    given = _given(job, data)
    steps = _steps(job, given, data)
    _require_room(steps, data.frames_THWC[0].nbytes)
    dreamed = dreamer.dream(
        prompt,
        mode=job.mode,
        steps=steps,
        actions_SA=None if given is None else given.actions_SA,
        frames_SHWC=data.true_next_frames_SHWC if job.mode == "policy" else None,
        sampling=how,
        seed=job.seed,
    )
    started = time.perf_counter()
    done = _until_stopped(dreamed, steps, progress, stop)
    seconds = time.perf_counter() - started
    codes = [step.codes_N[None] for step in done if step.codes_N is not None]
    notes = [*job.cut(model), *data.notes, *(given.notes if given else _unused(job))]
    if len(done) < steps:
        notes.append(f"stopped after {len(done)} of {steps} steps; these are kept")
    return GeneratedClip(
        real_frames_THWC=data.frames_THWC,
        real_actions_TA=data.actions_TA,
        steps=tuple(OutputStep(s.frame_HWC, s.action_A, s.action_given) for s in done),
        manifest=build_manifest(
            dreamer, data.frames_THWC, mode=job.mode, sampling=how, seed=job.seed, timestamp=job.timestamp, prompt=data
        ),
        frames_dreamed=job.mode != "policy",
        true_frames_SHWC=data.true_next_frames_SHWC[: len(done) if _recorded(job, data) else 0],
        true_actions_SA=data.true_next_actions_SA,
        real_kind=data.kind,
        dreamed_before_T=np.empty(0, bool) if data.dreamed_T is None else data.dreamed_T,
        codes_TN=np.concatenate([dreamer.codes(prompt), *codes]),
        request={} if isinstance(job.prompt, Prompt) else _request(job, data, len(done)),
        notes=tuple(notes),
        seconds=seconds,
        stopped=len(done) < steps,
    )


def _until_stopped(
    dreamed: Iterator[StepResult], steps: int, progress: Progress | None, stop: Callable[[], bool]
) -> list[StepResult]:
    if stop():
        raise KeyboardInterrupt
    done: list[StepResult] = []
    for step in dreamed:
        done.append(step)
        if progress is not None:
            progress(len(done), steps)
        if stop():
            break
    return done


def _given(job: DreamJob, data: PromptData) -> Inputs | None:
    """The actions that are given: what the user says, else (in world mode) what was really done."""
    if job.mode == "policy":
        return None
    if job.actions is not None:
        # In full mode they are the first ones: what is not said is dreamed, so nothing is filled up with rest.
        return read_inputs(job.actions, job.schema, job.steps if job.mode == "world" else None)
    if job.mode == "full":
        return None
    steps = job.steps or len(data.true_next_frames_SHWC) or len(data.true_next_actions_SA) or DEFAULT_STEPS
    if not len(data.true_next_actions_SA):
        note = "no actions are given or known, so nothing is held; say --actions to hold something"
        return Inputs(np.tile(REST_VALUES, (steps, 1)), (note,))
    known = Inputs(data.true_next_actions_SA, ("the actions are the recorded ones",))
    return fit_length(known, steps, "the recording")


def _steps(job: DreamJob, given: Inputs | None, data: PromptData) -> int:
    if job.steps is not None:
        return job.steps
    if job.mode == "policy":  # the last action answers a picture that nothing need follow
        return min(DEFAULT_STEPS, 1 + len(data.true_next_frames_SHWC))
    if job.mode == "full":
        return max(DEFAULT_STEPS, 0 if given is None else len(given.actions_SA))
    return DEFAULT_STEPS if given is None else len(given.actions_SA)


def _unused(job: DreamJob) -> tuple[str, ...]:
    return ("policy mode dreams the input, so --actions is not used",) if job.actions is not None else ()


def _require_room(steps: int, frame_bytes: int) -> None:
    needed, free = _COPIES * steps * frame_bytes, free_memory()
    if needed > free:
        raise ResourceError(
            f"{steps} steps need about {needed / 2**30:.1f} GiB of memory for their pictures; {free / 2**30:.1f} GiB "
            "are free: dream fewer steps, and then on from the folder they leave (--prompt FOLDER)"
        )


def _recorded(job: DreamJob, data: PromptData) -> bool:
    """Whether what really followed is comparable: the dream was given the recorded actions, and they are known."""
    return job.mode == "world" and job.actions is None and len(data.true_next_actions_SA) > 0


def _request(job: DreamJob, data: PromptData, steps: int) -> dict[str, Any]:
    """What makes the folder again. `out` is left out: equal dreams in two folders shall have equal files."""
    said = {field.name: getattr(job, field.name) for field in fields(job)}
    said |= {"prompt": job.prompt or data.name, "steps": steps}
    words = ["playloom", "dream"]
    for field in fields(job):
        value, flag = said[field.name], field.name.replace("_", "-")
        if field.name == "out" or (value == field.default and field.name != "seed"):
            continue
        words += [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    request = {
        "command": shlex.join(words),
        "prompt": said["prompt"],
        "prompt_sha256": _sha256(data.source),
        "start_step": data.start_step,
        "context": len(data.frames_THWC),
        "steps": steps,
        "actions": job.actions or ("recorded" if _recorded(job, data) else None),
        "actions_sha256": _sha256(Path(job.actions)) if job.actions else None,
        "schema": job.schema,
        "resize": job.resize,
    }
    return {name: value for name, value in request.items() if value is not None}


def _sha256(path: Path | None) -> str | None:
    """Of a file's bytes, as `sha256sum` prints it; None for a folder, or a script of inputs."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path is not None and path.is_file() else None
