"""The built-in demonstration model, a file of 2.9 MB. How it was made, and what it can do: training/tiny-model."""

from importlib.resources import files
from pathlib import Path


def path() -> Path:
    return Path(str(files(__name__) / "antiphon-tiny.gguf"))
