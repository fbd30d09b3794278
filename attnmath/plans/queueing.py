"""Latency under load in closed form: what queueing theory says of a server whose steps take as long as what is in them.

Each law stands with its source and with what has to hold for it. What replay.py plays event by event, this says in the mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import astuple, replace

from attnmath.errors import InputError, together
from attnmath.plans.batching import RULES, Batching
from attnmath.plans.load import Load, StepTime
from attnmath.plans.workload import Lengths

NEARLY_ALL = 0.999  # of the time: prompts that take more are held up by slots
ASSUMED = (
    "means only: a replay has the percentiles",
    "arrivals by Poisson's process, shared among replicas by chance; round robin waits less",
    "waiting for slots as if sizes were exponential, x (1 + scv) / 2 (Lee and Longton 1959, Oper. Res. Quarterly 10:1)",
    "waiting for others' prompts as M/G/1",
)


# -- laws


def little(rate_per_s: float, time_s: float) -> float:
    """How many are there in the mean: rate x time. It holds for whatever is stable (Little 1961, Operations Research 9:3).

    >>> little(2.0, 3.0)
    6.0
    """
    return rate_per_s * time_s


def utilisation(rate_per_s: float, service_s: float, servers: int = 1) -> float:
    """The share of time that each of so many servers works: rate x service / servers; stable below 1.

    >>> utilisation(2.0, 0.4)
    0.8
    """
    return rate_per_s * service_s / servers


def waiting_s(rate_per_s: float, service_s: float, scv: float = 0.0) -> float:
    """Mean wait before service, M/G/1: rho s (1 + scv) / (2 (1 - rho)); infinite where rho is 1 or more.

    `scv`: variance of the service over its squared mean: 0 for M/D/1, 1 for M/M/1. It holds for Poisson arrivals, one server,
    first come, first served (Pollaczek 1930, Khinchine 1932; Kleinrock 1975, Queueing Systems I, chapter 5).

    >>> round(waiting_s(0.8, 1.0), 9), round(waiting_s(0.8, 1.0, scv=1.0), 9), waiting_s(1.0, 1.0)
    (2.0, 4.0, inf)
    """
    rho = utilisation(rate_per_s, service_s)
    return rho * service_s * (1 + scv) / (2 * (1 - rho)) if rho < 1 else math.inf


class Population(Struct, frozen=True):
    """How many requests a replica has, over time: `idle`, the share of time without any; `open`, with some, and a free slot;
    `running` and `waiting`, in the mean; `wave`, how many run where one runs, itself included.
    """

    idle: float
    open: float
    running: float
    waiting: float
    wave: float


def births_and_deaths(rate_per_s: float, time_s: Callable[[int], float], slots: int) -> Population | None:
    """A server that takes `time_s(k)` for each of k at once: up at the rate, down at k / time_s(k), from `slots` on no faster.

    The equilibrium is a product of the ratios (Kleinrock 1975, chapter 3); with one time for all k it is M/M/c, Erlang's.
    Up to `slots` it holds for any law of sizes, if what is there shares the server (Kelly 1979, Reversibility, 3.3); who
    waits beyond is counted as if sizes were exponential. Times found with k present at any time make it the equivalent
    server of Chandy, Herzog and Woo 1975 (IBM J. Res. Dev. 19:1). None if more comes than goes.

    >>> found = births_and_deaths(0.8, lambda k: 1.0, 1)
    >>> round(found.idle, 9), round(found.waiting, 9), births_and_deaths(1.0, lambda k: 1.0, 1)
    (0.2, 3.2, None)
    """
    ratio = rate_per_s * time_s(slots) / slots
    if ratio >= 1:
        return None
    logs = [0.0]
    for k in range(1, slots + 1):
        logs.append(logs[-1] + math.log(rate_per_s * time_s(k) / k))
    most = max(logs)
    weights = [math.exp(x - most) for x in logs]
    full = weights[-1] / (1 - ratio)
    total = math.fsum(weights[:-1]) + full
    weights[-1] = full
    running = math.fsum(k * w for k, w in enumerate(weights))
    squares = math.fsum(k * k * w for k, w in enumerate(weights))
    waiting = full * ratio / (1 - ratio)
    return Population(
        weights[0] / total,
        math.fsum(weights[1:-1]) / total,
        running / total,
        waiting / total,
        squares / running,
    )


# -- requests


class Shape(Struct, frozen=True):
    """What requests are like: tokens in the mean, and how they vary (variance over squared mean)."""

    prompt: float
    output: float
    prompt_scv: float = 0.0
    output_scv: float = 0.0

    @classmethod
    def of(cls, prompt: Lengths, output: Lengths) -> Shape:
        """That of two laws."""
        return cls(prompt.mean, output.mean, prompt.scv, output.scv)

    def __post_init__(self) -> None:
        """Refuse what is no request."""
        errors = [
            f"{name} tokens are {n:g} in the mean; at least 1 is expected"
            for name, n in (("prompt", self.prompt), ("output", self.output))
            if not 1 <= n < math.inf
        ]
        if errors:
            raise InputError(together(errors))

    def further(self, tokens_per_step: float) -> float:
        """Steps in the mean after the one that makes the first token."""
        return (self.output - 1) / tokens_per_step

    def context(self, tokens_per_step: float) -> float:
        """Tokens that one of those that decode sees: the longer one decodes, the more often it is met."""
        steps = self.further(tokens_per_step)
        if not steps:
            return self.prompt + 1
        squares = steps**2 + self.output_scv * (self.output / tokens_per_step) ** 2
        return self.prompt + 1 + tokens_per_step * max(squares / steps - 1, 0.0) / 2


class Service(Struct, frozen=True):
    """What a request meets on a replica of which `running` are under way: `chunks` steps of `chunk_s` until its first token,
    `pieces` if it were alone, `time_s` until its last, in steps that take `step_s` in the mean, and `square_s2`, their square;
    `filled`: the share of the steps' tokens, or of time where prompts come first, that prompts take.
    """

    running: float
    pieces: float
    chunks: float
    chunk_s: float
    time_s: float
    step_s: float
    square_s2: float
    filled: float

    @property
    def rate_per_s(self) -> float:
        """Requests that end in a second, by Little's law."""
        return self.running / self.time_s

    @property
    def first_s(self) -> float:
        """Seconds of the steps until the first token."""
        return self.chunks * self.chunk_s

    @property
    def alone_s(self) -> float:
        """The same, if no other prompt took of its steps."""
        return self.pieces * self.chunk_s


