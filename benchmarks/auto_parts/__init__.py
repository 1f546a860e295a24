"""The parts of `benchmarks/auto.py`: one row of the table `auto` is held to in each file."""
