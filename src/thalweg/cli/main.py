"""The command itself: its commands, and what becomes of their errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from .console import INTERRUPTED, UsageError, explain, say_error

COMMANDS = ("train", "resume", "predict", "flow", "compare", "methods")


class _Commands(TyperGroup):
    """Commands whose errors become one sentence and an exit code: 2 for usage, 1 for failure, 130 for Ctrl-C."""

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of `COMMANDS`."""
        return list(self.commands)

    def main(self, args: Sequence[str] | None = None, **options: Any) -> Any:  # type: ignore[override]
        """Run a command, and exit."""
        words = list(sys.argv[1:] if args is None else args)
        debug = "--debug" in words
        _settle()
        try:
            code = super().main([word for word in words if word != "--debug"], **options | {"standalone_mode": False})
        except UsageError as error:
            command = next((f" {word}" for word in words if word in self.commands), "")
            say_error(f"{_sentence(error)} (see thalweg{command} --help)")
            sys.exit(2)
        except typer.Abort:
            sys.exit(INTERRUPTED)
        except Exception as error:
            if debug:
                raise
            say_error(explain(error) if _is_for_people(error) else _unexpected(error))
            sys.exit(1)
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(cls=_Commands, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, with any command.")] = False,
) -> None:
    """Neural ODEs for tables and images.

    A network says which way the water runs, an input is a boat put in at t0, the answer is where it comes ashore at t1.
    """
    if version:
        typer.echo(f"thalweg {__version__}")
    elif ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


for _name in COMMANDS:
    app.command(_name)(getattr(import_module(f".{_name}", __package__), _name))


def main() -> None:
    """Run the command that the program was called with."""
    app()


def _settle() -> None:
    """Make the process at home where it runs, before anything heavy is imported."""
    # Threads of OpenMP that spin as long as they do by default make small models a hundred times slower where another
    # program wants the cores; threads that never spin make them three times slower where none does. GNU's runtime
    # counts turns, LLVM's milliseconds.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        os.environ.setdefault("KMP_BLOCKTIME", "1")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal without the signs of figures shall still get words
            stream.reconfigure(errors="replace")


def _sentence(error: Any) -> str:
    text = " ".join(error.format_message().split()).rstrip(".")
    return text.replace("Value error, ", "").replace("Input should be", "it should be")


def _is_for_people(error: Exception) -> bool:
    """Whether an error's message was written to be read: all but those of a defect."""
    from ..core.status import SolveError

    return isinstance(error, ValueError | OSError | MemoryError | SolveError)


def _unexpected(error: Exception) -> str:
    return f"unexpected {type(error).__name__}: {explain(error)}; --debug shows where it came from"
