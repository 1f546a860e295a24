"""The parts of `benchmarks/serve.py`: one promise of `betoken serve` in each file, and what they share."""
