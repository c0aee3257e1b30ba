"""A whole model on disk: safetensors beside a JSON that rebuilds it. Atomic, checked on load, never runs code."""

from playloom.checkpoint.bundle import bundled_models, model_folder
from playloom.checkpoint.card import model_card, number_ranges, on_hardware, tokenizer_card, write_card
from playloom.checkpoint.folder import Model, load_model, read_card, save_model
from playloom.checkpoint.weights import check_count, fingerprint, load_weights, save_weights

__all__ = [
    "Model",
    "bundled_models",
    "check_count",
    "fingerprint",
    "load_model",
    "load_weights",
    "model_card",
    "model_folder",
    "number_ranges",
    "on_hardware",
    "read_card",
    "save_model",
    "save_weights",
    "tokenizer_card",
    "write_card",
]
