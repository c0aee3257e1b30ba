"""A whole model on disk: safetensors beside a JSON that rebuilds it. Atomic, checked on load, never runs code."""