def service(shape: Shape, step_time: StepTime, batching: Batching, running: float) -> Service:
    """A request's time on a replica where so many run at any time, as a fluid: each takes the mean of what there is.

    Mixed: a request stays n steps for its prompt and m = (output - 1) / tokens_per_step after that, so running / (n + m) end
    in a step, and as many prompts' tokens are computed; a step has a chunk of them, or none. Prefill first: of m steps
    that decode all, those of prompts come in between. It holds where many steps pass in a request's time, or one request runs.

    >>> s = service(Shape(100, 11), lambda load: 0.01 * load.decodes + 0.001 * load.prefill_tokens, Batching(8, 128), 1)
    >>> round(s.first_s, 9), round(s.time_s, 9)
    (0.1, 0.2)
    """
    return _service(shape, step_time, batching, running, shape.prompt * (1 - batching.hit_rate))


def _service(shape: Shape, step_time: StepTime, b: Batching, running: float, work: float) -> Service:
    steps, context = shape.further(b.tokens_per_step), shape.context(b.tokens_per_step)
    rule = RULES[b.rule]
    room = max(b.budget - running + 1, 1.0) if rule.mixes else float(b.budget)
    pieces = max(math.ceil(work / room), 1) if rule.chunks and work else float(work > 0)

    def time(decodes: float, tokens: float) -> float:
        past = shape.prompt - work + max(work - tokens, 0.0) / 2
        return _between(step_time, decodes, context, tokens, past, max(tokens / work, 1.0) if work else 1.0)

    if not work:
        step = time(running, 0.0)
        return Service(running, 0.0, 0.0, 0.0, steps * step, step, step**2, 0.0)
    if not rule.mixes:
        return _turns(running, steps, work, room, pieces, time)
    stay = max(pieces, running * work / room - steps)
    per_step = running / (stay + steps) * work
    chunk = max(work / stay, min(per_step, room))
    share = min(per_step / chunk, 1.0)
    others = running - running / (stay + steps) * stay / share
    plain_s = time(running, 0.0) if share < 1 else 0.0
    chunk_s = time(max(others, 0.0), chunk)
    step = (1 - share) * plain_s + share * chunk_s
    square = (1 - share) * plain_s**2 + share * chunk_s**2
    return Service(running, pieces, stay, chunk_s, (stay + steps) * step, step, square, min(per_step / room, 1.0))


