"""`attnmath plan`: check, solve, explain, init."""

from __future__ import annotations

import os

import click

from attnmath.cli import options, output, render
from attnmath.errors import AttnmathError, InputError


@click.group("plan", short_help="Does this deployment fit, and what to change if not.")
def command() -> None:
    """A server or a training run written down in a TOML file: whether it fits in memory, by what margin, what takes it, what
    would help; of training, how long a step takes.

    \b
    attnmath plan init -o plan.toml
    attnmath plan check plan.toml
    attnmath plan solve plan.toml --for max-context
    attnmath plan explain plan.toml --log server.log
    """


@command.command("check", short_help="Whether plans fit; exit 1 if one does not.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "json", "github", "sarif", "junit"]),
    default="text",
    help="github: annotations of a pull request; sarif, junit: for other CI systems.",
)
@click.option("--json", "as_json", is_flag=True, help="Short for --format json.")
def check(files: tuple[str, ...], format_: str, as_json: bool) -> int:
    """Every constraint with value, limit, margin, reason and fix; of a [training] plan, its step's time, MFU, days and money.
    Exit 0: all fit; 1: one does not; 2: no verdict on one.

    \b
    attnmath plan check plan.toml
    attnmath plan check plans/*.toml --format github
    """
    from attnmath.cli import render_plan
    from attnmath.plans.checking import PlanResult, verdict
    from attnmath.plans.reading import read
    from attnmath.plans.training_checks import TrainingResult

    found: list[PlanResult | TrainingResult] = []
    errors: list[tuple[str, str]] = []
    for path in files:
        try:
            found.append(verdict(read(path)))
        except AttnmathError as error:
            errors.append((path, str(error)))
    render_plan.checked(found, errors, options.chosen(format_, as_json))
    return 2 if errors else 1 if any(not r.passed for r in found) else 0


@command.command("solve", short_help="The largest plan that fits.")
@click.argument("file", metavar="FILE")
@click.option(
    "--for",
    "goal",
    required=True,
    metavar="GOAL",
    help="max-context: the longest requests, or sequences; max-concurrency: the most at once; max-batch: of training, the "
    "largest micro-batch; min-gpus: the fewest GPUs; max-throughput, min-cost: under the targets, with latency against "
    "throughput.",
)
@click.option("-o", "--output", "path", metavar="FILE", help="Draw latency against throughput: FILE.svg, .png or .pdf.")
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
@options.format_option()
def solve(file: str, goal: str, path: str | None, force: bool, format_: str, as_json: bool) -> None:
    """The answer, what binds it, the runner-up, and what single changes would bring, the most helpful first.

    \b
    attnmath plan solve plan.toml --for max-context
    attnmath plan solve plan.toml --for min-gpus --json
    attnmath plan solve plan.toml --for max-throughput -o front.svg
    """
    from attnmath.cli import render_plan
    from attnmath.plans.reading import read
    from attnmath.plans.solving import solve as solve_plan
    from attnmath.plans.tradeoffs import GOALS, tradeoffs

    plan = read(file)
    if path is not None:
        if goal not in GOALS:
            raise InputError(f"-o draws latency against throughput: --for {' or '.join(GOALS)}")
        ending = output.figure(path)
        output.free(path, force)
    if goal in GOALS and not plan.trains:
        found = tradeoffs(plan, goal)
        if path is not None:
            from attnmath.reporting.frontier import frontier

            drawn = frontier(found, ending)
            output.write(path, drawn, force)
            render.note(f"wrote {path}: {len(drawn):,} bytes")
        if options.chosen(format_, as_json) == "json":
            render.as_json(found.to_dict())
        else:
            render.page(render_plan.tradeoff_lines(found))
        return
    solution = solve_plan(plan, goal)
    if options.chosen(format_, as_json) == "json":
        render.as_json(solution.to_dict())
    else:
        render.page(render_plan.solution_lines(solution))


@command.command("replay", short_help="Its requests, played one by one.")
@click.argument("file", metavar="FILE")
@click.option("--requests", metavar="N", type=click.IntRange(1, 10**7), default=2000, help="How many are drawn [2000].")
@click.option("--seed", metavar="N", type=click.IntRange(0, 2**32 - 1), default=0, help="The same draws the same [0].")
@options.format_option()
def replay(file: str, requests: int, seed: int, format_: str, as_json: bool) -> int:
    """Latency by percentiles, queues and utilisation of a plan's requests, drawn from its [workload] or read from its trace.
    Exit 0: targets are met in the mean; 1: one is not, or the queue grows; 2: it cannot be played.

    \b
    attnmath plan replay plan.toml
    attnmath plan replay plan.toml --requests 100000 --seed 7 --json
    """
    from attnmath.cli import progress, render_plan
    from attnmath.plans.reading import read
    from attnmath.plans.replaying import play

    with progress.bar("requests") as bar:
        found = play(read(file), requests, seed, bar)
    if options.chosen(format_, as_json) == "json":
        render.as_json(found.to_dict())
    else:
        render.page(render_plan.played_lines(found))
        for text in found.assumed:
            render.note(f"{file}: assumed: {text}")
    return 0 if found.passed else 1


@command.command("explain", short_help="Why the server's log says something else.")
@click.argument("file", metavar="FILE")
@click.option(
    "--log", required=True, metavar="LOG", help="What vLLM, SGLang, TensorRT-LLM or llama.cpp printed at its start."
)
@options.format_option()
def explain(file: str, log: str, format_: str, as_json: bool) -> None:
    """The sizes in a server's log beside the plan's, and what each difference is.

    \b
    attnmath plan explain plan.toml --log server.log
    """
    from attnmath.cli import render_plan
    from attnmath.plans.logs import explain as explain_log
    from attnmath.plans.reading import read

    explanation = explain_log(read(file), log)
    if options.chosen(format_, as_json) == "json":
        render.as_json(explanation.to_dict())
    else:
        render.page(render_plan.explanation_lines(explanation))


@command.command("init", short_help="A commented example file.")
@click.option("-o", "--output", metavar="FILE", help="Where to write it [stdout].")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@click.option("--training", is_flag=True, help="A plan of training, instead of a server's.")
def init(output: str | None, force: bool, training: bool) -> None:
    """A plan file with every key, its meaning and its default.

    \b
    attnmath plan init
    attnmath plan init --training -o plan.toml
    """
    from attnmath.plans.fields import commented

    if output is None:
        render.page(commented(training).rstrip("\n").split("\n"))
        return
    if os.path.exists(output) and not force:
        raise InputError(f"{output} exists; --force overwrites it")
    _write(output, commented(training))
    render.note(f"wrote {output}; check it with: attnmath plan check {output}")


def _write(path: str, text: str) -> None:
    """All of it or nothing."""
    draft = f"{path}.{os.getpid()}.tmp"
    try:
        with open(draft, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.replace(draft, path)
    except OSError as error:
        if os.path.exists(draft):
            os.unlink(draft)
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
