"""The frame tokenizer, a VQ-GAN, and its losses."""
