"""A model and its tokenizer from a folder, a hub name, or the caller's own hands; refused early, with what to do.

Knows `transformers`; knows nothing of drafts, engines or text.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from betoken.errors import ModelNotFoundError, ParameterError, UnsupportedModelError
from betoken.tokenization import quiet as quiet

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEVICES = ("auto", "cpu", "cuda", "mps")
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model.bin.index.json")

FITS_A_CACHE = 32_000_000

Source = str | os.PathLike[str] | tuple[Any, Any]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model on its device. `note` says what was decided on the user's behalf, if anything; `ours`, that nobody else
    holds the model."""

    model: Any
    tokenizer: Any
    name: str
    note: str = ""
    ours: bool = False


def load(source: Source, *, dtype: str = "auto", device: str = "auto") -> Loaded:
    """Load a causal LM and its tokenizer.

    source: a folder, a hub name, or `(model, tokenizer)`, which is taken as it is
    Raises ModelNotFoundError, UnsupportedModelError, ParameterError.
    """
    place = pick_device(device)
    _check_dtype(dtype)
    if isinstance(source, tuple):
        return _in_memory(source, dtype, device)
    if not isinstance(source, str | os.PathLike):
        raise ParameterError("model", type(source).__name__, "a folder, a hub name, or (model, tokenizer)")
    name = os.fspath(source)
    folder = local_folder(name)
    with quiet():
        return _load(name if folder is None else str(folder), name, dtype, place, local=folder is not None)


def load_draft(draft: Source | Any, target: Loaded, *, dtype: str, device: str) -> Loaded:
    """A draft model, beside its target where nothing else is said. In memory the model alone will do."""
    if not isinstance(draft, tuple) and hasattr(draft, "config"):
        draft = (draft, target.tokenizer)
    if isinstance(draft, tuple):
        return load(draft)
    return load(draft, dtype=dtype, device=str(target.model.device or device))


def _in_memory(pair: tuple[Any, Any], dtype: str, device: str) -> Loaded:
    if len(pair) != 2 or not hasattr(pair[1], "decode"):
        raise ParameterError("model", f"a tuple of {len(pair)}", "(model, tokenizer)")
    if dtype != "auto" or device != "auto":
        name, value = ("dtype", dtype) if dtype != "auto" else ("device", device)
        raise ParameterError(name, value, '"auto" for a model in memory, which stays as it is; convert it before')
    model, tokenizer = pair
    name = getattr(getattr(model, "config", None), "name_or_path", "") or type(model).__name__
    return Loaded(model, tokenizer, name)


def local_folder(name: str) -> Path | None:
    """The folder a string means, or None for a hub name. Raises ModelNotFoundError where a path holds no model."""
    path = Path(name).expanduser()
    if not path.exists() and not name.startswith((".", "/", "~", os.sep)):
        return None
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise ModelNotFoundError(f"{name} {found}; expected a folder with config.json, weights and a tokenizer")
    if not (path / "config.json").is_file():
        raise ModelNotFoundError(f"{name} has no config.json; expected a model folder as save_pretrained() writes it")
    if not any(next(path.glob(pattern), None) for pattern in WEIGHTS):
        raise ModelNotFoundError(
            f"{name} has a config.json but no weights; expected *.safetensors or pytorch_model.bin"
        )
    return path


def _load(where: str, name: str, dtype: str, device: torch.device, *, local: bool) -> Loaded:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(where, local_files_only=local)
        refuse_other_kinds(config, name)
        chosen, note = pick_dtype(dtype, config, device, weight_bytes(Path(where)) if local else None)
        model = AutoModelForCausalLM.from_pretrained(where, config=config, dtype=chosen, local_files_only=local)
        tokenizer = AutoTokenizer.from_pretrained(where, local_files_only=local)
    except (OSError, ValueError, KeyError, RuntimeError) as failure:
        raise _not_loaded(name, failure, local=local) from failure
    return Loaded(model.to(device).eval(), tokenizer, name, note, ours=True)


