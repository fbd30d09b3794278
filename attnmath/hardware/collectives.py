"""How long a collective among the accelerators of one node takes: the faster of NCCL's low-latency and bulk protocols."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from attnmath.errors import InputError, Unknown
from attnmath.hardware import Gpu
from attnmath.language.arith import Number, minimum

US = 1e-6


class Collective(Struct, frozen=True):
    """One operation on a ring of n: its steps, and the share of the message that a device sends, both over (n - 1)."""

    meaning: str
    rounds: float
    one_step: bool = False

    def steps(self, num_gpus: Number) -> Number:
        """Messages that wait for each other."""
        return self.rounds * (1.0 if self.one_step else (num_gpus - 1))

    def sent_bytes(self, num_gpus: Number, message_bytes: Number, in_switch: bool = False) -> Number:
        """What a device sends over its links; `in_switch`: the switch can add up, so that every part passes once."""
        share = self.rounds * (num_gpus - 1) / num_gpus
        if in_switch and self.rounds == 2:
            share = minimum(share, 1 + 1 / num_gpus)
        return share * message_bytes


COLLECTIVES: dict[str, Collective] = {
    "all_reduce": Collective("every device gets the sum", 2.0),
    "all_gather": Collective("every device gets every part", 1.0),
    "reduce_scatter": Collective("every device gets a part of the sum", 1.0),
    "all_to_all": Collective("every device sends a part to every other", 1.0, True),
}
IN_SWITCH = (
    "nccl-nvlink-4",
    "nccl-nvlink-5",
)  # NVLink SHARP: NVIDIA H100 architecture whitepaper, NVLink switch system
LINKS = {"NVLink 3": "nccl-nvlink-3", "NVLink 4": "nccl-nvlink-4", "NVLink 5": "nccl-nvlink-5", "PCIe": "nccl-pcie"}


def links_of(gpu: Gpu) -> str:
    """The name of the constants for an accelerator's links; InputError where none were measured.

    >>> from attnmath.hardware import get
    >>> links_of(get("h100-sxm"))
    'nccl-nvlink-4'
    """
    for start, name in LINKS.items():
        if gpu.link.startswith(start):
            return name
    raise InputError(
        f"{gpu.name}: collectives over {gpu.link or 'links that nobody states'} are not modelled; known: {', '.join(LINKS)}"
    )


def collective(
    name: str, links: str, num_gpus: Number, message_bytes: Number, link_bytes_per_s: float, k: Mapping[str, float]
) -> tuple[Number, Number]:
    """(time, of which launching) of a collective in seconds; `message_bytes` is the full buffer.

    NCCL's low-latency protocols send flags with the data, at a part of the links' rate; the bulk protocol is faster and
    takes longer to set up.

    >>> from attnmath.hardware.constants import built_in
    >>> k, _ = built_in().of("nccl-nvlink-4", "", "collective")
    >>> t, _ = collective("all_reduce", "nccl-nvlink-4", 8.0, 2.0**29, 450e9, k)
    >>> 1.5e-3 < t < 3e-3
    True
    """
    if name not in COLLECTIVES:
        raise Unknown("collective", name, COLLECTIVES)
    row = COLLECTIVES[name]
    sent = row.sent_bytes(num_gpus, message_bytes, links in IN_SWITCH)
    steps = row.steps(num_gpus)
    latent = k["step_us"] * US * steps + sent / (link_bytes_per_s * k["latent_share"])
    bulk = k["bulk_us"] * US + sent / (link_bytes_per_s * k["bulk_share"])
    return k["launch_us"] * US + minimum(latent, bulk), k["launch_us"] * US + 0.0 * sent


def wire_bytes(name: str, num_gpus: Any, message_bytes: Any) -> Any:
    """What a device sends, bytes.

    >>> wire_bytes("all_reduce", 8, 8_000)
    14000.0
    """
    return COLLECTIVES[name].sent_bytes(num_gpus, message_bytes)
