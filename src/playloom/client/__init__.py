"""The iterating client of a hosted endpoint, as a library. No torch here, unless Real-ESRGAN is asked for."""

from playloom.client.call import CallEvents, CallJob, CallReport, run_call
from playloom.client.endpoint import DEFAULT_ENDPOINT, ENDPOINT_VARIABLE, Endpoint
from playloom.client.key import KEY_VARIABLES, Key, find_key
from playloom.client.retry import Retries
from playloom.client.start import start_from_file, start_from_picture

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
