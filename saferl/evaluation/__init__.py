"""Running a policy on fixed seeds, and what the episodes say about each constraint."""

from saferl.evaluation.episodes import BLOCK, EpisodeRecord
from saferl.evaluation.evaluate import EVALUATION_SEED, VALIDATION_SEED, Evaluation, evaluate
from saferl.evaluation.summary import summarise

__all__ = ["BLOCK", "EVALUATION_SEED", "VALIDATION_SEED", "EpisodeRecord", "Evaluation", "evaluate", "summarise"]
