"""Metrics of a model on test episodes, and a report of them."""

from playloom.evaluation.config import EvaluationSettings
from playloom.evaluation.report import Report, Row, markdown, summary, table
from playloom.evaluation.suite import evaluate
from playloom.evaluation.test_set import open_test_set

__all__ = ["EvaluationSettings", "Report", "Row", "evaluate", "markdown", "open_test_set", "summary", "table"]
