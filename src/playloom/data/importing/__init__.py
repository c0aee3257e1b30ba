"""Import of recordings of any game into a frame dataset.

Recordings become steps of 0.1 s in three parts:

reader
    One for each format (`FORMATS` in `build`). It finds the recordings of a folder, and gives their pictures with
    times in seconds on one clock, one at a time, and their input as `InputChange`s: time, control, value.
mapping
    A TOML file that turns keys, mouse and pad into the sixteen controls of `playloom.actions.controller`.
resampler
    Cuts a recording where input or pictures are missing, and takes picture and input of every step.

Times and input are read first, without decoding a picture. Then each clip is decoded, reduced and written row by row,
so memory does not grow with the length of a recording.
"""