def _turns(
    running: float, steps: float, work: float, room: float, pieces: float, time: Callable[[float, float], float]
) -> Service:
    """Steps of prompts, and steps of tokens: in those of prompts nobody gets a token."""
    chunk = max(work / pieces, min(running / max(steps, 1.0) * work, room))
    chunk_s, turns = time(0.0, chunk), running * work / chunk
    plain_s = time(running, 0.0) if steps else 0.0
    total = steps * plain_s + turns * chunk_s
    step, square = total / (steps + turns), (steps * plain_s**2 + turns * chunk_s**2) / (steps + turns)
    return Service(
        running, pieces, pieces, chunk_s, max(total, pieces * chunk_s), step, square, turns * chunk_s / total
    )


def _between(step_time: StepTime, decodes: float, context: float, tokens: float, past: float, prompts: float) -> float:
    """A step's time where the number that decode is none: on the line between its neighbours."""
    low = math.floor(decodes)
    whole, of = round(tokens), max(round(prompts), 1)
    whole = max(whole, 1) if tokens else 0

    def at(n: int) -> float:
        return step_time(Load(n, context if n else 0.0, whole, past if whole else 0.0, of)) if n or whole else 0.0

    return at(low) if low == decodes else (low + 1 - decodes) * at(low) + (decodes - low) * at(low + 1)


# -- a server in steady state


class Steady(Struct, frozen=True):
    """A server in steady state, in the mean; None where it has none, because more comes than it does.

    `rate_per_s`: requests; `saturation_per_s`: the most that it does; `utilisation`: their ratio. `ttft_s`: from arrival to first
    token; `tpot_s`: of each further token, None if there is none; `wait_s`: before the first step. `in_flight`: over all
    replicas, waiting or running; `running`: on a replica that is not idle; `slots`: what a replica can run; `limit`: what sets
    the saturation. `formula`: what was solved.
    """

    stable: bool
    rate_per_s: float
    saturation_per_s: float
    utilisation: float
    ttft_s: float | None
    tpot_s: float | None
    e2e_s: float | None
    wait_s: float | None
    step_s: float | None
    in_flight: float | None
    running: float | None
    output_tokens_per_s: float
    slots: int
    limit: str
    formula: str
    assumed: tuple[str, ...] = ASSUMED


OPEN = "births at the rate, deaths at k / time(k) of k at once, from slots on no faster; in_flight = rate x e2e"
IN_TURN = "wait = rate time^2 (1 + scv) / 2 / (1 - rate / saturation)"
CLOSED = (
    "rate = running / time(running), running = min(concurrency, slots); ttft + (output - 1) tpot = concurrency / rate"
)


