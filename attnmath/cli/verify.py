"""`attnmath verify`."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from attnmath.cli import options


def _names(ctx: click.Context, param: click.Parameter, start: str) -> list[CompletionItem]:
    from attnmath.verifying.cases import KINDS

    found = [(n, kind) for kind, row in KINDS.items() for n in row.names() if n.startswith(start)]
    return [CompletionItem(n, help=kind) for n, kind in found]


def _laws(ctx: click.Context, param: click.Parameter, start: str) -> list[CompletionItem]:
    from attnmath.verifying.laws import LAWS

    return [CompletionItem(n, help=law.says) for n, law in LAWS.items() if n.startswith(start)]


@click.command("verify", short_help="Does all of it hold: laws on everything there is.")
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=_names)
@click.option(
    "--law", "laws", metavar="LAW", multiple=True, shell_complete=_laws, help="This law only; repeatable [all]."
)
@click.option(
    "--seed", type=click.IntRange(0, 2**63), default=0, metavar="N", help="What random cases are drawn from [0]."
)
@click.option("--cases", type=int, metavar="N", help="So many cases of each name; case k is that of seed N + k.")
@click.option("--thorough", is_flag=True, help="Ten times as many cases.")
@click.option("--jobs", type=click.IntRange(1), metavar="N", help="Processes at once [one per core].")
@options.format_option("junit")
def command(
    names: tuple[str, ...],
    laws: tuple[str, ...],
    seed: int,
    cases: int | None,
    thorough: bool,
    jobs: int | None,
    format_: str,
    as_json: bool,
) -> int:
    """Laws, tried on random cases of variants, modifiers, blocks and masks, and on every derivation: on all of them, or on those
    that are NAMEd. Exit 0: all hold; 1: one does not.

    Values, counts, caches and traffic are held to judges that read the printed page and share no code with what they judge;
    readings, forms, schedules and formulas are held to each other. Cases follow from the seed, which is printed, and each
    failure with the command that repeats it. Without a NAME it takes a minute of one core.

    \b
    attnmath verify gqa
    attnmath verify mla softmax rope causal --seed 7 --json
    attnmath verify gqa --law counts --law forms --cases 3 --format junit
    """
    from attnmath.cli import progress, render_verify
    from attnmath.errors import InputError
    from attnmath.verifying.running import verify

    if thorough and cases is not None:
        raise InputError("--cases and --thorough both say how many cases; give one")
    with progress.bar("verify") as moved:
        found = verify(names, laws, seed=seed, cases=cases, thorough=thorough, jobs=jobs, progress=moved)
    render_verify.verified(found, options.chosen(format_, as_json))
    return 0 if found.passed else 1
