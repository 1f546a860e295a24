"""Submodules and parameters found at once: `nn.Module` looks them up in Python, hundreds of times in a forward pass."""

from collections.abc import Callable

from torch import nn


def flatten_lookup(model: nn.Module) -> Callable[[], None]:
    """Let every module's members stand in its `__dict__` too; returns what undoes it.

    Nothing is computed otherwise, and assigning to a member still works: `nn.Module` takes the name out first.
    """
    added = [(module, name, member) for module in model.modules() for name, member in _members(module).items()]
    for module, name, member in added:
        module.__dict__[name] = member

    def undo() -> None:
        for module, name, member in added:
            if module.__dict__.get(name) is member:
                del module.__dict__[name]

    return undo


def _members(module: nn.Module) -> dict[str, object]:
    return {**module._modules, **module._parameters, **module._buffers}