def _not_loaded(name: str, failure: BaseException, *, local: bool) -> Exception:
    reason = (str(failure).strip() or type(failure).__name__).splitlines()[0]
    if local:
        return ModelNotFoundError(f"{name} could not be loaded: {reason}")
    return ModelNotFoundError(
        f"{name} is no folder here and could not be had from the Hugging Face hub ({reason}); check the name, give the "
        f"path of a folder (./{name}), or fetch it while online: hf download {name}"
    )


def refuse_other_kinds(config: Any, name: str) -> None:
    """Raise UnsupportedModelError before any weight is read, where the configuration says it is no causal LM."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{name} ({config.model_type}) is an encoder-decoder; only decoder-only causal LMs are supported"
        )
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UnsupportedModelError(f"{name} ({config.model_type}) is no causal LM; give a model that generates text")


def _check_dtype(dtype: str) -> None:
    if dtype != "auto" and dtype not in DTYPES:
        raise ParameterError("dtype", dtype, "one of auto, " + ", ".join(DTYPES))


def pick_device(device: str) -> torch.device:
    """The device a name means; "auto" is the first accelerator there is, else the CPU. Raises ParameterError."""
    if device == "auto":
        return torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    kind, _, index = device.partition(":")
    if kind not in DEVICES or (index and not index.isdecimal()):
        raise ParameterError("device", device, "one of " + ", ".join(DEVICES) + ", or cuda:N")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[kind] or (kind == "cuda" and index and int(index) >= torch.cuda.device_count()):
        raise ParameterError(
            "device", device, "a device of this machine; this torch sees none such, so try cpu or auto"
        )
    return torch.device(device)


def weight_bytes(folder: Path) -> int:
    """How large the weight files of a folder are."""
    kept = {file for pattern in WEIGHTS for file in folder.glob(pattern) if file.suffix != ".json"}
    return sum(file.stat().st_size for file in kept)


def pick_dtype(dtype: str, config: Any, device: torch.device, size: int | None = None) -> tuple[torch.dtype, str]:
    """The dtype to load in, and a note where "auto" departs from the checkpoint's own.

    Without bfloat16 instructions a CPU multiplies 16-bit matrices several times slower than 32-bit ones; and weights
    that stay in its cache (`size` bytes of them) are multiplied sooner in float32, which also rounds less.
    """
    if dtype != "auto":
        return DTYPES[dtype], ""
    own = getattr(config, "dtype", None) or torch.float32
    if device.type != "cpu" or own == torch.float32:
        return own, ""
    small = size is not None and size < FITS_A_CACHE
    if own == torch.bfloat16 and _fast_bfloat16() and not small:
        return own, ""
    why = "so small a model is faster in it on a CPU" if small else "this CPU has no instructions for them"
    return torch.float32, f"{str(own).removeprefix('torch.')} weights run in float32: {why}"


def _fast_bfloat16() -> bool:
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


@dataclass(frozen=True, slots=True)
class LLMInfo:
    """What was loaded, and what was decided on the user's behalf (`notes`). `parameters` counts shared weights once."""

    model: str
    draft: str | None
    method: str
    dtype: str
    device: str
    vocab_size: int
    context: int | None
    parameters: int
    draft_parameters: int
    notes: tuple[str, ...]


def describe(target: Loaded, draft: Loaded | None, method: str) -> LLMInfo:
    config = target.model.config.get_text_config()
    return LLMInfo(
        model=target.name,
        draft=None if draft is None else draft.name,
        method=method,
        dtype=str(target.model.dtype).removeprefix("torch."),
        device=str(target.model.device),
        vocab_size=config.vocab_size,
        context=getattr(config, "max_position_embeddings", None),
        parameters=sum(weight.numel() for weight in target.model.parameters()),
        draft_parameters=0 if draft is None else sum(weight.numel() for weight in draft.model.parameters()),
        notes=tuple(note for note in (target.note,) if note),
    )
