"""The built-in demonstration model, a file of 2.9 MB. How it was made, and what it can do: training/tiny-model."""

from importlib.resources import files
from pathlib import Path

from antiphon.config import LocalModel

NAME = "antiphon-tiny"
DEMONSTRATION = (
    f"{NAME} is built in for demonstration and tests: it knows nothing and is no assistant. "
    "For real answers: antiphon serve --model PATH_OR_ID, or antiphon serve --upstream URL"
)
"""What start-up says when no model is configured."""


def path() -> Path:
    return Path(str(files(__name__) / "antiphon-tiny.gguf"))


def settings() -> LocalModel:
    """The model that serves when none is configured; never in the place of one that was."""
    return LocalModel(path=str(path()), name=NAME, context_tokens=8192, threads=1, temperature=0.0)
