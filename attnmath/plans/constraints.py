"""The constraints of a plan, a check each: what has to fit on a GPU, what has to divide, what the model was made for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec import Struct

from attnmath.models.quantization import recipe_of
from attnmath.plans.engines import ENGINES
from attnmath.plans.servers import Server, Spread, needed


class Check(Struct, frozen=True):
    """One constraint: `margin` is limit - value where both are numbers, in `unit`; `fix` says what would help; `unsure`: it
    may pass, but an estimate's error does not let it.
    """

    id: str
    name: str
    passed: bool
    value: int | float | str | None
    limit: int | float | str | None
    unit: str
    margin: int | float | None
    why: str
    fix: str
    line: int | None = None
    unsure: bool = False


def fitting(id_: str, name: str, value: int, limit: int, line: int | None, why: str, fix: str) -> Check:
    """A check of bytes against a limit.

    >>> fitting("AM004", "all of it fits the GPU", 3, 2, None, "", "").margin
    -1
    """
    return Check(id_, name, value <= limit, value, limit, "bytes", limit - value, why, fix, line)


def memory_checks(s: Server) -> Iterator[Check]:
    """What has to fit on one GPU of a stage.

    >>> from attnmath.plans.reading import parse
    >>> from attnmath.plans.servers import server
    >>> [c.id for c in memory_checks(server(parse('model = "gpt2"\\n[gpu]\\nmemory = "1GiB"', "p"))) if not c.passed]
    ['AM001', 'AM002', 'AM003', 'AM004', 'AM005']
    """
    plan, engine, at = s.plan, ENGINES[s.plan["engine.name"]], s.split
    setting = f"engine.{engine.setting}" if engine.setting else ""
    stage = f" of stage {s.stage + 1}" if s.rank.pipeline > 1 else ""
    told = f"{setting} = {plan[setting]:g}: {engine.meaning}" if setting else engine.meaning
    pool, longest = max(s.pool, 0), plan["engine.max_model_len"] or s.request
    gpu = plan.at(setting, "gpu.memory", "gpu.name")
    yield fitting(
        "AM001",
        "what comes before the cache fits",
        at.taken,
        at.of,
        gpu,
        f"on a GPU{stage}, by {told}" if stage else told,
        "more tensor or pipeline ranks, narrower weights (dtype.weights), or a smaller engine.max_num_batched_tokens",
    )
    one = needed(s, 1, longest)
    yield fitting(
        "AM002",
        "the longest request fits",
        one,
        pool,
        plan.at("engine.max_model_len", "workload.prompt_tokens"),
        f"{longest:,} tokens of one sequence take {one:,} bytes of cache and state on a GPU{stage}",
        "a shorter engine.max_model_len, a narrower cache (dtype.kv), or more ranks",
    )
    need = needed(s, s.running, s.request)
    yield fitting(
        "AM003",
        "the requests fit at once",
        need,
        pool,
        plan.at("workload.concurrency"),
        f"{s.running:,} of {s.request:,} tokens on each replica, at their longest",
        "fewer requests at once, more replicas (parallel.data), a narrower cache (dtype.kv), or more memory for it",
    )
    yield from _whole(s, need, pool, told, gpu)


def _whole(s: Server, need: int, pool: int, told: str, gpu: int | None) -> Iterator[Check]:
    """All that a GPU holds, against all that it has, less the margin that is asked for."""
    plan, setting = s.plan, ENGINES[s.plan["engine.name"]].setting
    margin = plan["targets.memory_margin"]
    limit = int(s.memory * (1 - margin))
    less = f", less the margin of {margin:.0%}" if margin else ""
    yield fitting(
        "AM004",
        "all of it fits the GPU",
        s.used.total + need,
        limit,
        plan.at("targets.memory_margin", "gpu.memory", "gpu.name"),
        f"memory of one GPU{less}; context, NCCL, graphs and activations are estimates",
        "a GPU with more memory, more ranks, narrower weights or cache, or a smaller margin",
    )
    if setting:
        yield fitting(
            "AM005",
            "what the engine takes fits the GPU",
            s.used.total + pool,
            limit,
            plan.at(f"engine.{setting}", "targets.memory_margin") or gpu,
            f"{told}; it takes its whole cache at its start{less}",
            f"a smaller engine.{setting}",
        )


def shape_checks(s: Spread) -> Iterator[Check]:
    """What has to divide, and what the model and the engine were made for.

    >>> from attnmath.plans.reading import parse
    >>> from attnmath.plans.servers import server
    >>> s = server(parse('model = "gpt2"\\n[gpu]\\nmemory = "8GiB"\\n[parallel]\\ntensor = 5', "plan.toml"))
    >>> [c.id for c in shape_checks(s) if not c.passed]
    ['AM006', 'AM008', 'AM015']
    """
    yield from divisions(s)
    yield from _lengths(s)


def divisions(s: Spread) -> Iterator[Check]:
    """What the ranks have to divide, whatever the memory and the load.

    >>> from attnmath.models import read
    >>> from attnmath.plans.ranks import Rank
    >>> from attnmath.plans.reading import parse
    >>> s = Spread(parse('model = "gpt2"\\n[gpu]\\nmemory = "8GiB"', "plan.toml"), read("gpt2"), Rank(2))
    >>> [c.id for c in divisions(s)]
    ['AM006', 'AM008', 'AM015', 'AM010', 'AM011']
    """
    if ENGINES[s.plan["engine.name"]].whole_heads:
        yield from _shares(s)
    yield from _experts(s)
    yield from _counts(s)


class Share(Struct, frozen=True):
    """Something that tensor ranks take equal shares of: `counts`, from the numbers as the config has them to how many there
    are to share; `held`: whether several ranks may hold one.
    """

    id: str
    name: str
    counts: Callable[[Spread], dict[int, int]]
    why: str
    held: bool = False

    def divides(self, count: int, tensor: int) -> bool:
        """Whether so many ranks can share so many."""
        return not count % tensor or (self.held and not tensor % count)


def _heads(key: str) -> Callable[[Spread], dict[int, int]]:
    def counts(s: Spread) -> dict[int, int]:
        return {p.sizes[key]: p.sizes[key] for p in s.model.pieces if p.part == "attention" and key in p.sizes}

    return counts


def _cut(s: Spread) -> dict[str, int]:
    """Widths of the feed-forward layers that tensor ranks cut, by part: experts that are whole on a rank are not cut."""
    whole = s.rank.expert >= s.rank.tensor and s.rank.expert > 1
    widths = {p.part: p.sizes["ffn"] for p in s.model.pieces if "ffn" in p.sizes and p.part != "vision"}
    return {part: n for part, n in widths.items() if not (whole and part == "experts")}


def _tiles(s: Spread) -> dict[int, int]:
    """Tiles of weights that share a scale, as the checkpoint has them."""
    own, asked = recipe_of(s.model, None), s.plan["dtype.weights"]
    formats = own.formats if asked in (None, own.name) else {}
    return {n: n // f.rows for part, n in _cut(s).items() if (f := formats.get(part)) and f.rows > 1}


def _padded(s: Spread) -> dict[int, int]:
    page = ENGINES[s.plan["engine.name"]].vocabulary_page
    if page is None:
        return {}
    return {n: -(-n // page) * page for n in {p.sizes["vocab"] for p in s.model.pieces if p.page == "head"}}


SHARES = (
    Share("AM006", "tensor ranks divide the query heads", _heads("heads"), "each rank takes whole heads"),
    Share(
        "AM007",
        "tensor ranks share the key/value heads",
        _heads("kv-heads"),
        "each rank takes whole key/value heads, or several ranks hold the same one",
        held=True,
    ),
    Share(
        "AM008",
        "tensor ranks divide the feed-forward widths",
        lambda s: {n: n for n in _cut(s).values()},
        "each rank takes a share of every feed-forward layer",
    ),
    Share(
        "AM014",
        "tensor ranks take whole tiles of quantised weights",
        _tiles,
        "the checkpoint has a scale for each tile of weights, and a tile is not cut (vllm-project/vllm#17569)",
    ),
    Share(
        "AM015",
        "tensor ranks divide the padded vocabulary",
        _padded,
        "each rank takes a share of the vocabulary, which the engine pads to a multiple of 64",
    ),
)


def _shares(s: Spread) -> Iterator[Check]:
    """A check for each thing that tensor ranks share; the sizes that would do divide all of them."""
    tensor, counts = s.rank.tensor, {share: share.counts(s) for share in SHARES}
    allowed = [t for t in range(1, 65) if all(share.divides(n, t) for share in SHARES for n in counts[share].values())]
    fix = f"a parallel.tensor of {', '.join(map(str, allowed))}"
    for share in SHARES:
        found = counts[share]
        if not found:
            continue
        bad = [shown for shown, n in found.items() if not share.divides(n, tensor)]
        held = f"; {tensor // min(found)} ranks hold each" if share.held and tensor > min(found) else ""
        yield Check(
            share.id,
            share.name,
            not bad,
            tensor,
            ", ".join(map(str, sorted(bad or found))),
            "",
            None,
            share.why + held,
            fix,
            s.plan.at("parallel.tensor"),
        )


def _experts(s: Spread) -> Iterator[Check]:
    ranks = s.rank.expert
    if ranks == 1:
        return
    experts = sorted({p.sizes["expert"] for p in s.model.pieces if "expert" in p.sizes})
    bad = [n for n in experts if n % ranks]
    allowed = [str(d) for d in range(2, 1025) if experts and not any(n % d for n in experts)]
    yield Check(
        "AM009",
        "expert ranks divide the experts",
        bool(experts) and not bad,
        ranks,
        ", ".join(map(str, bad or experts)) or "none",
        "",
        None,
        "each rank takes a share of the routed experts" if experts else "the model has no routed experts",
        f"a parallel.expert of {', '.join(['1', *allowed])}" if experts else "parallel.expert = 1",
        s.plan.at("parallel.expert"),
    )


def _counts(s: Spread) -> Iterator[Check]:
    plan, layers = s.plan, len(s.model.sequence)
    pipeline = plan["parallel.pipeline"]
    yield Check(
        "AM010",
        "pipeline stages have layers",
        pipeline <= layers,
        pipeline,
        layers,
        "",
        layers - pipeline,
        f"{layers} layers over {pipeline} stage{'s' * (pipeline > 1)}",
        "a smaller parallel.pipeline",
        plan.at("parallel.pipeline"),
    )
    product = s.rank.tensor * pipeline * s.rank.data
    count = plan["gpu.count"] or product
    yield Check(
        "AM011",
        "the ranks are as many as the GPUs",
        product == count,
        product,
        count,
        "",
        count - product,
        f"tensor {s.rank.tensor} x pipeline {pipeline} x data {s.rank.data} = {product}",
        f"gpu.count = {product}, or other parallel sizes",
        plan.at("gpu.count", "parallel.tensor"),
    )


def _lengths(s: Spread) -> Iterator[Check]:
    plan, positions = s.plan, s.model.positions
    longest = plan["engine.max_model_len"] or s.request
    if positions is not None:
        yield Check(
            "AM012",
            "the model was made for requests as long",
            longest <= positions,
            longest,
            positions,
            "tokens",
            positions - longest,
            "max_position_embeddings of the config",
            f"requests and an engine.max_model_len of at most {positions:,}",
            plan.at("engine.max_model_len", "workload.prompt_tokens"),
        )
    share, seqs = -(-plan["workload.concurrency"] // s.rank.data), plan["engine.max_num_seqs"]
    yield Check(
        "AM013",
        "the engine runs as many at once",
        share <= seqs,
        share,
        seqs,
        "requests",
        seqs - share,
        f"{plan['workload.concurrency']:,} requests over {s.rank.data} replica{'s' * (s.rank.data > 1)}; more than "
        "engine.max_num_seqs wait",
        f"engine.max_num_seqs = {share}, or more replicas",
        plan.at("engine.max_num_seqs", "workload.concurrency"),
    )
