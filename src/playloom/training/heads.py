"""Training of the heads on a finished model: tokenizer and transformer stay as they are.

Features of all steps are computed once, then an MLP learns from them. B batch, F features, S states, R rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn

from playloom.data.dataset import EpisodeSlice, TokenDataset
from playloom.data.sampler import WindowSampler, labelled_spans, step_labels
from playloom.device import pick_device
from playloom.errors import CheckpointError, ConfigError, RecordingError
from playloom.inference.features import recorded_features
from playloom.json_io import plain, read_json, write_json
from playloom.models.checkpoint import WorldModel, save_model
from playloom.models.decode_order import card_row_delay
from playloom.models.folder import WEIGHTS
from playloom.models.heads import HeadsConfig, StateConfig
from playloom.models.heads_network import PredictionHeads
from playloom.models.onnx.export import export_if_installed
from playloom.training.artifacts import load_origin, training_facts
from playloom.training.data_source import PrepareOptions, tokens_from
from playloom.training.distributed import dist_info
from playloom.training.loop import Loop, Report
from playloom.training.task import Batch, LoopConfig, ModuleLoss, Say, StepContext, TrainingResult

_MOST_ROWS = 1 << 15  # of one batch without gradients


@dataclass(frozen=True, kw_only=True)
class HeadsTrainingConfig:
    """Settings of a heads training; `ConfigError` for states that are outcomes.

    Losses are not weighted by class, so that probabilities fit rare events.
    """

    loop: LoopConfig
    reward: Literal["auto", "none", "scalar", "sign"] = "auto"
    """See `HeadsConfig`; `auto`: `sign` if all rewards are -1, 0 or 1, else `scalar`; `none` where there are none."""
    termination: bool = True
    """Predict terminations, where the data has them."""
    states: tuple[str, ...] | None = None
    """State columns to predict; None: `health`, where the data has it."""
    width: int = 256
    """Hidden width of the network."""

    def __post_init__(self) -> None:
        for name in self.states or ():
            if name in ("reward", "terminated"):
                raise ConfigError(f"states has an outcome: got {name}, expected state columns; it has its own head")


@dataclass(frozen=True, kw_only=True)
class HeadsJob:
    """Inputs and outputs of a heads training."""

    source: str
    """A bundled model's name, a model's folder, or the run's folder of any training."""
    data: Path
    """Recordings, a frame dataset or a token dataset."""
    out: Path
    """Folder of the run."""
    config: HeadsTrainingConfig
    prepare: PrepareOptions


def run_heads(job: HeadsJob, *, report: Report | None = None, say: Say = print) -> TrainingResult:
    """Run or resume a job; export the model with heads into `out/model`."""
    if dist_info()[1] > 1:
        raise ConfigError("heads train in one process; run the same command without torchrun")
    source = load_origin(job.source)
    if source.model is None:
        raise CheckpointError(f"{job.source} is a tokenizer's run; heads need a whole model")
    device = pick_device(job.config.loop.device)
    model = source.model.to(device)
    dataset = tokens_from(job.data, job.out / "tokens", job.prepare, model.tokenizer, source.name)
    features_RF = _features(model, dataset, job)
    task = HeadsTask(model, job.config, dataset, features_RF)
    say(task.summary)
    loop = Loop(task, job.config.loop, job.out, report)
    result = loop.run()
    for name in task.labels:
        got, constant = result.validation.get(name, 0.0), result.validation.get(f"constant_{name}", 1.0)
        if got >= constant:
            say(f"{name}: no better than a constant in validation ({got:.4g} against {constant:.4g}); leave it out")
    card = {**model.card, "heads": training_facts(dataset, result, job.config)}
    if figures := card.get("evaluation"):  # those of other heads are left out
        card["evaluation"] = {**figures, "rows": [row for row in figures["rows"] if row["part"] != "heads"]}
    config = dataclasses.replace(model.config, heads=task.heads.config)
    headed = dataclasses.replace(model, config=config, card=card, heads=task.heads)
    loop.export(lambda: _export(job.out / "model", headed))
    return dataclasses.replace(result, path=job.out / "model")


def _export(folder: Path, model: WorldModel) -> None:
    """Write the model with the files of the other networks as they are; the heads have the transformer's dtype."""
    assert model.folder is not None
    with safe_open(model.folder / WEIGHTS[1], "pt") as stored:
        dtype = stored.get_tensor("norm.bias").dtype
    save_model(folder, model, dtype, new_heads=True, keep_measured=True)
    export_if_installed(folder)


