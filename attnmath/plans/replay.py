"""Requests played through replicas, event by event: what each waits, when its tokens come, and what that amounts to."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from attnmath.errors import InputError, Unknown
from attnmath.plans.batching import RULES, Batching
from attnmath.plans.load import Load, StepTime
from attnmath.plans.replicas import Replica, Step
from attnmath.plans.workload import Requests

if TYPE_CHECKING:
    import simpy

MERGED = 128  # steps that are timed by three of them, at most
STRETCHES = 10  # that a replay is cut into, to see whether a queue grows
ROUTINGS = ("round-robin", "least-loaded")
TREND = 2.326  # standard deviations: one in a hundred queues that do not grow
NEAR = 1e-9  # of a step: what two sums of the same times may differ by


class Quantiles(Struct, frozen=True):
    """Seconds, over requests: the mean, and what half, nine in ten and 99 in a hundred stay within."""

    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float


class Replay(Struct, frozen=True):
    """What a replay found.

    `refused`: requests that no cache of this size holds, which are left out; `duration_s`: from the first arrival to the last
    end. `ttft_s`: arrival to first token; `tpot_s`: time of each further token, a number per request, None if there is none;
    `e2e_s`: arrival to end; `queue_s`: arrival to the first step. `utilisation`: the share of time that replicas compute.
    `in_flight`, `waiting`: requests in the mean over time; `longest_queue`: most that waited at once. `decodes`: sequences
    that a step gives a token, in the mean over steps. `growing`: the queue has a trend (see `grows`).
    """

    requests: int
    refused: int
    duration_s: float
    rate_per_s: float
    output_tokens_per_s: float
    tokens_per_s: float
    ttft_s: Quantiles
    tpot_s: Quantiles | None
    e2e_s: Quantiles
    queue_s: Quantiles
    utilisation: float
    in_flight: float
    waiting: float
    longest_queue: int
    decodes: float
    steps: int
    preemptions: int
    growing: bool
    assumed: tuple[str, ...] = ()


class Times(Struct, frozen=True):
    """Request by request, in order of arrival: when it came, started, had its first token and ended (seconds), its tokens, and
    how many requests waited when it came.
    """

    arrival_s: Any
    start_s: Any
    first_s: Any
    end_s: Any
    prompt_tokens: Any
    output_tokens: Any
    found_waiting: Any


def replay(
    requests: Iterable[Requests],
    step_time: StepTime,
    batching: Batching,
    *,
    replicas: int = 1,
    routing: str = "least-loaded",
    concurrency: int | None = None,
    merge: int = MERGED,
    progress: Callable[[int], None] | None = None,
) -> Replay:
    """Play requests through replicas, and say what came of it.

    `requests`: blocks, in order of arrival (see workload.py and traces.py). A slow `step_time` is better tabulated (load.py).
    `concurrency`: so many are in flight at any time, and a new one comes when one ends; arrivals are then not read. `routing`:
    round-robin, or least-loaded (fewest requests, the first of several). `merge`: how many steps alike may be timed by three
    of them (see `Run`); 1: every step is timed. `progress` is called with how many have ended, now and then.

    InputError for arrivals that are not in order, a request without tokens, and a time that is none.

    >>> from attnmath.plans.workload import Requests
    >>> each_ms = lambda load: 0.001 * (load.decodes + load.prefill_tokens)
    >>> found = replay([Requests([0.0, 0.0], [10, 10], [3, 3])], each_ms, Batching(slots=1, budget=16))
    >>> found.ttft_s.mean_s, round(found.tpot_s.mean_s, 9), found.longest_queue, found.utilisation
    (0.016, 0.001, 2, 1.0)
    """
    return summary(*run(requests, step_time, batching, replicas, routing, concurrency, merge, progress))


def run(
    requests: Iterable[Requests],
    step_time: StepTime,
    batching: Batching,
    replicas: int = 1,
    routing: str = "least-loaded",
    concurrency: int | None = None,
    merge: int = MERGED,
    progress: Callable[[int], None] | None = None,
) -> tuple[Times, Counters]:
    """The same, request by request, and what was counted on the way.

    >>> from attnmath.plans.workload import Requests
    >>> times, _ = run([Requests([0.0], [10], [3])], lambda load: 1.0, Batching(slots=1, budget=4))
    >>> times.first_s.tolist(), times.end_s.tolist()
    ([3.0], [5.0])
    """
    if routing not in ROUTINGS:
        raise Unknown("routing", routing, ROUTINGS)
    for name, n in (("replicas", replicas), ("concurrency", concurrency), ("merge", merge)):
        if n is not None and n < 1:
            raise InputError(f"{name} is {n}; at least 1 is needed")
    world = _World(requests, step_time, batching, replicas, routing, concurrency, merge, progress)
    world.run()
    return world.times(), world.counters


class Run:
    """How long steps alike take, one after another, while the context grows by `growth` each.

    The function is smooth in the context, so three of many steps (the first, the last, the one between) say what all take:
    the quadratic through them, summed. One or two steps, and whatever is linear or quadratic, come out exactly.

    >>> run = Run(lambda load: 0.001 + 1e-6 * load.context, Load(4, 100.0, 0, 0.0), 1, 100)
    >>> run.total(100) - sum(0.001 + 1e-6 * (100 + i) for i in range(100)) < 1e-15
    True
    >>> run.steps_by(run.total(7)), run.steps_by(run.total(7) + 1e-6)
    (7, 8)
    """

    __slots__ = ("bend", "first", "slope", "steps")

    def __init__(self, step_time: StepTime, load: Load, growth: float, steps: int) -> None:
        self.steps, self.first = steps, timed(step_time, load)
        self.slope = self.bend = 0.0
        if steps > 1:
            last = timed(step_time, _later(load, growth * (steps - 1)))
            self.slope = (last - self.first) / (steps - 1)
        if steps > 2:
            mid = (steps - 1) // 2
            off = timed(step_time, _later(load, growth * mid)) - (self.first + self.slope * mid)
            self.bend = off / (mid * (mid - steps + 1))

    def total(self, k: int) -> float:
        """Seconds of the first k."""
        ones, squares = k * (k - 1) / 2, (k - 1) * k * (2 * k - 1) / 6
        return self.first * k + self.slope * ones + self.bend * (squares - (self.steps - 1) * ones)

    def steps_by(self, elapsed_s: float) -> int:
        """How many have ended when the one that is under way after so many seconds has."""
        low, high = 1, self.steps
        while low < high:
            mid = (low + high) // 2
            if self.total(mid) >= elapsed_s - NEAR * self.first:
                high = mid
            else:
                low = mid + 1
        return low


def _later(load: Load, tokens: float) -> Load:
    return Load(load.decodes, load.context + tokens, 0, 0.0)


def timed(step_time: StepTime, load: Load) -> float:
    """A step's time in seconds; InputError if it is none.

    >>> timed(lambda load: -1.0, Load(1, 10.0, 0, 0.0))
    Traceback (most recent call last):
        ...
    attnmath.errors.InputError: a step of 1 decodes and 0 prompt tokens takes -1 s; a time of more than 0 is expected
    """
    time_s = step_time(load)
    if not 0 < time_s < math.inf:
        raise InputError(
            f"a step of {load.decodes} decodes and {load.prefill_tokens} prompt tokens takes {time_s:g} s; "
            "a time of more than 0 is expected"
        )
    return time_s


class Counters:
    """Sums over time, kept as it passes: nothing here is computed from single requests."""

    def __init__(self) -> None:
        self.in_flight = self.waiting = self.longest = self.steps = self.decoded = self.preemptions = self.refused = 0
        self.area_in_flight = self.area_waiting = self.busy_s = self.now = 0.0
        self.replicas = 1
        self.assumed: tuple[str, ...] = ()

    def change(self, now: float, in_flight: int, waiting: int) -> None:
        """So many more are there, and wait, from now on."""
        passed = now - self.now
        self.area_in_flight += passed * self.in_flight
        self.area_waiting += passed * self.waiting
        self.now = now
        self.in_flight += in_flight
        self.waiting += waiting
        self.longest = max(self.longest, self.waiting)


class _World:
    """Replicas as simpy's processes, and requests that are handed to them."""

    def __init__(
        self,
        requests: Iterable[Requests],
        step_time: StepTime,
        batching: Batching,
        replicas: int,
        routing: str,
        concurrency: int | None,
        merge: int,
        progress: Callable[[int], None] | None,
    ) -> None:
        import simpy

        self.source = _one_by_one(requests)
        self.step_time, self.batching, self.merge, self.progress = step_time, batching, merge, progress
        self.closed, self.routing = concurrency, routing
        self.counters = Counters()
        self.arrival, self.start, self.first, self.end = array("d"), array("d"), array("d"), array("d")
        self.prompt, self.output, self.found = array("q"), array("q"), array("q")
        self.ended = 0
        self.next = self._fitting()
        begin = self.next[0] if self.next and not concurrency else 0.0
        self.counters.now = begin
        self.counters.replicas = replicas
        self.env = simpy.Environment(begin)
        self.servers = [_Server(self, simpy.Interrupt) for _ in range(replicas)]

    def run(self) -> None:
        """Until nothing is left."""
        if self.closed:
            for _ in range(self.closed):
                self._admit_next(0.0)
        else:
            self.env.process(self._arrivals())
        for server in self.servers:
            server.process = self.env.process(server.serve())
        self.env.run()
        self.counters.preemptions = sum(s.replica.preemptions for s in self.servers)
        self.counters.assumed = (
            f"{RULES[self.batching.rule].meaning} ({RULES[self.batching.rule].engines})",
            "first come, first served; what the cache has no room for is computed again, last admitted first",
        )

    def _fitting(self) -> tuple[float, int, int] | None:
        """The next request that a cache can hold."""
        for request in self.source:
            if self.batching.fits(request[1], request[2]):
                return request
            self.counters.refused += 1
        return None

    def _arrivals(self) -> Generator[simpy.Event, Any, None]:
        while self.next:
            if self.next[0] > self.env.now:
                yield self.env.timeout(self.next[0] - self.env.now)
            self.deliver(self.env.now)

    def deliver(self, now: float) -> None:
        """Hand out what has come by now; replicas call this before each step, so that who comes with a step's end is in time."""
        while not self.closed and self.next and self.next[0] <= now:
            self._admit_next(self.next[0])

    def _admit_next(self, at: float) -> None:
        if self.next is None:
            return
        _, prompt, output = self.next
        index = len(self.arrival)
        self.arrival.append(at)
        for times in (self.start, self.first, self.end):
            times.append(math.nan)
        self.prompt.append(prompt)
        self.output.append(output)
        self.found.append(self.counters.waiting)
        if self.routing == "round-robin":
            server = self.servers[index % len(self.servers)]
        else:
            server = min(self.servers, key=lambda s: s.replica.present) if len(self.servers) > 1 else self.servers[0]
        self.next = self._fitting()
        self.counters.change(at, 1, 1)
        server.put(index, prompt, output)

    def ends(self, now: float, indices: list[int]) -> None:
        """These requests have ended."""
        for index in indices:
            self.end[index] = now
            self.counters.change(now, -1, 0)
            self.ended += 1
            if self.closed:
                self._admit_next(now)
            if self.progress and self.ended % 1024 == 0:
                self.progress(self.ended)

    def times(self) -> Times:
        """What became of each request, as arrays."""
        import numpy as np

        seconds = [np.frombuffer(x) if x else np.zeros(0) for x in (self.arrival, self.start, self.first, self.end)]
        tokens = [np.array(x) for x in (self.prompt, self.output, self.found)]
        return Times(*seconds, *tokens)


