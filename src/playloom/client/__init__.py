"""Iterating client of a `/score` endpoint, as a library. No torch, except for Real-ESRGAN."""

from playloom.client.client import CallEvents, CallJob, CallReport, run_call
from playloom.client.endpoint import (
    DEFAULT_ENDPOINT,
    ENDPOINT_VARIABLE,
    KEY_VARIABLES,
    Endpoint,
    Key,
    Retries,
    find_key,
)
from playloom.client.messages import start_from_file, start_from_picture

__all__ = [
    "DEFAULT_ENDPOINT",
    "ENDPOINT_VARIABLE",
    "KEY_VARIABLES",
    "CallEvents",
    "CallJob",
    "CallReport",
    "Endpoint",
    "Key",
    "Retries",
    "find_key",
    "run_call",
    "start_from_file",
    "start_from_picture",
]
