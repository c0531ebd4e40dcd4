"""All results tables as one, for the explorer's page, the advice and the guide."""

from ppml_lab.lab.explorer.folders import of_folders
from ppml_lab.lab.explorer.view import (
    Attack,
    Declared,
    Setting,
    View,
    committed,
    of_table,
)

__all__ = [
    "Attack",
    "Declared",
    "Setting",
    "View",
    "committed",
    "of_folders",
    "of_table",
]
