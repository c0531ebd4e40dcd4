"""Models as flax modules, and tasks made of any `(init, apply)` pair."""

from ppml_lab.models.modules import CNN, MLP, LeNet, TutorialCNN, logistic, two_nn
from ppml_lab.models.tasks import classification, flax_classification

__all__ = [
    "CNN",
    "MLP",
    "LeNet",
    "TutorialCNN",
    "classification",
    "flax_classification",
    "logistic",
    "two_nn",
]
