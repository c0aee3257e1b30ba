"""The tokenizer: frames to grids of codes and back (a VQ-GAN), and the losses that train it."""
