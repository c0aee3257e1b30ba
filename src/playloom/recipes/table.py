"""The bundled recipes as a table, and the toy form of each. Values only; docs/recipe.md has the arithmetic."""

from __future__ import annotations

import dataclasses

from playloom.errors import ConfigError, did_you_mean
from playloom.evaluation.config import EvaluationSettings
from playloom.inference.sampling import Sampling
from playloom.models.presets import preset
from playloom.models.tokenizer.config import TokenizerConfig
from playloom.models.tokenizer.losses import TokenizerLossConfig
from playloom.models.world_model import ModelConfig
from playloom.recipes.recipe import (
    EvaluateSettings,
    ExportSettings,
    Recipe,
    RecordSettings,
    TokenizerSettings,
    TokensSettings,
)
from playloom.training.config import LoopConfig
from playloom.training.tokenizer import TokenizerTrainingConfig
from playloom.training.world_model import WorldConfig

_ON_TWO_CORES = Recipe(
    name="arena-cpu",
    model=preset("arena-live"),
    record=RecordSettings(episodes=200),
    tokenizer=TokenizerSettings(
        episodes=65,
        training=TokenizerTrainingConfig(
            loop=LoopConfig(
                minutes=25,
                batch=4,
                learning_rate=1e-3,
                beta2=0.99,
                weight_decay=0.01,
                ema_decay=0.995,
                save_minutes=2,
                validate_minutes=4,
            ),
            loss=TokenizerLossConfig(),
        ),
    ),
    world=WorldConfig(
        loop=LoopConfig(
            minutes=65,
            batch=2,
            learning_rate=1.5e-3,
            warmup_steps=150,
            weight_decay=0.05,
            ema_decay=0.995,
            save_minutes=3,
            validate_minutes=10,
        ),
        window_steps=12,
        action_weight=4.0,
        lag_weights=(0.2, 0.15, 0.4, 0.25),
        validation_windows=16,
    ),
    evaluate=EvaluateSettings(
        minutes=15, measure=EvaluationSettings(sampling=Sampling(temperature=0.5, action_temperature=1.0))
    ),
)
_ON_A_GPU = Recipe(
    name="arena",
    model=preset("arena"),
    record=RecordSettings(episodes=1000, first=96, rest_minutes=3),
    tokenizer=TokenizerSettings(
        episodes=80,
        training=TokenizerTrainingConfig(
            loop=LoopConfig(
                minutes=7,
                batch=32,
                learning_rate=1e-3,
                beta2=0.99,
                weight_decay=0.01,
                warmup_steps=200,
                ema_decay=0.998,
                log_steps=50,
                save_minutes=3,
                validate_minutes=2,
            ),
            loss=TokenizerLossConfig(perceptual=0.3, adversarial=0.1),
            adversarial_from=0.6,
        ),
    ),
    tokens=TokensSettings(minutes=4, batch=200),
    world=WorldConfig(
        loop=LoopConfig(
            minutes=9.5,
            batch=8,
            learning_rate=1e-3,
            warmup_steps=200,
            log_steps=20,
            save_minutes=3,
            validate_minutes=3,
        ),
        window_steps=16,
    ),
    evaluate=EvaluateSettings(minutes=3),
)
_LIVE_ON_A_GPU = dataclasses.replace(
    _ON_A_GPU,
    name="arena-live",
    model=preset("arena-live"),
    # A quarter of the codes a picture: four times as many windows fit a batch, and more updates the same minutes.
    world=dataclasses.replace(
        _ON_A_GPU.world,
        loop=dataclasses.replace(_ON_A_GPU.world.loop, batch=32, learning_rate=1.5e-3),
        action_weight=4.0,
        lag_weights=(0.2, 0.15, 0.4, 0.25),
    ),
)
RECIPES: dict[str, Recipe] = {row.name: row for row in (_ON_A_GPU, _LIVE_ON_A_GPU, _ON_TWO_CORES)}
"""By name: `arena` and `arena-live` for one GPU and 16 cores (25 minutes each), `arena-cpu` for two cores (two hours).
`arena-live` is played in real time on a CPU."""

_TOY_TOKENIZER = TokenizerConfig(
    codebook_size=32,
    code_width=4,
    strides=(2,),
    widths=(8, 16),
    encoder_blocks=(0,),
    decoder_blocks=(1,),
    encoder_layers=1,
    decoder_layers=1,
    head_width=8,
    recent_outputs=512,
)
_TOY_MEASURE = EvaluationSettings(
    batch=2,
    frames=8,
    windows=2,
    horizon_moments=2,
    horizon_steps=3,
    greedy_moments=1,
    greedy_steps=1,
    collapse_step=4,
    control_moments=2,
    control_steps=2,
    game_moments=0,
    estimator_pairs=20,
    diversity_moments=2,
    diversity_steps=2,
    persistency_moments=1,
    persistency_steps=2,
    persistency_kept=0.0,
)


def recipe(name: str) -> Recipe:
    """The row of a name.

    Raises:
        ConfigError: for an unknown name; names the nearest one.
    """
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe {name!r}; {did_you_mean(name, RECIPES)}")
    return RECIPES[name]


def toy(full: Recipe) -> Recipe:
    """The same stages, losses and orders at a size that a CPU does in a minute or two: a rehearsal, not a model.

    Seeds 16 to 19 are an episode each for training, validation, test and held out.
    """
    first = None if full.record.first is None else 3
    training = full.tokenizer.training
    return dataclasses.replace(
        full,
        name=f"{full.name}-toy",
        model=_toy_model(full.model),
        record=RecordSettings(seed=16, episodes=4, steps=90, first=first),
        tokenizer=TokenizerSettings(
            episodes=2,
            training=dataclasses.replace(training, loop=_toy_loop(training.loop), validation_pictures=2),
        ),
        world=dataclasses.replace(full.world, loop=_toy_loop(full.world.loop), window_steps=4, validation_windows=2),
        evaluate=EvaluateSettings(episodes=1, minutes=0.1, measure=_TOY_MEASURE),
        export=ExportSettings(moments=1),
    )


def _toy_model(full: ModelConfig) -> ModelConfig:
    sizes = dataclasses.replace(full.transformer, layers=2, width=32, heads=4, global_every=2)
    return dataclasses.replace(full, name=f"{full.name}-toy", tokenizer=_TOY_TOKENIZER, transformer=sizes)


def _toy_loop(full: LoopConfig) -> LoopConfig:
    return dataclasses.replace(full, minutes=None, steps=6, batch=2, warmup_steps=2, log_steps=2)
