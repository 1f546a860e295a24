"""Submodules and parameters found at once: `nn.Module` looks them up in Python, hundreds of times in a forward pass, and
looks for hooks at every call of a layer, though a packed layer has none.
"""

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
            # Somebody else may have wrapped the model meanwhile, or assigned to the name.
            if module.__dict__.get(name, undo) is member:
                del module.__dict__[name]

    return undo


def _members(module: nn.Module) -> dict[str, object]:
    children = {name: _shortest(child) for name, child in module._modules.items()}
    return {**children, **module._parameters, **module._buffers}


def _shortest(child: nn.Module | None) -> object:
    """The function that stands for a packed layer (see `packing`), else the module itself."""
    forward = None if child is None else child.__dict__.get("forward")
    return forward if getattr(forward, "stands_for", None) is child and child is not None else child
