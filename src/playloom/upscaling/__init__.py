"""Pictures four times as wide and high by a network with weights of its own, which dreams nothing."""

from playloom.upscaling.realesrgan import RealESRGAN

__all__ = ["RealESRGAN"]
