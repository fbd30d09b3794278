"""`tile` in training: which tiles of each pass a block can hold on an accelerator, and what the loops then move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from attnmath.errors import InputError, NoSchedule
from attnmath.hardware import get
from attnmath.hardware.blocks import limits_of
from attnmath.hardware.estimates import kernel_shape
from attnmath.keys import Reading
from attnmath.readings.memory import Core
from attnmath.readings.schedules import OnChip, Schedule, backward, misfit, on_chip, on_chip_backward
from attnmath.readings.traffic import Traffic
from attnmath.results import Cost, document

SCHEMA = "attnmath.tile-training/1"
SIDES = (16, 32, 64, 128, 256)
REGISTER = 4  # bytes


class PassTile(Struct, frozen=True):
    """A tile of a pass: `rows` queries by `keys`, what a block holds of it in shared memory and in registers, and what the
    pass moves with no cache; `usual`: the schedule's own; `misfit`: why a block cannot hold it, empty if it can.
    """

    rows: int
    keys: int
    smem_bytes: int
    accumulator_bytes: int
    hbm_bytes: int
    usual: bool
    misfit: str


class TrainingTiling(Struct, frozen=True, rename={"with_": "with"}):
    """Both passes' tiles on an accelerator, those that fit first, what moves least in front. Bytes are counted and no time is
    estimated; `time_bound_s` is of both passes.
    """

    gpu: str
    title: str
    variant: str
    form: str | None
    with_: list[str]
    phase: str
    inputs: dict[str, Any]
    assumed: dict[str, Any]
    head_dim: int
    v_head_dim: int
    smem_block_bytes: int
    register_bytes: int
    forward: list[PassTile]
    backward: list[PassTile]
    time_bound_s: float | None
    time_bound_by: str | None

    def to_dict(self) -> dict[str, Any]:
        """The JSON document, as `attnmath schema tile` describes it."""
        return {"schema": SCHEMA, **document(self)}


def training_tiling(c: Cost) -> TrainingTiling:
    """The tiles of a cost in training; InputError, saying why, where no schedule walks its passes or a figure is absent.

    >>> from attnmath.costs import cost
    >>> t = training_tiling(cost("gqa", seq=8192, heads=32, phase="train", gpu="a100-sxm-80g"))
    >>> [(x.rows, x.keys, x.smem_bytes, x.misfit) for x in t.backward if x.usual]
    [(64, 128, 147456, '')]
    """
    r: Reading = c.readings[0]
    if c.gpu is None:
        raise InputError("tiles are an accelerator's: give a --gpu; `attnmath gpus` lists them")
    if not r.schedule.loops:
        raise InputError("unfused, no block holds a tile: name another --schedule")
    _ = r.walks  # NoSchedule where the passes have no loops
    gpu = get(c.gpu_file or c.gpu)
    limits = limits_of(gpu)
    shape = kernel_shape(Reading(r.page, r.sizes, r.dtype, r.dtype))
    d, dv = int(shape.head_dim), int(shape.v_head_dim)
    registers = limits.registers * REGISTER

    def forward_need(rows: int, keys: int) -> OnChip:
        return on_chip(r.schedule, rows, keys, d, dv, r.dtype)

    def backward_need(rows: int, keys: int) -> OnChip:
        return on_chip_backward(rows, keys, d, dv, r.dtype)

    def tiles(core: Core, schedule: Schedule, need: Callable[[int, int], OnChip]) -> list[PassTile]:
        found = list(_tiles(core, schedule, need, limits.smem_block_bytes, registers))
        return sorted(found, key=lambda x: (bool(x.misfit), x.hbm_bytes, x.smem_bytes))

    first, *_, last = r.walks
    return TrainingTiling(
        gpu=gpu.name,
        title=gpu.title,
        variant=c.variant,
        form=c.form,
        with_=c.with_,
        phase=c.phase,
        inputs=c.inputs,
        assumed=c.assumed,
        head_dim=d,
        v_head_dim=dv,
        smem_block_bytes=limits.smem_block_bytes,
        register_bytes=registers,
        forward=tiles(first.core, r.schedule, forward_need),
        backward=tiles(last.core, backward(r.schedule), backward_need),
        time_bound_s=c.time_bound_s.fused,
        time_bound_by=c.time_bound_by,
    )


def _tiles(
    core: Core, schedule: Schedule, need: Callable[[int, int], OnChip], smem: int, registers: int
) -> Iterator[PassTile]:
    """Each tile there is a side of, and the schedule's own."""
    own = schedule.tile("t") or 0, schedule.tile("n") or 0
    if 0 in own:
        raise NoSchedule(f"{schedule.label}: its tiles have no side of queries or of keys")
    for rows, keys in dict.fromkeys((own, *product(SIDES, SIDES))):
        sides = {"t": rows, "n": keys}
        loops = tuple(replace(x, tile=sides.get(x.index[0], x.tile)) for x in schedule.loops)
        held = need(rows, keys)
        moved = Traffic(core, replace(schedule, loops=loops)).total
        why = misfit(held, smem, registers)
        usual = (rows, keys) == own
        yield PassTile(rows, keys, held.smem_bytes, held.accumulator_bytes, int(moved), usual, why)
