"""The iterating client of a hosted endpoint, as a library. No torch here, unless Real-ESRGAN is asked for."""

from playloom.client.client import (
    DEFAULT_ENDPOINT,
    ENDPOINT_VARIABLE,
    KEY_VARIABLES,
    CallEvents,
    CallJob,
    CallReport,
    Endpoint,
    Key,
    Retries,
    find_key,
    run_call,
)
from playloom.client.payload import start_from_file, start_from_picture

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
