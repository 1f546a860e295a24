"""What cannot be kept exact is refused at load, by name, with what to do."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_models import byte_tokenizer, near_copy, tiny_llama
from transformers import AutoModelForCausalLM

from betoken import LLM, SamplingParams, UnsupportedModelError
from betoken.engine import Engine, Request
from betoken.proposers.base import Workshop, build
from betoken.proposers.draft_model import DraftModel
from betoken.targets.base import Feed, TargetInfo
from betoken.targets.hf import HFTarget

SMALL: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "bloom": ("BloomConfig", {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4}, "4-D attention mask"),
    "mamba": ("MambaConfig", {**SMALL, "state_size": 4}, "recurrent state"),
    "mamba2": ("Mamba2Config", {**SMALL, "num_heads": 4, "head_dim": 16, "n_groups": 1, "state_size": 4}, "recurrent"),
    "dynamic rope": (
        "LlamaConfig",
        {
            **SMALL,
            "num_attention_heads": 4,
            "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
        },
        "dynamic RoPE",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_at_load_with_the_reason(kind: str, tmp_path: Path) -> None:
    """In memory and from a folder; nothing half-loaded is left, and the message says what to do."""
    config, options, words = REFUSED[kind]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(getattr(transformers, config)(**options)).eval()
    with pytest.raises(UnsupportedModelError, match=words) as caught:
        HFTarget(model)
    assert "use another" in str(caught.value) or "use an attention-only model" in str(caught.value)
    model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=words):
        LLM(tmp_path, method="plain")


def test_an_encoder_decoder_is_refused_in_memory() -> None:
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4)
    )
    with pytest.raises(UnsupportedModelError, match="encoder-decoder"):
        LLM((model, byte_tokenizer()), method="plain")


def test_a_model_that_answers_otherwise_to_explicit_masks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe must see a mask that is not obeyed: here every query is shown everything."""
    monkeypatch.setattr(HFTarget, "_additive", lambda self, allowed: torch.zeros(allowed.shape)[:, None])
    with pytest.raises(UnsupportedModelError, match="answers differently"):
        HFTarget(tiny_llama(), pack=False)


def test_a_model_that_takes_chains_only_gets_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees go wrong and chains do not: kept, without lookahead, and a drafted tree is cut to its first chain."""
    masks = HFTarget._masks

    def causal_only(self: HFTarget, layout: Any) -> Any:
        own = layout.starts[0] + torch.arange(layout.tokens_BQ.shape[1])
        layout.allowed_BQS[0] = (torch.arange(layout.allowed_BQS.shape[2]) <= own[:, None]).numpy()
        return masks(self, layout)

    monkeypatch.setattr(HFTarget, "_masks", causal_only)
    target = HFTarget(tiny_llama(), pack=False)
    assert not target.info.can_branch
    with pytest.raises(UnsupportedModelError, match="takes chains only"):
        build("lookahead", Workshop(target.info))
    params = SamplingParams(max_tokens=20, ignore_eos=True)
    small = HFTarget(near_copy(tiny_llama()), pack=False)
    auto = build("auto", Workshop(target.info, small))
    said = [run_one(target, proposer, params) for proposer in (None, DraftModel(small, k=3, width=3), auto, auto)]
    assert said == [said[0]] * 4


def run_one(target: HFTarget, proposer: Any, params: SamplingParams) -> list[int]:
    engine = Engine(target, proposer)
    engine.add(Request((1, 2, 3), params))
    tokens: list[int] = []
    engine.run(lambda event: tokens.extend(event.tokens))
    return tokens


def test_a_base_model_without_a_head_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="no language-model head"):
        HFTarget(tiny_llama().model)


def test_what_can_branch_does() -> None:
    target = HFTarget(tiny_llama())
    assert isinstance(target.info, TargetInfo) and target.info.can_branch
    assert target.score([Feed(0, (1, 2))]).logits(0, -1).shape == (264,)
