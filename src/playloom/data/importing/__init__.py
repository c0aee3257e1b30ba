"""Import of recordings of any game into a frame dataset.

A reader (`FORMATS` in `build`) finds the recordings of a folder. It gives their pictures and their input, as
`InputChange`s, with times in seconds on one clock. The resampler cuts a recording where either is missing, and makes
steps of 0.1 s. A mapping (TOML) turns keys, mouse and pad into the sixteen controls of `playloom.actions.controller`.

Times and input are read first, without decoding a picture. Then each clip is decoded, reduced and written row by row,
so memory does not grow with the length of a recording.
"""
