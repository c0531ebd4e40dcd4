"""Audits: lower bounds on privacy loss, beside an accountant's upper bounds.

`check_mechanism` checks that a mechanism, or a whole training algorithm, is what it
states (`contract`, `probes`, `worlds`); `check_independence` checks whether runs of one
seed share randomness; `check_clipping` checks whether DP-SGD bounds difficult
gradients. `training` and `training_in_one_run` audit any training function, unchanged;
`planted` puts `canaries` into the lab's own trainings and sees every iterate;
`membership_run` and `many_runs` are its building blocks. `evidence` turns scores into
errors at a threshold that the errors did not choose; `bounds`, `one_run` and `tradeoff`
turn errors into statements with a confidence.

**Guarantee:** a bound is above the truth with probability alpha at most. An audit that
finds nothing shows nothing: the attack may be weak.
"""

from ppml_lab.audit import (
    bounds,
    canaries,
    evidence,
    one_run,
    planted,
    roc,
    tradeoff,
    worlds,
)
from ppml_lab.audit.contract import Report, check_mechanism
from ppml_lab.audit.gradients import check_clipping
from ppml_lab.audit.own_training import (
    Leak,
    LeakInOneRun,
    training,
    training_in_one_run,
)
from ppml_lab.audit.people_subjects import of_people
from ppml_lab.audit.repetitions import check_independence
from ppml_lab.audit.runs import (
    claimed_scores,
    likelihood_ratio,
    many_runs,
    membership_run,
)
from ppml_lab.audit.subjects import Subject, of_local_mechanism, of_mechanism
from ppml_lab.audit.training_subjects import (
    of_algorithm,
    of_shared_training,
    of_trainer,
)

__all__ = [
    "Leak",
    "LeakInOneRun",
    "Report",
    "Subject",
    "bounds",
    "canaries",
    "check_clipping",
    "check_independence",
    "check_mechanism",
    "claimed_scores",
    "evidence",
    "likelihood_ratio",
    "many_runs",
    "membership_run",
    "of_algorithm",
    "of_local_mechanism",
    "of_mechanism",
    "of_people",
    "of_shared_training",
    "of_trainer",
    "one_run",
    "planted",
    "roc",
    "tradeoff",
    "training",
    "training_in_one_run",
    "worlds",
]
