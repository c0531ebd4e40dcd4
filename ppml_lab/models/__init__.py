"""Models as flax modules, and tasks made of any `(init, apply)` pair."""

from ppml_lab.models.modules import (
    CNN,
    MLP,
    BatchNormMLP,
    LeNet,
    TutorialCNN,
    logistic,
    two_nn,
)
from ppml_lab.models.personal import personal
from ppml_lab.models.sequences import CharLSTM, Transformer
from ppml_lab.models.tasks import classification, flax_classification

__all__ = [
    "CNN",
    "MLP",
    "BatchNormMLP",
    "CharLSTM",
    "LeNet",
    "Transformer",
    "TutorialCNN",
    "classification",
    "flax_classification",
    "logistic",
    "personal",
    "two_nn",
]
