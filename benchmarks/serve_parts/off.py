"""One server with speculation and without, request by request; every prompt under salts nobody has used, so that no earlier
answer is known to the side that speculates."""

from __future__ import annotations

from statistics import mean
from typing import Any

from figures import Found, held

from serve_parts.common import CLIENTS, Bench, many
from serve_parts.contest import Rival, contest

BOUND, ALONE = 0.97, 1.3
ON, OFF = "default", "off"


def run(bench: Bench) -> Found:
    found = Found()
    with bench.betoken() as server:
        rivals = [Rival(ON, server), Rival(OFF, server, {"speculation": {"enabled": False}})]
        for clients in CLIENTS:
            before = server.metrics()
            outcome = contest(bench, clients, rivals)
            ratios = outcome.ratios(ON, OFF)
            more: dict[str, Any] = {
                "on, tokens/s": outcome.rate(ON),
                "off": outcome.rate(OFF),
                "identical": mean(outcome.alike[OFF]),
                "a draft's tokens, accepted +1": _acceptance(before, server.metrics()),
            }
            found.figures.append(held(f"{many(clients)}, on/off", ratios, BOUND, **more))
            if clients == 1:
                found.figures.append(held("one client alone, on/off", ratios, ALONE, strict=True, **more))
            found.data.append({"clients": clients, **outcome.as_json()})
            bench.say(f"{many(clients)}: {found.figures[-1].value:.3f} of off")
    return found


def _acceptance(before: dict[str, float], after: dict[str, float]) -> float:
    """The mean acceptance length between two scrapes."""
    accepted, drafts = (
        after[name] - before[name] for name in ("spec_decode_num_accepted_tokens_total", "spec_decode_num_drafts_total")
    )
    return 1 + accepted / max(drafts, 1)
