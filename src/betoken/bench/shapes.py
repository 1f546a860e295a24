"""Models of a given shape with random weights, for measuring what a forward pass costs."""

from pathlib import Path
from typing import Any

import torch

from betoken.errors import ModelNotFoundError
from betoken.loading import DTYPES, pick_device, quiet, refuse_other_kinds


def random_model(config_file: Path, dtype: str, device: str) -> tuple[Any, int]:
    """A causal LM made from a config.json, seed 0, and its number of parameters.

    dtype: "auto" is the config's own, else float32
    Raises ModelNotFoundError, UnsupportedModelError, ParameterError.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    place = pick_device(device)
    try:
        config = AutoConfig.from_pretrained(str(config_file))
        refuse_other_kinds(config, str(config_file))
        chosen = DTYPES.get(dtype) or getattr(config, "dtype", None) or torch.float32
        with quiet(), torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config, dtype=chosen)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as failure:
        raise ModelNotFoundError(
            f"{config_file} describes no causal language model ({failure}); expected a config.json of transformers"
        ) from failure
    model = model.to(place).eval()
    return model, sum(weight.numel() for weight in model.parameters())
