"""How rules are called, for the API pages: their constructors are made at run time from their fields."""

import importlib
import inspect

import equinox as eqx
import griffe


class Signatures(griffe.Extension):
    """Every rule of the library shows the arguments of its constructor."""

    def on_package(self, *, pkg, **_):
        """After the source has been read."""
        for module in _modules(pkg):
            for found in module.classes.values():
                if not found.is_alias and not found.name.startswith("_"):
                    _add_constructor(found)


def _modules(module):
    yield module
    for inner in module.modules.values():
        if not inner.is_alias:
            yield from _modules(inner)


def _add_constructor(found):
    kind = getattr(importlib.import_module(found.module.path), found.name)
    if not issubclass(kind, eqx.Module) or "__init__" in found.members:
        return
    arguments = list(inspect.signature(kind).parameters.values())
    if arguments:
        found["__init__"] = griffe.Function(
            "__init__", parameters=griffe.Parameters(griffe.Parameter("self"), *map(_shown, arguments))
        )


def _shown(argument):
    default = None if argument.default is argument.empty else repr(argument.default)
    return griffe.Parameter(
        argument.name, kind=griffe.ParameterKind(argument.kind.description), default=default
    )
