"""Hypothesis without deadlines: a slow machine is no bug. One thread a process: tiny models gain nothing from more, and two
pytest workers on two cores would wait for each other. What is measured of tiny models goes to a folder of this session, not to
the user's cache.
"""

import os
import shutil
import tempfile

import pytest
import torch
from hypothesis import HealthCheck, settings

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
torch.set_num_threads(1)
settings.register_profile("betoken", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("betoken")


def pytest_configure(config: pytest.Config) -> None:
    """Workers have the environment of the process that started them, so they share one folder."""
    if not hasattr(config, "workerinput"):
        os.environ["BETOKEN_CACHE"] = tempfile.mkdtemp(prefix="betoken-tests-")


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["BETOKEN_CACHE"], ignore_errors=True)