class _Server:
    """A replica's process: a step, or several alike, and then the next."""

    def __init__(self, world: _World, interrupt: type[BaseException]) -> None:
        self.world, self.env, self.interrupt = world, world.env, interrupt
        self.replica = Replica(world.batching)
        self.process: simpy.Process | None = None
        self.idle: simpy.Event | None = None
        self.breakable = False

    def put(self, index: int, prompt: int, output: int) -> None:
        """A request arrives: an idle replica wakes up, and steps alike end early if it could join them."""
        could_join = self.replica.open
        self.replica.put(index, prompt, output)
        if self.idle is not None:
            self.idle.succeed()
            self.idle = None
        elif self.breakable and could_join and self.process:
            self.breakable = False
            self.process.interrupt()

    def serve(self) -> Generator[simpy.Event, Any, None]:
        """The process."""
        world, replica, counters = self.world, self.replica, self.world.counters
        while True:
            world.deliver(self.env.now)
            waiting = len(replica.waiting)
            step = replica.step()
            if step is None:
                self.idle = self.env.event()
                yield self.idle
                continue
            counters.change(self.env.now, 0, len(replica.waiting) - waiting)
            for index in step.admitted:
                if math.isnan(world.start[index]):
                    world.start[index] = self.env.now
            began = self.env.now
            count = yield from self._compute(step)
            counters.busy_s += self.env.now - began
            counters.steps += count
            counters.decoded += count * step.load.decodes
            ready, ended = replica.advance(step, count)
            for index in ready:
                if math.isnan(world.first[index]):
                    world.first[index] = self.env.now
            world.ends(self.env.now, ended)

    def _compute(self, step: Step) -> Generator[simpy.Event, Any, int]:
        """Pass a step's time, or that of several alike, until a request comes that could join; how many they were."""
        most = min(step.most, self.world.merge)
        if most == 1:
            yield self.env.timeout(timed(self.world.step_time, step.load))
            return 1
        run = Run(self.world.step_time, step.load, self.replica.growth, most)
        began, self.breakable = self.env.now, True
        try:
            yield self.env.timeout(run.total(most))
        except self.interrupt:
            most = run.steps_by(self.env.now - began)
            rest = began + run.total(most) - self.env.now
            if rest > 0:
                yield self.env.timeout(rest)
        self.breakable = False
        return most


