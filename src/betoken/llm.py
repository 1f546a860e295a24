"""Text in, text out: `LLM(model, draft).generate(prompt)`. Any drafting method, the target's own words.

An `LLM` is used from one thread at a time; streams of one method may be read in turns.
"""

import contextlib
import os
import secrets
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, overload

from betoken.curves import TEXT, curve_of
from betoken.decoding import Answer, Ask, Room, Steps, drain, texts
from betoken.encoding import Encoder, Message
from betoken.engine import Engine
from betoken.errors import BetokenError, ParameterError
from betoken.explain import Explanation, explained
from betoken.grammar import Compiler
from betoken.loading import Loaded, Source, describe, load, load_draft
from betoken.methods import AUTO, allowed, proposer_of, usual
from betoken.outputs import Result
from betoken.params import SEED_LIMIT, SamplingParams
from betoken.policy.cost import Measured
from betoken.prompts import Prompt, check_limit, is_single, one_each, references
from betoken.proposers.base import Proposer, Workshop, methods
from betoken.recording import Recording, spoken_name
from betoken.speculation import USUAL, Speculation, Wish, wishes
from betoken.targets.hf import HFTarget
from betoken.trace import UNNAMED, Header

Options = Mapping[str, Any]


class LLM:
    """A language model that decodes several tokens per forward pass and says what it would have said without.

    model:        a folder, a hub name, or `(model, tokenizer)` in memory (given back unchanged by `close`)
    draft:        a smaller model with the same vocabulary, given likewise (in memory: the model alone will do)
    method:       who drafts; by default "auto", which decides at every step whom to ask and how much to draft (in residual
                  mode, and with `reproducible`, "draft" with a draft model, else "ngram"); `LLM.methods()` lists all. Options
                  may be written after it: "draft:k=6:width=2"
    options:      of that method, e.g. `{"k": 4}`
    dtype:        "auto" (the checkpoint's; on a CPU float32 where it has no instructions for that, and for models
                  under 32 MB, which are faster in it), "float32", "bfloat16", ...
    device:       "auto" (an accelerator where there is one), "cpu", "cuda", "cuda:N", "mps"
    acceptance:   "exact" (the same seed gives the same text, whatever is drafted) or "residual" (the classical rule)
    max_rows:     how many outputs are decoded at once; the others wait
    max_context:  a smaller context than the model's own
    pack, reproducible: see `HFTarget`
    recalibrate:  measure anew what this model's forward passes take here, which `auto` goes by; else that is done once, in
                  under 3 s, and kept on disk

    Raises ModelNotFoundError, UnsupportedModelError, ParameterError.
    """

    def __init__(
        self,
        model: Source,
        draft: Source | Any | None = None,
        *,
        method: str | None = None,
        options: Options | None = None,
        dtype: Any = "auto",
        device: Any = "auto",
        acceptance: str = "exact",
        max_rows: int = 32,
        max_context: int | None = None,
        pack: bool | None = None,
        reproducible: bool = False,
        recalibrate: bool = False,
    ) -> None:
        self._recalibrate = recalibrate
        self._measured: tuple[Measured, bool] | None = None  # and whether it was read from disk
        self.method = method or usual(acceptance, with_draft=draft is not None, chains=reproducible)
        if options is not None and not isinstance(options, Mapping):
            raise ParameterError("options", options, 'a mapping such as {"k": 4}')
        check_limit("max_rows", max_rows)
        if max_context is not None:
            check_limit("max_context", max_context)
        self._options = dict(options or {})
        self._engine_settings: dict[str, Any] = {"acceptance": acceptance, "max_rows": max_rows}
        self._rooms: dict[str, Room] = {}
        self._listeners: list[Callable[[Answer], object]] = []
        self._closed = False
        allowed(self.method, acceptance)
        # torch's own objects are what transformers users hand over.
        dtype, device = str(dtype).removeprefix("torch."), str(device)
        loaded = load(model, dtype=dtype, device=device)
        self.tokenizer = loaded.tokenizer
        self._encoder = Encoder(loaded.tokenizer)
        self._target = HFTarget(
            loaded.model, pack=pack, own=loaded.ours, reproducible=reproducible, max_context=max_context
        )
        self.grammars = Compiler(loaded.tokenizer, self._target.info.vocab_size, self._target.info.eos_ids)
        self._draft: HFTarget | None = None
        small: Loaded | None = None
        try:
            if draft is not None:
                small = load_draft(draft, loaded, dtype=dtype, device=device)
                self._draft = HFTarget(small.model, pack=pack, own=small.ours, reproducible=reproducible, guesses=True)
            self.info = describe(loaded, small, self.method)
            self._room(None, None)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def methods() -> list[str]:
        """The names of all drafting methods, plain decoding first."""
        return methods()

    @property
    def target(self) -> HFTarget:
        """The model as the engine sees it."""
        return self._target

    def curve(self) -> Measured:
        """What the target's forward passes take on this machine: measured at the first call, or before and kept on disk."""
        if self._measured is None:
            text, rows = self._encoder.encode(TEXT, special=False) or [0], self._engine_settings["max_rows"]
            self._measured = curve_of(self._target, text, max_rows=rows, again=self._recalibrate)
        return self._measured[0]

    def warm_up(self, seconds: float = 5.0) -> None:
        """Have compiled what the first forward passes, and draws, would compile, as far as the time goes: for whoever serves, and answers
        soon."""
        from betoken import draws

        draws.warm_up()
        for target in (self._target, self._draft):
            if target is not None:
                target.warm_up(seconds / 2)

    def explain(self) -> Explanation:
        """What `auto` has done in this LLM so far, and why: figures, and a page of them (`print(llm.explain().text())`). Raises
        BetokenError where it has not been used."""
        rooms = [room for room in self._rooms.values() if room.method == AUTO]
        if not rooms or self._measured is None:
            raise BetokenError("there is nothing to explain: the method auto has not been used")
        auto = max((room.engine.proposer for room in rooms), key=lambda auto: auto.ledger.steps)  # type: ignore[union-attr]
        return explained(auto, *self._measured, self._target.info, self.info.model, with_draft=self._draft is not None)

    def drafter(self, method: str | None = None, options: Options | None = None) -> Proposer | None:
        """A new proposer of a method, for an engine of the caller's own around `target`; None for plain decoding. Raises
        ParameterError."""
        name, spelt_out = allowed(method or self.method, self._engine_settings["acceptance"])
        curve = self.curve() if name == AUTO else None
        return proposer_of(name, Workshop(self._target.info, self._draft, {**(options or {}), **spelt_out}, curve))

    def memory(self, method: str | None = None, options: Options | None = None) -> Any:
        """What a method remembers of earlier answers, by default this LLM's own: a `memory.library.Library`, to save, load
        or clear. Raises ParameterError for a method that keeps none."""
        found = getattr(self._room(method, options).engine.proposer, "library", None)
        if found is None:
            raise ParameterError(
                "method",
                method or self.method,
                "one that remembers texts: auto, mix, suffix, or merge with one of them",
            )
        return found

    def forget(self) -> None:
        """Drop what the methods remember of earlier answers. What is remembered makes drafts better, never the text
        another; to measure a method on a prompt it has answered before, forget first."""
        for room in self._rooms.values():
            if room.engine.proposer is not None:
                room.engine.proposer.forget()

    def close(self) -> None:
        """Give models back as they were found. The LLM cannot be used afterwards."""
        self._closed = True
        for room in self._rooms.values():
            room.shut()
        self._rooms.clear()
        self._target.close()
        if self._draft is not None:
            self._draft.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @overload
    def generate(  # type: ignore[overload-overlap]
        self,
        prompts: str,
        params: SamplingParams | None = None,
        *,
        method: str | None = None,
        options: Options | None = None,
        reference: Prompt | None = None,
        namespace: str = "",
        speculation: Wish = None,
        progress: bool = False,
    ) -> Result: ...

    @overload
    def generate(
        self,
        prompts: Sequence[int],
        params: SamplingParams | None = None,
        *,
        method: str | None = None,
        options: Options | None = None,
        reference: Prompt | None = None,
        namespace: str = "",
        speculation: Wish = None,
        progress: bool = False,
    ) -> Result: ...

    @overload
    def generate(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        method: str | None = None,
        options: Options | None = None,
        reference: Sequence[Prompt | None] | None = None,
        namespace: str = "",
        speculation: Wish | Sequence[Wish] = None,
        progress: bool = False,
    ) -> list[Result]: ...

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        method: str | None = None,
        options: Options | None = None,
        reference: Prompt | Sequence[Prompt | None] | None = None,
        namespace: str = "",
        speculation: Wish | Sequence[Wish] = None,
        progress: bool = False,
    ) -> Result | list[Result]:
        """Decode one prompt (a `Result`) or many at once (a list, in the order of the prompts).

        prompts:  a string (the tokenizer adds its own special tokens), a list of token ids (fed as they are), or a
                  list of either; tensors of token ids are taken as lists
        params:   for all prompts, or one per prompt; greedy, 128 tokens by default
        method, options: another drafting method for this call
        reference: a text, or token ids, that the answer is expected to repeat mostly unchanged; of several prompts one
                   each (None: nothing expected). It changes no answer; the methods "reference" and "merge" draft from it
        namespace: whose prompts these are: methods that remember across requests keep what they saw apart by it
        speculation: `{"enabled": False}` drafts nothing, "max_nodes" limits a draft, "method" names another drafter (without
                  `options`); of several prompts one for all, or a list. Those of one method are decoded together, one
                  method after the other. It changes no answer, and is in `stats.speculation`
        progress: show a bar on standard error
        Raises PromptError, ParameterError.
        """
        if hasattr(prompts, "tolist"):  # a tensor or an array of token ids, as tokenizers return them
            prompts = prompts.tolist()
        single = is_single(prompts)
        batch: Sequence[Prompt] = [prompts] if single else prompts  # type: ignore[list-item,assignment]
        many = one_each(params, len(batch))
        expected = [reference] if single else references(reference, len(batch))
        wanted = [self._meant(one, method) for one in wishes([speculation] if single else speculation, len(batch))]
        asked = [self.ask(*each) for each in zip(batch, many, expected, [namespace] * len(batch), wanted, strict=True)]
        rooms = [self._room_of(one, method, options) for one in wanted] or [self._room(method, options)]
        results = self._run(rooms, asked, progress=progress)
        return results[0] if single else results

    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        method: str | None = None,
        options: Options | None = None,
        reference: Prompt | None = None,
        namespace: str = "",
        speculation: Wish = None,
    ) -> Result:
        """Answer a conversation, `[{"role": "user", "content": ...}, ...]`, by the tokenizer's chat template."""
        more: dict[str, Any] = {"method": method, "options": options, "reference": reference}
        more |= {"namespace": namespace, "speculation": speculation}
        return self.generate(self.chat_prompt(messages), params, **more)

    def chat_prompt(self, messages: Sequence[Message], **given: Any) -> list[int]:
        """The token ids of a conversation, up to where the answer begins. Raises PromptError without a template.

        given: what else the template takes, such as `tools`
        """
        return self._encoder.chat_ids(messages, **given)

    def token_ids(self, prompt: Prompt) -> list[int]:
        """What the target is fed for a prompt: text with the tokenizer's own special tokens, ids as they are."""
        return self._encoder.prompt_ids(prompt)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """A text's token ids, with or without the tokenizer's own special tokens. Raises PromptError."""
        return self._encoder.encode(text, special=special)

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        method: str | None = None,
        options: Options | None = None,
        reference: Prompt | None = None,
        namespace: str = "",
        speculation: Wish = None,
    ) -> Generator[str]:
        """The text of one answer as it comes, whole characters only. Closing the iterator early ends the request."""
        more: dict[str, Any] = {"method": method, "options": options, "reference": reference}
        more |= {"namespace": namespace, "speculation": speculation}
        return texts(self.steps(prompt, params, **more))

    def steps(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        method: str | None = None,
        options: Options | None = None,
        reference: Prompt | None = None,
        namespace: str = "",
        speculation: Wish = None,
    ) -> Steps:
        """As `stream`, but every step with its tokens, who proposed them, and the counters so far."""
        params = params or SamplingParams()
        if not isinstance(params, SamplingParams):
            raise ParameterError("params", params, "SamplingParams")
        if params.n != 1:
            raise ParameterError("n", params.n, "1 for a stream; use generate() for several samples")
        wanted = self._meant(Speculation.of(speculation), method)
        room = self._room_of(wanted, method, options)
        return Steps(room, room.add(self.ask(prompt, params, reference, namespace, wanted)))

    @contextlib.contextmanager
    def record(self, path: str | os.PathLike[str], *, category: str = UNNAMED) -> Iterator[Recording]:
        """Record every answer that ends inside the `with` statement: prompt and output as token ids, seed and sampling.

        path:     a new file of JSON lines, gzipped where the name ends in `.gz`; see `docs/traces.md`
        category: the kind of text, for tables
        Raises TraceError, also from the call whose answer cannot be written; see `Recording`.
        """
        if self._closed:
            raise BetokenError("this LLM is closed; make a new one")
        info = self._target.info
        header = Header(spoken_name(self.info.model), info.vocab_size, tuple(sorted(info.eos_ids)))
        with Recording(Path(path), header, category=category) as recording:
            self._listeners.append(recording.hear)
            try:
                yield recording
            finally:
                self._listeners.remove(recording.hear)

    def _run(self, rooms: Sequence[Room], asked: Sequence[Ask], *, progress: bool) -> list[Result]:
        """rooms: of each ask its own; who shares one is decoded together."""
        results: dict[int, Result] = {}
        for room in dict.fromkeys(rooms):
            places = [place for place, _ in enumerate(asked) if rooms[place] is room]
            found = self._run_in(room, [asked[place] for place in places], progress=progress)
            results |= zip(places, found, strict=True)
        return [results[place] for place in range(len(asked))]

    def _run_in(self, room: Room, asked: Sequence[Ask], *, progress: bool) -> list[Result]:
        answers: list[Answer] = []
        try:
            for ask in asked:
                answers += [room.add(ask, sample) for sample in range(ask.params.n)]
            drain(room, answers, progress=progress)
        finally:
            room.forget(answers)
        left = iter(answers)
        return [ask.result([next(left) for _ in range(ask.params.n)]) for ask in asked]

    def ask(
        self,
        prompt: Prompt,
        params: SamplingParams,
        reference: Any = None,
        namespace: str = "",
        speculation: Speculation = USUAL,
    ) -> Ask:
        """A prompt ready for an engine around `target`: `ask(...).request(sample)`. Raises PromptError, ParameterError."""
        if not isinstance(namespace, str):
            raise ParameterError("namespace", namespace, "a string")
        ids = tuple(self.token_ids(prompt))
        seed = secrets.randbelow(SEED_LIMIT) if params.seed is None else params.seed
        words = tuple(ids for word in params.bad_words for ids in self._encoder.word_ids(word))
        return Ask(
            prompt if isinstance(prompt, str) else None,
            ids,
            params.replaced(seed=seed, bad_words=words),
            self.tokenizer,
            self._encoder.reference_ids(reference),
            namespace,
            speculation,
            None if params.grammar is None else self.grammars.compile(params.grammar),
        )

    def _meant(self, speculation: Speculation, method: str | None) -> Speculation:
        """With the method that will draft."""
        return replace(speculation, method=speculation.method or method or self.method)

    def _room_of(self, meant: Speculation, method: str | None, options: Options | None) -> Room:
        """options: of the method they were given with, no other."""
        return self._room(meant.method, options if meant.method == (method or self.method) else None)

    def _room(self, method: str | None, options: Options | None) -> Room:
        """The engine of a method, made at its first use."""
        if self._closed:
            raise BetokenError("this LLM is closed; make a new one")
        if options is not None and not isinstance(options, Mapping):
            raise ParameterError("options", options, 'a mapping such as {"k": 4}')
        written = method or self.method
        name, spelt_out = allowed(written, self._engine_settings["acceptance"])
        given = {**(options if options is not None else self._options if written == self.method else {}), **spelt_out}
        key = f"{name} {sorted(given.items())!r}"
        for other, room in self._rooms.items():
            if other != key and room.engine.unfinished:
                raise BetokenError(
                    f"a stream of {room.method} is still open; close it, or read it to its end, before using {name}"
                )
        if key not in self._rooms:
            proposer = self.drafter(name, given)
            self._rooms[key] = Room(name, Engine(self._target, proposer, **self._engine_settings), self._listeners)
        return self._rooms[key]
