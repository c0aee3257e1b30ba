"""Generate a short clip with the bundled model and save it as GIF, MP4, contact sheet and arrays."""

import playloom

model = playloom.load("arena-live")
clip = model.dream("plaza-explorer", actions="turn_right for 5; forward for 1s", seed=0)

print(clip)
print("frames:", clip.frames.shape, clip.frames.dtype)
for path in ("dream.gif", "dream.mp4", "dream.png", "dream.npz"):
    print("wrote", clip.save(path))
