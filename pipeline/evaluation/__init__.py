"""`evaluate`: nested cross-validation of heads over caches and label sets, held against the baselines."""

from pipeline.evaluation.api import Options, evaluate, plan_tasks, run_planned
from pipeline.evaluation.executor import refit
from pipeline.evaluation.plan import TaskPlan
from pipeline.evaluation.scores import widen_to_classes
from pipeline.evaluation.unreadable import explain_by_unreadable

__all__ = [
    "Options",
    "TaskPlan",
    "evaluate",
    "explain_by_unreadable",
    "plan_tasks",
    "refit",
    "run_planned",
    "widen_to_classes",
]
