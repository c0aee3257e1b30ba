"""Metrics of a model on test episodes, and a report of them."""