def slots(shape: Shape, batching: Batching) -> tuple[int, str]:
    """How many a replica can run at once, and what limits it: the slots, or the cache, at the mean of what each holds.

    InputError if the cache does not hold one.

    >>> slots(Shape(100, 51), Batching(16, 512, cache_tokens=1000)), slots(Shape(100, 51), Batching(4, 512))
    ((8, 'cache'), (4, 'slots'))
    """
    if batching.cache_tokens is None:
        return batching.slots, "slots"
    if not batching.fits(math.ceil(shape.prompt), math.ceil(shape.output)):
        raise InputError(
            f"a request of {shape.prompt + shape.output:,.0f} tokens does not fit into a cache of {batching.cache_tokens:,}"
        )
    most = max(int(batching.cache_tokens / (shape.context(batching.tokens_per_step) - 1)), 1)
    return (most, "cache") if most < batching.slots else (batching.slots, "slots")


def saturation(shape: Shape, step_time: StepTime, batching: Batching) -> Service:
    """What a replica does when it never lacks requests; its rate is the most that it can.

    >>> saturation(Shape(8, 1), lambda load: 0.5, Batching(1, 8)).rate_per_s
    2.0
    """
    return service(shape, step_time, batching, slots(shape, batching)[0])


def steady(
    shape: Shape,
    step_time: StepTime,
    batching: Batching,
    *,
    rate_per_s: float | None = None,
    concurrency: int | None = None,
    replicas: int = 1,
) -> Steady:
    """A server under a load: an open one, so many requests a second, or a closed one, so many in flight.

    Exact for M/D/1 and M/G/1 (one slot, one token), and for one request at a time; else right as far as `service` and
    `births_and_deaths` are. Preemption is not in it: where the cache is the limit, real waits are longer.

    InputError unless one of the two is given.

    >>> found = steady(Shape(8, 1), lambda load: 0.5, Batching(1, 8), rate_per_s=1.6)
    >>> round(found.ttft_s - 0.5, 9), found.utilisation, round(found.in_flight, 9)  # M/D/1: 0.8 x 0.5 / (2 x 0.2)
    (1.0, 0.8, 2.4)
    >>> steady(Shape(8, 1), lambda load: 0.5, Batching(1, 8), rate_per_s=2.5).stable
    False
    """
    errors = [
        f"{n} is {v:g}; more than 0 is expected"
        for n, v in (("rate_per_s", rate_per_s), ("concurrency", concurrency), ("replicas", replicas))
        if v is not None and not 0 < v < math.inf
    ]
    if (rate_per_s is None) == (concurrency is None):
        errors.append("the load is one of rate_per_s and concurrency")
    if errors:
        raise InputError(together(errors))
    if concurrency is not None:
        return _closed(shape, step_time, batching, concurrency, min(replicas, concurrency))
    return _open(shape, step_time, batching, rate_per_s or 0.0, replicas, shape.prompt * (1 - batching.hit_rate))


class Pool(Struct, frozen=True):
    """Replicas of one kind."""

    step_time: StepTime
    batching: Batching
    replicas: int = 1


class Disaggregated(Struct, frozen=True):
    """Two pools in series, in the mean; None where one of them has no steady state.

    `tpot_s`: (e2e - ttft) / (output - 1), so that the transfer and the wait for a place to decode are in it.
    """

    stable: bool
    rate_per_s: float
    saturation_per_s: float
    limit: str
    ttft_s: float | None
    tpot_s: float | None
    e2e_s: float | None
    in_flight: float | None
    transfer_s: float
    prefill: Steady
    decode: Steady
    assumed: tuple[str, ...] = (
        *ASSUMED,
        "prompts leave their pool as Poisson's process, too (exact for M/M/c: Burke 1956, Operations Research 4:6)",
        "the cache's transfer takes no time of either pool",
    )