def _features(model: WorldModel, dataset: TokenDataset, job: HeadsJob) -> NDArray[np.float16]:
    """Features of all labelled steps, float16 [R, F], NaN elsewhere; resumes an interrupted call."""
    path, origin = job.out / "features.npy", job.out / "features.json"
    row_delay = card_row_delay(model.card)
    half = job.config.loop.bfloat16
    made_of = {"model": model.fingerprint, "tokenizer": dataset.tokenizer, "rows": len(dataset), "row_delay": row_delay}
    made_of |= {"precision": "bf16-mixed" if half else "32-true"}
    if path.exists() and origin.exists():
        if read_json(origin, RecordingError, f"remove {path}") != made_of:
            raise RecordingError(f"{path} holds features of another model or data; remove it, or choose another --out")
    else:
        origin.unlink(missing_ok=True)
        job.out.mkdir(parents=True, exist_ok=True)
        shape = len(dataset), 2 * model.config.transformer.width
        fresh = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
        fresh[:] = np.nan
        fresh.flush()
        write_json(origin, made_of)
    features_RF: NDArray[np.float16] = np.load(path, mmap_mode="r+")
    spans = labelled_spans(dataset, dataset.spans)
    total, done = sum(span.length - 1 for span in spans), int((~np.isnan(features_RF[:, 0])).sum())
    steps = recorded_features(
        model,
        dataset.tokens_FN,
        dataset.actions_FA,
        spans,
        row_delay=row_delay,
        skip=lambda rows: not np.isnan(features_RF[rows, -1]).any(),
    )
    with torch.autocast(model.device.type, torch.bfloat16, enabled=half):
        for rows, values in steps:
            features_RF[rows] = values
            done += len(rows)
            if job.prepare.progress is not None:
                job.prepare.progress(min(done, total), total)
    return features_RF


class HeadsTask:
    """Train heads on features of a frozen transformer; one module."""

    def __init__(
        self, model: WorldModel, config: HeadsTrainingConfig, dataset: TokenDataset, features_RF: NDArray[np.float16]
    ) -> None:
        """Choose the heads by the labels of the data; they start as the best constant prediction."""
        default = ("health",) if "health" in dataset.state_columns else ()
        states = default if config.states is None else config.states
        self.labels, self._features_RF = step_labels(dataset, states), features_RF
        train, self._validation = (self._rows(dataset, split) for split in ("train", "validation"))
        if not len(train):
            raise RecordingError(
                f"{dataset.folder} has no labels to train heads on: got the columns "
                f"{', '.join(dataset.state_columns)}; expected reward, terminated, dead, frags or health"
            )
        known = {name: values_R[train][~np.isnan(values_R[train])] for name, values_R in self.labels.items()}
        self.heads = PredictionHeads(heads_config(known, config), model.config.transformer.width, seed=config.loop.seed)
        self._constant_O = constant_outputs(self.heads.config, known)
        with torch.no_grad():
            self.heads.out.bias.copy_(self._constant_O)
            some = features_RF[_spread(train)].astype(np.float64)
            self.heads.mean_F.copy_(torch.from_numpy(some.mean(0)))
            self.heads.scale_F.copy_(torch.from_numpy(some.std(0).clip(1e-4)))
        self.modules: dict[str, nn.Module] = {"heads": self.heads}
        self.averaged, self.rates, self.units = frozenset(self.modules), {"heads": 1.0}, {"steps": 1}
        self.run_config: dict[str, Any] = {
            "heads": plain(dataclasses.asdict(self.heads.config)),
            "data": {"model": model.fingerprint, "tokenizer": dataset.tokenizer, "rows": len(dataset)},
        }
        stretches = np.split(train, np.flatnonzero(np.diff(train) != 1) + 1)
        spans = [EpisodeSlice(start=int(rows[0]), length=len(rows), meta={}) for rows in stretches]
        self._sampler = WindowSampler(spans=spans, steps=1, batch=config.loop.batch, seed=config.loop.seed)
        counts = [f"{name} ({np.count_nonzero(values)} of {len(values)} not 0)" for name, values in known.items()]
        self.summary = f"heads of {', '.join(counts)}; {len(train)} training steps, {len(self._validation)} to validate"

    def to(self, device: torch.device) -> None:
        """Move the constant prediction."""
        self._constant_O = self._constant_O.to(device)

    def batch(self, seen: int) -> Batch:
        """Return `features` float32 [B, F], and the labels by name, float32 [B]; NaN: none."""
        return self._gather(self._sampler.rows(seen)[:, 0])

    def losses(self, modules: Mapping[str, nn.Module], batch: Batch, context: StepContext) -> Iterator[ModuleLoss]:
        """Yield the sum of the heads' losses."""
        found = head_losses(self.heads, modules["heads"](batch["features"]), batch)
        loss = torch.stack([*found.values()]).sum()
        yield ModuleLoss("heads", loss, {"loss": loss, **found})

    def validate(self) -> dict[str, float]:
        """Return the losses on validation steps, and those of the best constant prediction (`constant_...`)."""
        if not len(self._validation):
            return {}
        rows = _spread(self._validation)
        batch = {name: tensor.to(self._constant_O.device) for name, tensor in self._gather(rows).items()}
        found = head_losses(self.heads, self.heads(batch["features"]), batch)
        constant = head_losses(self.heads, self._constant_O.expand(len(rows), -1), batch)
        losses = found | {f"constant_{name}": loss for name, loss in constant.items()}
        return {name: float(loss) for name, loss in losses.items()}

    def preview(self) -> None:
        """Return None: there is no picture."""

    def _rows(self, dataset: TokenDataset, split: str) -> NDArray[np.int64]:
        """Rows of a split that have a label and, unless their episode is too short, features."""
        rows = np.concatenate(
            [np.zeros(0, np.int64), *(np.arange(len(dataset))[s.rows] for s in dataset.of_split(split))]
        )
        labelled_R = ~np.isnan([values_R[rows] for values_R in self.labels.values()]).all(axis=0)
        return rows[labelled_R & ~np.isnan(self._features_RF[rows, 0])] if self.labels else rows[:0]

    def _gather(self, rows_B: NDArray[np.int64]) -> Batch:
        arrays = {"features": self._features_RF[rows_B].astype(np.float32)}
        arrays |= {name: values_R[rows_B] for name, values_R in self.labels.items()}
        return {name: torch.from_numpy(values) for name, values in arrays.items()}


