"""Audits: lower bounds on what leaks, and a contract that finds privacy bugs."""

from ppml_lab.audit import bounds, canaries, evidence, one_run, roc, tradeoff, worlds
from ppml_lab.audit.contract import Report, check_mechanism
from ppml_lab.audit.subjects import Subject, of_local_mechanism, of_mechanism
from ppml_lab.audit.training import (
    claimed_scores,
    likelihood_ratio,
    many_runs,
    membership_run,
)
from ppml_lab.audit.training_subjects import (
    of_algorithm,
    of_shared_training,
    of_trainer,
)

__all__ = [
    "Report",
    "Subject",
    "bounds",
    "canaries",
    "check_mechanism",
    "claimed_scores",
    "evidence",
    "likelihood_ratio",
    "many_runs",
    "membership_run",
    "of_algorithm",
    "of_local_mechanism",
    "of_mechanism",
    "of_shared_training",
    "of_trainer",
    "one_run",
    "roc",
    "tradeoff",
    "worlds",
]
