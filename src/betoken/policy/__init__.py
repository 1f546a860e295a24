"""What drafts are worth, what forward passes cost, and what to feed therefore. Knows trees and names, no methods; no torch.

`calibration`: scores corrected by what happened, and the likeliest nodes. `claims`: the same for several drafters' trees laid over each
other, compiled, for every step of `auto`. `cost`: the verify curve; `measuring` takes it, `store` keeps it on disk. `pays`: what
asking a drafter has been worth.
"""

from betoken.policy.calibration import MARGIN, Calibration, judged, kept, values

__all__ = ["MARGIN", "Calibration", "judged", "kept", "values"]