def disaggregated(shape: Shape, prefill: Pool, decode: Pool, transfer_s: float, rate_per_s: float) -> Disaggregated:
    """Prompts and their first token in one pool, all further tokens in another, and a transfer of the cache between them.

    (Zhong et al. 2024 (DistServe), arXiv:2401.09670; Patel et al. 2024 (Splitwise), arXiv:2311.18677.) InputError if the
    requests have no further tokens, or the transfer takes less than nothing.

    >>> pool = Pool(lambda load: 0.01 + 0.0001 * load.tokens, Batching(32, 2048))
    >>> found = disaggregated(Shape(1000, 101), pool, pool, transfer_s=0.05, rate_per_s=1.0)
    >>> found.limit, round(found.ttft_s, 2), found.e2e_s > 1.05
    ('prefill', 0.12, True)
    """
    if shape.output <= 1:
        raise InputError("requests of one token have nothing to decode in a pool of its own")
    if not 0 <= transfer_s < math.inf or not 0 < rate_per_s < math.inf:
        raise InputError(f"a transfer of {transfer_s:g} s at {rate_per_s:g} a second: expected times and rates")
    alone = replace(shape, output=1.0, output_scv=0.0)
    work = shape.prompt * (1 - prefill.batching.hit_rate)
    first = _open(alone, prefill.step_time, prefill.batching, rate_per_s, prefill.replicas, work)
    rest = _open(shape, decode.step_time, decode.batching, rate_per_s, decode.replicas, 0.0)
    e2e = None
    if first.e2e_s is not None and rest.e2e_s is not None:
        e2e = first.e2e_s + transfer_s + rest.e2e_s
    scarcer = first if first.saturation_per_s <= rest.saturation_per_s else rest
    return Disaggregated(
        stable=first.stable and rest.stable,
        rate_per_s=rate_per_s,
        saturation_per_s=scarcer.saturation_per_s,
        limit="prefill" if scarcer is first else "decode",
        ttft_s=first.ttft_s,
        tpot_s=None if e2e is None or first.ttft_s is None else (e2e - first.ttft_s) / (shape.output - 1),
        e2e_s=e2e,
        in_flight=None if e2e is None else little(rate_per_s, e2e),
        transfer_s=transfer_s,
        prefill=first,
        decode=rest,
    )


def _closed(shape: Shape, step_time: StepTime, batching: Batching, concurrency: int, replicas: int) -> Steady:
    each = concurrency / replicas
    most, limit = slots(shape, batching)
    full = service(shape, step_time, batching, most)
    s = full if each >= most else service(shape, step_time, batching, each)
    wait = each / s.rate_per_s - s.time_s
    found = _steady(shape, s, max(wait, 0.0), 0.0, s.rate_per_s, full, replicas, _limit(limit, full), CLOSED)
    return replace(found, in_flight=float(concurrency), running=s.running, slots=most, assumed=())


def _open(
    shape: Shape, step_time: StepTime, batching: Batching, rate_per_s: float, replicas: int, work: float
) -> Steady:
    (most, limit), rate = slots(shape, batching), rate_per_s / replicas
    at = _knots(lambda n: _service(shape, step_time, batching, n, work), most)
    full = at(most)
    found = births_and_deaths(rate, lambda k: at(k).time_s, most)
    if found is None or rate >= full.rate_per_s:
        made = full.rate_per_s * replicas * shape.output
        out = _steady(shape, full, 0.0, 0.0, rate, full, replicas, _limit(limit, full), OPEN)
        nothing = dict.fromkeys(("ttft_s", "tpot_s", "e2e_s", "wait_s", "in_flight"), None)
        return replace(out, stable=False, output_tokens_per_s=made, slots=most, **nothing)
    if shape.output == 1:
        s = at(1)
        out = _steady(shape, s, _in_turn(shape, s, rate, full), 0.0, rate, full, replicas, _limit(limit, full), IN_TURN)
        return replace(out, slots=most)
    s = at(found.wave)
    for_slot = found.waiting / rate * (1 + _varies(shape, s)) / 2
    prompts = min(rate * s.alone_s, NEARLY_ALL)
    for_step = found.open * _before(shape, s, prompts)
    behind = found.open * _behind(s, prompts, for_step, RULES[batching.rule].mixes)
    shared = min(for_step, s.first_s - s.alone_s)  # it waits for others' prompts once, before its own or among its own
    s = replace(s, time_s=found.running / rate - shared, chunks=s.chunks - shared / s.chunk_s if s.chunk_s else 0.0)
    out = _steady(shape, s, for_slot + for_step, behind, rate, full, replicas, _limit(limit, full), OPEN)
    return replace(out, slots=most)


