"""The command line: one file per verb; parse, call, print. A verb's file is loaded when the verb is used."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from importlib import import_module

import click

from attnmath import __version__
from attnmath.errors import AttnmathError

VERBS = {  # verb -> what it answers, for the list in --help
    "cost": "What a layer, or a model's attention, costs, and by which formula.",
    "compare": "The same, several variants side by side.",
    "roofline": "Where variants stand under an accelerator's roofs; with -o a picture.",
    "tile": "How an engine's kernel cuts a core up on an accelerator, and which tiles fit it.",
    "sweep": "Many shapes at once: a table or a grid, to CSV or Parquet.",
    "equations": "What a variant computes, line by line.",
    "derive": "Why: a derivation, step by step, each step checked.",
    "derivations": "The derivations that there are.",
    "verify": "Does all of it hold: laws on every variant, derivation, modifier, block and mask.",
    "report": "All of it about one variant as a document: Markdown, LaTeX or HTML.",
    "variants": "The variants that there are.",
    "modifiers": "What can be put on a variant: rotary, norms, windows, biases.",
    "masks": "Which keys a query may see.",
    "schedules": "In which order and tiles a core is walked.",
    "model": "What a whole model weighs, caches and computes, from its config.json.",
    "models": "The models that are known by name.",
    "plan": "Whether a deployment fits, and what to change if not.",
    "gpus": "The accelerators, every figure with its source.",
    "schema": "The JSON Schema of a verb's output.",
}


class Verbs(click.Group):
    """Loads a verb's file on first use, so that one verb does not pay for another."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command: click.Command = import_module(f"attnmath.cli.{name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS:
            from attnmath.errors import Unknown

            raise click.UsageError(str(Unknown("verb", args[0], VERBS)), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="attnmath", message="%(prog)s %(version)s")
def app() -> None:
    """Attention as equations: what every variant computes and costs, with the formula behind each number.

    \b
    attnmath cost --variant gqa --seq 8k --heads 32 --gpu h100-sxm
    attnmath cost --model path/to/config.json --seq 8k
    attnmath compare mha gqa mla --seq 8k --heads 32
    attnmath equations mla

    Shell completion: eval "$(_ATTNMATH_COMPLETE=bash_source attnmath)" (or zsh_source, fish_source).
    """


def main() -> None:
    """Run the command; exit 0 done, 1 a check failed, 2 no verdict. No input leads to a traceback."""
    sys.exit(run(sys.argv[1:]))


def run(args: list[str]) -> int:
    """The exit code of a command line; prints to stdout and stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a narrow encoding is no reason to fail
    try:
        if sys.stdout is None:
            return _refuse("stdout is closed")
        code = app.main(args, prog_name="attnmath", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except SystemExit:
        return 0  # click leaves so, with 1, when the reader of a pipe has gone
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        usage = f"{context.get_usage()}\n" if context else ""
        return _refuse(f"{error.format_message()}", usage)
    except AttnmathError as error:
        return _refuse(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered has no reader
        return 0
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):  # what cannot be written is not tried again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _refuse(f"cannot write: {error.strerror or error}")
    except (click.Abort, KeyboardInterrupt):
        return 130
    except Exception as error:
        if os.environ.get("ATTNMATH_DEBUG"):
            raise
        return _refuse(
            f"internal error, please report it: {type(error).__name__}: {error} (ATTNMATH_DEBUG=1 shows where)"
        )


def _refuse(message: str, usage: str = "") -> int:
    """The message to stderr, if there is one, bounded and with nothing that a terminal would obey; exit code 2."""
    lines = "".join(c if c.isprintable() or c == "\n" else "?" for c in message).split("\n")
    shown = [line if len(line) <= 600 else line[:600] + " ..." for line in lines[:40]]
    more = [f"... and {len(lines) - 40} lines more"] if len(lines) > 40 else []
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None:
            print(usage + "attnmath: " + "\n".join([*shown, *more]), file=sys.stderr)
            sys.stderr.flush()
    return 2
