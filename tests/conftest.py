"""Hypothesis without deadlines: a slow machine is no bug. One thread a process: tiny models gain nothing from more, and two
pytest workers on two cores would wait for each other."""

import os

import torch
from hypothesis import HealthCheck, settings

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
torch.set_num_threads(1)
settings.register_profile("betoken", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("betoken")
