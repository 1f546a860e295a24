"""Drafting methods, one small file each, behind the protocol in `base`. Importing the package registers every file in it."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
