"""Where the file of a local model comes from: a path, or a Hugging Face repository. Knows nothing of running it."""

import logging
import re
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from msgspec import structs

from antiphon.config import LocalModel as Settings
from antiphon.errors import SettingsError

_log = logging.getLogger("antiphon.hub")

HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(:(?P<file>.+\.gguf))?", re.ASCII)
HUB_TIMEOUT_S = 10.0
QUANTS = ("Q4_K_M", "Q4_K_S", "Q4_0", "MXFP4", "Q5_K_M", "Q5_K_S", "Q6_K", "Q8_0", "BF16", "F16", "F32")
"""Which of several files is taken: the first of these that is there. Q4_K_M is the usual balance of size and worth."""
SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
COMPANIONS = re.compile(r"(^|/)(mmproj|imatrix)|[-_.](mmproj|imatrix)", re.IGNORECASE)
"""Files beside a model that are none."""


def prepared(settings: Settings) -> Settings:
    """The same settings, with a name, and a path that is a file here. Downloads: to be called before the loop runs."""
    path = Path(settings.path).expanduser()
    hub_id = HUB_ID.fullmatch(settings.path)
    if hub_id and not path.exists() and (hub_id["file"] or not settings.path.endswith(".gguf")):
        path = downloaded(hub_id["repo"], hub_id["file"])
    if not path.is_file():
        raise SettingsError(f"There is no model file {settings.path}.")
    name = settings.name or SHARD.sub("", path.name).removesuffix(".gguf")
    return structs.replace(settings, path=str(path), name=name)


def downloaded(repo: str, wanted: str | None) -> Path:
    """The file of a Hugging Face repository, kept where huggingface_hub keeps it: HF_ENDPOINT, HF_HOME, HF_TOKEN count.

    Without a network what is in the cache is taken, if it is whole.
    """
    hub, errors = import_module("huggingface_hub"), import_module("huggingface_hub.errors")
    try:
        listed = hub.HfApi().model_info(repo, timeout=HUB_TIMEOUT_S).siblings or ()
        shards = chosen(repo, [file.rfilename for file in listed], wanted)
        patterns = [re.sub(r"([*?[])", r"[\1]", name) for name in shards]
        return Path(hub.snapshot_download(repo, allow_patterns=patterns)) / shards[0]
    except errors.GatedRepoError as error:
        raise SettingsError(f"{repo} is gated: accept its terms on its page, and set HF_TOKEN.") from error
    except errors.RepositoryNotFoundError as error:
        raise SettingsError(f"{_at(repo)} does not exist; if it is private, set HF_TOKEN.") from error
    except (errors.HTTPError, OSError) as error:
        return cached(repo, wanted, str(error))


def cached(repo: str, wanted: str | None, reason: str) -> Path:
    """What an earlier download left. huggingface_hub itself wants all files of a snapshot, asked for or not."""
    constants = import_module("huggingface_hub.constants")
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    try:
        snapshot = folder / "snapshots" / (folder / "refs" / "main").read_text()
        shards = chosen(repo, [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*.gguf")], wanted)
    except (OSError, SettingsError) as error:
        raise SettingsError(f"{_at(repo)} cannot be downloaded: {reason.splitlines()[0]}") from error
    _log.warning("%s cannot be reached (%s): what was downloaded before is served.", _at(repo), reason.splitlines()[0])
    return snapshot / shards[0]


def _at(repo: str) -> str:
    return f"{repo} at {import_module('huggingface_hub.constants').ENDPOINT}"


def chosen(repo: str, files: Iterable[str], wanted: str | None) -> list[str]:
    """The file that is wanted, or the best by QUANTS, else the first by name; of a split one all shards, in order."""
    models = sorted(name for name in files if name.endswith(".gguf") and not COMPANIONS.search(name))
    named = [name for name in models if wanted in (None, name, name.rpartition("/")[2])]
    if not named:
        listed = ", ".join(models) or "none"
        raise SettingsError(f"{_at(repo)} holds no {wanted or '.gguf file'}. Its models: {listed}.")
    first = min(named, key=_rank)
    shards = [name for name in models if SHARD.sub("", name) == SHARD.sub("", first) and SHARD.search(name)] or [first]
    if (numbers := SHARD.search(first)) and len(shards) != int(numbers[2]):
        raise SettingsError(f"{_at(repo)} holds {len(shards)} of the {int(numbers[2])} parts of {first}.")
    return shards


def _rank(name: str) -> int:
    words = re.split(r"[-./]", name.upper())
    return next((rank for rank, quant in enumerate(QUANTS) if quant in words), len(QUANTS))
