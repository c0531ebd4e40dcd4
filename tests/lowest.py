"""Prints the lowest release of every package that pyproject.toml allows, as pip's
constraints: `make test-lowest` installs them and runs the tests.
"""

import re
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
for wanted in (*project["dependencies"], *project["optional-dependencies"]["test"]):
    found = re.fullmatch(r"([\w-]+)>=([\d.]+)", wanted)
    assert found, f"{wanted} has no lower bound"
    print(f"{found[1]}=={found[2]}")
