"""The table of commands says of each what the command says of itself."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

import certify
from certify.cli.commands import COMMANDS, build_app


@pytest.mark.parametrize("name", COMMANDS)
def test_the_summary_is_the_first_sentence_of_the_command(name):
    command = COMMANDS[name]
    function = getattr(import_module(f"certify.cli.{command.module}"), command.function)
    first, *_ = (inspect.getdoc(function) or "").split("\n\n")
    assert " ".join(first.split()) == command.summary


def test_a_command_that_was_only_listed_never_runs():
    """The name that is asked for is the first word that is no option, as typer finds it too."""
    with pytest.raises(RuntimeError, match="only listed"):
        build_app("gate")(args=["schema"], standalone_mode=False)


def test_only_the_command_that_is_asked_for_is_loaded():
    callbacks = {info.name: info.callback for info in build_app("schema").registered_commands}
    assert [name for name, callback in callbacks.items() if callback.__module__ != "certify.cli.commands"] == ["schema"]


LIBRARY = {
    "inspect": ("load",),
    "export": ("save",),
    "lipschitz": ("lipschitz",),
    "smooth": ("smooth",),
    "gate": ("gate", "parse_gates"),
    "report": ("render", "read_document", "read_log"),
    "compare": ("compare",),
    "verify": ("verify",),
    "merge": ("merge",),
    "curvature": ("measure_curvature",),
    "schema": ("schema",),
}


def test_what_a_command_does_is_a_call():
    assert LIBRARY.keys() == COMMANDS.keys()
    for names in LIBRARY.values():
        for name in names:
            assert name in certify.__all__
            assert callable(getattr(certify, name))


def test_every_public_name_is_there():
    assert sorted(certify.__all__) == sorted({*certify._HOMES, "__version__"})
    assert all(getattr(certify, name) is not None for name in certify.__all__)
