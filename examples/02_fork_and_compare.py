"""Fork one session into three branches and compare them on a contact sheet."""

import playloom
from playloom.media.contact_sheet import Tile, contact_sheet
from playloom.media.images import write_picture

model = playloom.load("arena-live")
session = model.open("plaza-explorer", seed=0)
for _ in range(2):
    session.step("forward")

rows = []
for held in ("turn_left", {"left_stick_y": 1.0}, "turn_right"):
    branch = session.fork(seed=1)  # shares the parent's memory until its first step
    frames = [branch.step(held).frame_HWC for _ in range(4)]
    branch.close()
    rows.append([Tile(frame_HWC=frame, kind="dreamed", caption=str(held)) for frame in frames])
session.close()

write_picture("branches.png", contact_sheet(rows, title="One frame, three continuations", tile_width=300))
print("wrote branches.png")