def _in_turn(shape: Shape, s: Service, rate: float, full: Service) -> float:
    """Wait of requests that are prompts and nothing else: they do not share the server, they take turns.

    M/G/1's, with the residual life of what is under way over the share that is left of what full steps carry; exact where no
    two prompts go into one step.
    """
    under_way = min(rate * s.alone_s, 1.0) * s.alone_s * (1 + shape.prompt_scv) / 2
    return under_way / (1 - rate / full.rate_per_s)


def _knots(at: Callable[[float], Service], most: int) -> Callable[[float], Service]:
    """The same function by some of its values: all small ones, then a fifth apart, and lines between."""
    from bisect import bisect_left

    places = [1]
    while places[-1] < most:
        places.append(min(max(places[-1] + 1, places[-1] * 6 // 5), most))
    values = [at(n) for n in places]

    def between(n: float) -> Service:
        i = bisect_left(places, n)
        if i == 0 or places[i] == n:
            return values[i]
        share = (n - places[i - 1]) / (places[i] - places[i - 1])
        pairs = zip(astuple(values[i - 1]), astuple(values[i]))
        return Service(*((1 - share) * a + share * b for a, b in pairs))

    return between


def _varies(shape: Shape, s: Service) -> float:
    """The squared coefficient of variation of a request's time: its prompt's steps and its tokens' vary on their own."""
    first = s.first_s / s.time_s
    return shape.output_scv * (1 - first) ** 2 + shape.prompt_scv * first**2


def _before(shape: Shape, s: Service, prompts: float) -> float:
    """Wait of one that finds a free slot: for the step under way, and for prompts before its own.

    Residual lives (Kleinrock 1975, chapter 5) of a step and of a prompt of several, over the share of time that `prompts`
    leave.
    """
    left = s.square_s2 / (2 * s.step_s) + prompts * max(s.pieces * (1 + shape.prompt_scv) - 1, 0.0) * s.chunk_s / 2
    return left / (1 - prompts)


def _behind(s: Service, prompts: float, wait: float, mixes: bool) -> float:
    """Time after the first token that goes to prompts that came before it, and to those that come while these are computed."""
    theirs = prompts * (wait + s.alone_s) / (1 - prompts)
    return theirs * max(s.chunk_s - s.step_s, 0.0) / s.chunk_s if mixes and s.chunk_s else theirs


def _limit(limit: str, full: Service) -> str:
    return "budget" if full.filled >= 1 else limit


def _steady(
    shape: Shape,
    s: Service,
    wait: float,
    behind: float,
    rate: float,
    full: Service,
    replicas: int,
    limit: str,
    formula: str,
) -> Steady:
    e2e = wait + s.time_s + behind
    return Steady(
        stable=True,
        rate_per_s=rate * replicas,
        saturation_per_s=full.rate_per_s * replicas,
        utilisation=rate / full.rate_per_s,
        ttft_s=wait + s.first_s,
        tpot_s=(s.time_s + behind - s.first_s) / (shape.output - 1) if shape.output > 1 else None,
        e2e_s=e2e,
        wait_s=wait,
        step_s=s.step_s,
        in_flight=little(rate * replicas, e2e),
        running=s.running,
        output_tokens_per_s=rate * replicas * shape.output,
        slots=0,
        limit=limit,
        formula=formula,
    )