def _one_by_one(blocks: Iterable[Requests]) -> Iterator[tuple[float, int, int]]:
    """Requests out of blocks; InputError for what is out of order, or has no tokens."""
    before, count = -math.inf, 0
    for block in blocks:
        for at, prompt, output in zip(
            *(_listed(x) for x in (block.arrival_s, block.prompt_tokens, block.output_tokens))
        ):
            if not before <= at < math.inf:
                raise InputError(f"request {count + 1:,} comes at {at:g} s, after one at {before:g} s")
            if prompt < 1 or output < 1:
                raise InputError(
                    f"request {count + 1:,} has {prompt:g} prompt and {output:g} output tokens; 1 is the least"
                )
            before, count = at, count + 1
            yield at, prompt, output


def _listed(values: Any) -> list[Any]:
    return values.tolist() if hasattr(values, "tolist") else list(values)


def summary(times: Times, counters: Counters) -> Replay:
    """What a replay amounts to; InputError if no request was played.

    >>> from attnmath.plans.workload import Requests
    >>> found = summary(*run([Requests([0.0, 1.0], [8, 8], [1, 1])], lambda load: 0.5, Batching(1, 8)))
    >>> found.rate_per_s, found.in_flight, found.utilisation
    (1.3333333333333333, 0.6666666666666666, 0.6666666666666666)
    """
    import numpy as np

    count = len(times.arrival_s)
    if not count:
        left = f"; {counters.refused:,} do not fit into the cache" if counters.refused else ""
        raise InputError(f"there are no requests to replay{left}")
    duration = float(times.end_s.max() - times.arrival_s[0])
    e2e, further = times.end_s - times.arrival_s, times.output_tokens > 1
    tpot = (times.end_s - times.first_s)[further] / (times.output_tokens[further] - 1)
    made = int(times.output_tokens.sum())
    return Replay(
        requests=count,
        refused=counters.refused,
        duration_s=duration,
        rate_per_s=count / duration,
        output_tokens_per_s=made / duration,
        tokens_per_s=(made + int(times.prompt_tokens.sum())) / duration,
        ttft_s=_quantiles(np, times.first_s - times.arrival_s),
        tpot_s=_quantiles(np, tpot) if len(tpot) else None,
        e2e_s=_quantiles(np, e2e),
        queue_s=_quantiles(np, times.start_s - times.arrival_s),
        utilisation=counters.busy_s / (duration * counters.replicas),
        in_flight=counters.area_in_flight / duration,
        waiting=counters.area_waiting / duration,
        longest_queue=counters.longest,
        decodes=counters.decoded / counters.steps,
        steps=counters.steps,
        preemptions=counters.preemptions,
        growing=grows(times.found_waiting),
        assumed=counters.assumed,
    )


def _quantiles(np: Any, seconds: Any) -> Quantiles:
    return Quantiles(float(seconds.mean()), *(float(q) for q in np.quantile(seconds, (0.5, 0.9, 0.99))))


def grows(waiting: Any) -> bool:
    """Whether a queue has a trend, by how many each request found waiting.

    Requests are cut into ten stretches. The queue grows if their means rise more often than chance has it one time in a hundred
    (the test of Mann 1945 and Kendall), and more than one waits in the last. Fewer than 100 requests say nothing: False. A
    queue that is near its saturation may rise by chance, since what waits now depends on what waited before.

    >>> grows(range(1000)), grows([0, 1] * 500)
    (True, False)
    """
    if len(waiting) < 10 * STRETCHES:
        return False
    size = len(waiting) / STRETCHES
    cuts = [round(i * size) for i in range(STRETCHES + 1)]
    means = [sum(map(float, waiting[a:b])) / (b - a) for a, b in pairwise(cuts)]
    rises = sum((y > x) - (y < x) for i, x in enumerate(means) for y in means[i + 1 :])
    deviation = math.sqrt(STRETCHES * (STRETCHES - 1) * (2 * STRETCHES + 5) / 18)
    return means[-1] > 1 and (rises - 1) / deviation > TREND
