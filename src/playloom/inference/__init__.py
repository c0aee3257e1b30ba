"""Inference: sampling, decoding, sessions, generation jobs and live play."""
