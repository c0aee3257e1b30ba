"""Measuring a model on test episodes: tokenizer, likelihood, horizon, control, collapse, diversity and persistency,
and one report of it all."""

from playloom.evaluation.evaluate import evaluate
from playloom.evaluation.report import Report, Row, markdown, summary, table
from playloom.evaluation.settings import EvaluationSettings
from playloom.evaluation.testset import open_test_set

__all__ = ["EvaluationSettings", "Report", "Row", "evaluate", "markdown", "open_test_set", "summary", "table"]
