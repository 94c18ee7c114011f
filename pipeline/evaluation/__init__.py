"""`evaluate`: nested cross-validation of heads over caches and label sets, held against the baselines."""

from pipeline.evaluation.api import evaluate

__all__ = ["evaluate"]
