"""Generation with the trained model itself, through transformers: nothing to synchronise, and it runs on a CPU.

A prompt is read once for all its completions. Prompts are padded on the left, and a row leaves the batch when it has ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import DynamicCache

from tanren.common.completions import Completion, Sampling, Tokens
from tanren.common.grammar import Grammar, Grammars, grammar_of
from tanren.common.models.decoding import decoding


class TransformersEngine:
    """Decodes with the model in place."""

    name = "transformers"

    def __init__(
        self, model: Any, *, batch_size: int, padding: int, seed: int, grammars: Grammars | None = None
    ) -> None:
        """Generate with `model`; `padding` is any token of its vocabulary, `batch_size` how many completions share a pass.

        `grammars` are for completions of a given form.
        """
        self._model, self._batch_size, self._padding = model, batch_size, padding
        self._grammars = grammars
        self._generator = torch.Generator(device=model.device)
        self._generator.manual_seed(seed)

    def wake(self) -> None:
        """Do nothing: the model is there."""

    def sync(self, model: Any) -> None:
        """Do nothing: it is the same model."""
        assert model is self._model, "this engine generates with the model that it was made with"

    def sleep(self) -> None:
        """Do nothing: it holds no memory between calls."""

    def close(self) -> None:
        """Do nothing."""

    def state(self) -> Mapping[str, Any]:
        """Return the generator's state."""
        return {"generator": self._generator.get_state()}

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Take up the generator's state."""
        self._generator.set_state(state["generator"].cpu())

    def generate(self, prompts: Sequence[Tokens], n: int, sampling: Sampling) -> list[list[Completion]]:
        """Return `n` completions of each prompt; prompts of like length share a batch."""
        grammar = grammar_of(sampling, self._grammars)
        found: dict[int, list[Completion]] = {index: [] for index in range(len(prompts))}
        with decoding(self._model):
            for places, count in _batches([len(prompt) for prompt in prompts], n, self._batch_size):
                made = self._decode([prompts[place] for place in places], count, sampling, grammar)
                for index, completion in enumerate(made):
                    found[places[index // count]].append(completion)
        return [found[index] for index in range(len(prompts))]

    def _decode(
        self, prompts: Sequence[Tokens], n: int, sampling: Sampling, grammar: Grammar | None
    ) -> list[Completion]:
        """Return the completions of one batch, those of a prompt side by side."""
        device, width = self._model.device, max(map(len, prompts))
        ids = torch.tensor([[self._padding] * (width - len(one)) + list(one) for one in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts], device=device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache = DynamicCache(config=self._model.config.get_text_config())
        logits = self._forward(ids, mask, positions, cache)
        if n > 1:
            cache.batch_repeat_interleave(n)
            logits, mask, positions = (one.repeat_interleave(n, dim=0) for one in (logits, mask, positions))
        rows = len(logits)
        words = torch.full((rows, sampling.max_new_tokens), self._padding, device=device)
        log_probs = torch.zeros((rows, sampling.max_new_tokens), device=device)
        lengths = torch.full((rows,), sampling.max_new_tokens, device=device)
        stops = torch.tensor(sampling.stop_token_ids, device=device)
        matchers = [grammar.begin() for _ in range(rows)] if grammar is not None else []
        alive, position = torch.arange(rows, device=device), positions[:, -1:]
        for step in range(sampling.max_new_tokens):
            allowed = logits if grammar is None else grammar.mask(logits, matchers)
            chosen, log_prob = draw(logits, allowed, sampling, self._generator)
            words[alive, step], log_probs[alive, step] = chosen, log_prob
            ended = torch.isin(chosen, stops)
            lengths[alive[ended]] = step + 1
            if bool(ended.all()) or step + 1 == sampling.max_new_tokens:
                break
            if grammar is not None:
                grammar.advance(matchers, chosen.tolist())
                matchers = [matcher for matcher, over in zip(matchers, ended.tolist(), strict=True) if not over]
            if bool(ended.any()):
                kept = (~ended).nonzero()[:, 0]
                cache.batch_select_indices(kept)
                alive, chosen, mask, position = alive[kept], chosen[kept], mask[kept], position[kept]
            position = position + 1
            mask = torch.cat((mask, mask.new_ones(len(mask), 1)), dim=1)
            logits = self._forward(chosen[:, None], mask, position, cache)
        texts = zip(words.tolist(), log_probs.tolist(), lengths.tolist(), strict=True)
        stop = set(sampling.stop_token_ids)
        return [
            Completion(tuple(row[:end]), tuple(found[:end]), "stop" if row[end - 1] in stop else "length")
            for row, found, end in texts
        ]

    def _forward(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        """Return the logits of the last position, (rows, words) in float32."""
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        last: torch.Tensor = output.logits[:, -1].float()
        return last


def draw(
    logits: torch.Tensor, allowed: torch.Tensor, sampling: Sampling, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a word for each row, and its log-probability at temperature 1 among all words.

    `logits`, (rows, words), are the model's; `allowed` are the same with -inf for the words that are not to be drawn.
    """
    chosen = (
        allowed.argmax(dim=-1, keepdim=True)
        if sampling.greedy
        else _places(probabilities(allowed, sampling), generator)
    )
    return chosen[:, 0], logits.gather(1, chosen)[:, 0] - logits.logsumexp(dim=-1)


def _places(shares: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw a place of each row of probabilities, (rows, 1)."""
    if shares.device.type != "cpu":
        return torch.multinomial(shares, 1, generator=generator)
    # On a CPU torch draws a number for each word of the vocabulary: 12 % of a step's time with 49,152 of them. One for a row is enough.
    sums = shares.cumsum(dim=-1, dtype=torch.float64)
    total = sums[:, -1:]
    drawn = torch.rand(total.shape, dtype=torch.float64, generator=generator) * total
    return torch.searchsorted(sums, torch.minimum(drawn, total.nextafter(torch.zeros_like(total))), right=True)


def probabilities(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Return the distribution that is sampled, (rows, words), at a temperature above 0."""
    logits = logits / sampling.temperature
    if sampling.top_k:
        least = logits.topk(min(sampling.top_k, logits.shape[1]), dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    shares = logits.softmax(dim=-1)
    if sampling.top_p < 1:
        ordered, places = shares.sort(dim=-1, descending=True)
        beyond = ordered.cumsum(dim=-1) - ordered >= sampling.top_p  # the word that reaches it still belongs to it
        shares = shares.masked_fill(torch.zeros_like(beyond).scatter(1, places, beyond), 0)
    if sampling.min_p:
        shares = shares.masked_fill(shares < sampling.min_p * shares.max(dim=-1, keepdim=True).values, 0)
    return shares / shares.sum(dim=-1, keepdim=True)


def _batches(lengths: Sequence[int], n: int, batch_size: int) -> list[tuple[list[int], int]]:
    """Return which prompts are decoded together, with how many completions each: at most `batch_size` rows at once."""
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    if n >= batch_size:
        parts = [batch_size] * (n // batch_size) + ([n % batch_size] if n % batch_size else [])
        return [([place], part) for place in order for part in parts]
    together = batch_size // n
    return [(order[first : first + together], n) for first in range(0, len(order), together)]
