"""The model pair that comes with the package (`target/`, `draft/`) and prompts to compare it on (`prompts.jsonl`)."""

from importlib import resources
from pathlib import Path

from betoken.errors import ModelNotFoundError


def pair() -> tuple[str, str]:
    """The folders of the embedded target and draft model. Raises ModelNotFoundError where this copy has no weights."""
    return str(_model("target")), str(_model("draft"))


def prompts() -> Path:
    """The file of prompts the pair is compared on."""
    return _root() / "prompts.jsonl"


def _root() -> Path:
    return Path(str(resources.files(__name__)))


def _model(name: str) -> Path:
    folder = _root() / name
    if not any(folder.glob("*.safetensors")):
        raise ModelNotFoundError(
            f"this copy of Betoken has no weights for its embedded {name} model (looked in {folder}); "
            "install the package again, or name your own models with --model and --draft"
        )
    return folder