def heads_config(labels: Mapping[str, NDArray[np.float32]], config: HeadsTrainingConfig) -> HeadsConfig:
    """Return the heads for known labels [M] by name; ConfigError when nothing is left to predict."""
    reward = labels.get("reward", np.zeros(0, np.float32))
    kind = config.reward if len(reward) else "none"
    if kind == "auto":
        kind = "sign" if np.isin(reward, (-1, 0, 1)).all() else "scalar"
    states = tuple(
        StateConfig(name=name, mean=float(values.mean()), scale=float(values.std()) or 1.0)
        for name, values in labels.items()
        if len(values) and name not in ("reward", "terminated")
    )
    return HeadsConfig(
        reward=kind,
        reward_scale=float(reward.std()) or 1.0 if kind == "scalar" else 1.0,
        termination=config.termination and len(labels.get("terminated", ())) > 0,
        states=states,
        width=config.width,
    )


def constant_outputs(config: HeadsConfig, labels: Mapping[str, NDArray[np.float32]]) -> Tensor:
    """Return the outputs [O] of the best constant prediction: means, and rates with one more label of each class."""
    parts = [0.0] * len(config.states)
    if config.termination:
        ended = labels["terminated"] > 0
        parts = [float(np.log(ended.sum() + 1) - np.log((~ended).sum() + 1)), *parts]
    if config.reward == "sign":
        parts = [*np.log([(np.sign(labels["reward"]) == sign).sum() + 1 for sign in (-1, 0, 1)]).tolist(), *parts]
    elif config.reward == "scalar":
        parts = [float(labels["reward"].mean()) / config.reward_scale, *parts]
    return torch.tensor(parts)


def head_losses(heads: PredictionHeads, outputs_BO: Tensor, labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the mean loss of every head over the rows that have its label [B]; 0 where none has.

    Cross-entropy in nats for the reward's sign and for termination; squared errors over the squared scale for a scalar
    reward and for each state.
    """
    c = heads.config
    sizes = [c.reward_outputs, int(c.termination), len(c.states)]
    reward_BR, termination_B1, states_BS = torch.split(outputs_BO.float(), sizes, dim=-1)
    found: dict[str, Tensor] = {}
    clean = {name: values_B.nan_to_num() for name, values_B in labels.items()}
    if c.reward == "sign":
        found["reward"] = F.cross_entropy(reward_BR, (clean["reward"].sign() + 1).long(), reduction="none")
    elif c.reward == "scalar":
        found["reward"] = (reward_BR[:, 0] - clean["reward"] / c.reward_scale).square()
    if c.termination:
        ended_B = clean["terminated"]
        found["terminated"] = F.binary_cross_entropy_with_logits(termination_B1[:, 0], ended_B, reduction="none")
    for index, state in enumerate(c.states):
        found[state.name] = (states_BS[:, index] - (clean[state.name] - state.mean) / state.scale).square()
    known = {name: ~labels[name].isnan() for name in found}
    return {name: (loss_B * known[name]).sum() / known[name].sum().clamp_min(1) for name, loss_B in found.items()}


def _spread(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """At most as many rows as fit into one batch."""
    return rows[:: -(-len(rows) // _MOST_ROWS)]
