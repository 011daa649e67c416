"""The built-in demonstration model, a file of 2.9 MB. How it was made, and what it can do: training/tiny-model."""

from importlib.resources import files
from pathlib import Path

NAME = "antiphon-tiny"
DEMONSTRATION = (
    f"{NAME} is built in for demonstration and tests: it knows nothing and is no assistant. "
    "For real answers: antiphon serve --model PATH_OR_ID, or antiphon serve --upstream URL"
)
"""What start-up says when no model is configured."""


def path() -> Path:
    return Path(str(files(__name__) / "antiphon-tiny.gguf"))
