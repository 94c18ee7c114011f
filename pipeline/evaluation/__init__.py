"""`evaluate`: nested cross-validation of heads over caches and label sets, held against the nulls."""

from pipeline.evaluation.evaluation import evaluate

__all__ = ["evaluate"]
