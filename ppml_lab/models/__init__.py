"""Models as flax modules, and tasks from any `(init, apply)` pair."""

from ppml_lab.models.modules import (
    CNN,
    MLP,
    BatchNormMLP,
    LeNet,
    TutorialCNN,
    linear,
    logistic,
    two_nn,
)
from ppml_lab.models.personal import personal
from ppml_lab.models.sequences import CharLSTM, Transformer
from ppml_lab.models.tasks.classification import classification, flax_classification
from ppml_lab.models.tasks.factorisation import factorisation
from ppml_lab.models.tasks.regression import flax_regression, regression
from ppml_lab.models.tasks.sequence import flax_sequence, sequence
from ppml_lab.models.tasks.survival import flax_survival, mean_survival_time, survival

__all__ = [
    "CNN",
    "MLP",
    "BatchNormMLP",
    "CharLSTM",
    "LeNet",
    "Transformer",
    "TutorialCNN",
    "classification",
    "factorisation",
    "flax_classification",
    "flax_regression",
    "flax_sequence",
    "flax_survival",
    "linear",
    "logistic",
    "mean_survival_time",
    "personal",
    "regression",
    "sequence",
    "survival",
    "two_nn",
]
