"""The accelerator model beside ZigZag, an independent cost model (KU Leuven, PyPI zigzag-dse), as markdown.

    pip install -e '.[crosscheck]'
    python experiments/hardware/crosscheck.py > table.md    # both arrays; or name them: crosscheck.py 16x16

Shared: the layers (`squeeze_jax.cost.trace`), the sizes of array, register files and buffer, the DRAM's bandwidth, the energies,
and what each dataflow keeps where. ZigZag's own: the order and tiling of the loops, what of them each memory holds, the
words moved, and the stalls, loading and unloading that its ports cost.

The machine in ZigZag's terms; energy in MACs, words of 16 bits:
- WS unrolls input channels down the rows and output channels across the columns. A PE holds a weight (free: part of the MAC)
  and latches a pixel (1); sums add up along a column and go to the buffer.
- OS unrolls output rows and columns. A PE holds a sum (free); what is left of the register files is one memory of input
  patches, read at the price of a neighbour (2), since ZigZag has no shifts between PEs; weights are broadcast from the buffer.
- A buffer word costs 8, the access (6) and the wires (2): ZigZag has no price for wires. So a word between buffer and
  DRAM costs 208, where ours costs 206. Each flow to or from the array has a port as wide as the one port of ours.
- The buffer is double (ZigZag then gives half of it to the tile at work). Sums are one word everywhere; ours keep two in it.

ZigZag's search (loma) orders at most LOOPS loops a layer, the innermost given: columns in WS, taps in OS. Of each
dataflow's mappings the one with the least energy x delay counts, and of the two dataflows the faster, as in ours. ZigZag
knows no zero skipping, so ours is shown with it (as in the paper) and without (os_weight_density=1).
"""

import json
import logging
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from flax import nnx
from scipy.stats import spearmanr
from zigzag.mapping.temporal_mapping import TemporalMappingType
from zigzag.opt.loma.engine import NoValidLoopOrderingFoundException
from zigzag.parser.accelerator_factory import AcceleratorFactory
from zigzag.parser.accelerator_validator import AcceleratorValidator
from zigzag.parser.mapping_validator import MappingValidator
from zigzag.parser.workload_factory import LayerNodeFactory
from zigzag.parser.workload_validator import WorkloadValidator
from zigzag.stages.evaluation.cost_model_evaluation import CostModelStage
from zigzag.stages.mapping.spatial_mapping_generation import SpatialMappingGeneratorStage
from zigzag.stages.mapping.temporal_mapping_generator_stage import TemporalMappingGeneratorStage

from squeeze_jax import models
from squeeze_jax.cost import trace
from squeeze_jax.cost.accelerator import PAPER_8X8, PAPER_16X16, Accelerator, estimate
from squeeze_jax.cost.accelerator.dataflow import DATAFLOWS
from squeeze_jax.cost.accelerator.energy import DRAM, GLOBAL_BUFFER, INTER_PE, MAC, REGISTER_FILE
from squeeze_jax.cost.accelerator.tiling import Convolution
from squeeze_jax.report.tables import markdown

GOLDEN = Path(__file__).parents[2] / "tests/golden/hardware_table3.json"
ARRAYS = {"16x16": PAPER_16X16, "8x8": PAPER_8X8}
BASE = "squeezenext_23_v5"
LOOPS = 6  # ZigZag's lpf_limit
UNROLLED = {"ws": ("C", "K"), "os": ("OY", "OX")}  # down the rows, across the columns
INNERMOST = {"ws": ("OX",), "os": ("FX", "FY")}
WORD = 16  # bits
BOTH = ["D1", "D2"]  # a memory that serves the whole array; [] is one in each PE


@dataclass(frozen=True)
class Cost:
    """A layer or network in ZigZag or in ours; energy in MACs."""

    cycles: float = 0.0
    energy: float = 0.0
    dataflow: str = ""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.cycles + other.cycles, self.energy + other.energy)


def memory(
    words: int,
    read: float,
    write: float,
    width: int,
    ports: list[str],
    serves: list[str],
    double: bool = False,
) -> dict:
    """A memory in ZigZag's format. Costs are of a word, widths in words; a port is "I1 tl, O fl": operands and directions."""
    flows = [[flow.replace(" ", ", ") for flow in port.split(", ")] for port in ports]
    return {
        "size": words * WORD, "r_cost": float(read * width), "w_cost": float(write * width), "area": 0.0, "latency": 1,
        "operands": sorted({flow.split(",")[0] for port in flows for flow in port}),
        "ports": [
            {"name": f"rw_port_{i}", "type": "read_write", "bandwidth_min": WORD, "bandwidth_max": WORD * width, "allocation": port}
            for i, port in enumerate(flows, 1)
        ],
        "served_dimensions": serves, "force_double_buffering": double,
    }  # fmt: skip


def validate(validator):
    """Returns the data of a ZigZag validator in normalized form."""
    if not validator.validate():
        raise ValueError(f"ZigZag refuses the description: {validator.validator.errors}")
    return validator.normalized_data


@cache
def machine(accelerator: Accelerator, dataflow: str):
    """The accelerator as ZigZag's, set up for one dataflow. I1 are inputs, I2 weights, O sums."""
    if dataflow == "ws":
        inside = {
            "weight": memory(1, 0, 0, 1, ["I2 tl", "I2 fh"], []),
            "pixel": memory(1, 0, REGISTER_FILE, 1, ["I1 tl", "I1 fh"], []),
        }
    else:
        sum_words = -(-accelerator.partial_sum_bytes // accelerator.bytes_per_element)
        patch_words = (accelerator.register_file_words - sum_words) * accelerator.pes
        inside = {
            "sum": memory(sum_words, 0, 0, sum_words, ["O tl, O th", "O fl, O fh"], []),
            "patch": memory(
                patch_words, INTER_PE, 0, patch_words, ["I1 tl", "I1 fh"], BOTH
            ),  # as wide as it needs
        }
    words, cost = (
        accelerator.buffer_bytes // accelerator.bytes_per_element,
        GLOBAL_BUFFER + INTER_PE,
    )
    ports = ["I1 tl", "I2 tl", "O tl", "O fl", "I1 fh, I2 fh, O fh, O th"]
    dram_width = int(accelerator.dram_bytes_per_cycle // accelerator.bytes_per_element)
    memories = inside | {
        "buffer": memory(words, cost, cost, accelerator.port_words, ports, BOTH, double=True),
        "dram": memory(
            2**32,
            DRAM,
            DRAM,
            dram_width,
            ["I1 fh, I1 tl, I2 fh, I2 tl, O fh, O tl, O fl, O th"],
            BOTH,
        ),
    }
    array = {
        "unit_energy": float(MAC),
        "unit_area": 0.0,
        "dimensions": BOTH,
        "sizes": [accelerator.rows, accelerator.columns],
    }
    description = {"name": dataflow, "memories": memories, "operational_array": array}
    return AcceleratorFactory(validate(AcceleratorValidator(description))).create()


def workload(conv: Convolution, accelerator: Accelerator, dataflow: str):
    """A layer as ZigZag's nest of loops, with the dataflow's unrolling and innermost loops."""
    loops = {
        "B": 1, "K": conv.filters, "G": conv.groups, "OX": conv.out_width, "OY": conv.out_height, "C": conv.channels,
        "FX": conv.kernel[1], "FY": conv.kernel[0],
    }  # fmt: skip
    layer = {
        "id": 0, "name": "layer", "operator_type": "Conv",
        "equation": "O[b][g][k][oy][ox]+=W[g][k][c][fy][fx]*I[b][g][c][iy][ix]",
        "dimension_relations": [f"ix={conv.stride[1]}*ox+1*fx", f"iy={conv.stride[0]}*oy+1*fy"],
        "loop_dims": list(loops), "loop_sizes": list(loops.values()),
        "operand_precision": dict.fromkeys(("W", "I", "O", "O_final"), WORD), "operand_source": {"W": 0, "I": 0},
        "pr_loop_dims": ["IX", "IY"], "pr_loop_sizes": [conv.width, conv.height], "padding": [[0, 0], [0, 0]],
    }  # fmt: skip
    rows, columns = UNROLLED[dataflow]
    mapping = {
        "name": "default", "spatial_mapping": {"D1": [f"{rows}, {accelerator.rows}"], "D2": [f"{columns}, {accelerator.columns}"]},
        "temporal_ordering": [[loop, "*"] for loop in INNERMOST[dataflow] if loops[loop] > 1],
        "memory_operand_links": {"O": "O", "W": "I2", "I": "I1"},
    }  # fmt: skip
    return LayerNodeFactory(
        validate(WorkloadValidator([layer]))[0], validate(MappingValidator([mapping]))
    ).create()


@cache
def zigzag(conv: Convolution, accelerator: Accelerator) -> Cost:
    """ZigZag's cost of a layer: each dataflow's mapping of least energy x delay, of these the faster.

    Raises:
      ValueError: no dataflow has a mapping.
    """
    best = []
    for dataflow in DATAFLOWS:
        search = SpatialMappingGeneratorStage(
            [TemporalMappingGeneratorStage, CostModelStage], accelerator=machine(accelerator, dataflow),
            layer=workload(conv, accelerator, dataflow), loma_lpf_limit=LOOPS, loma_show_progress_bar=False,
            temporal_mapping_type=TemporalMappingType.UNEVEN, access_same_data_considered_as_no_access=True,
        )  # fmt: skip
        try:
            mappings = (
                Cost(float(found.latency_total2), float(found.energy_total), dataflow)
                for found, _ in search.run()
            )
            best.append(min(mappings, key=lambda cost: (cost.cycles * cost.energy, cost.cycles)))
        except NoValidLoopOrderingFoundException:
            print(f"  no {dataflow} mapping of {conv}", file=sys.stderr)
    if not best:
        raise ValueError(f"ZigZag maps {conv} in no dataflow")
    return min(best, key=lambda cost: (cost.cycles, cost.energy))


def kind(conv: Convolution) -> str:
    """The sort of layer, to see where the models part."""
    if conv.height == conv.width == 1:
        return "dense"
    if conv.groups > 1 and conv.channels == 1:
        return "depthwise"
    if conv.channels == 3:
        return "first"
    return f"{conv.kernel[0]}x{conv.kernel[1]}"


def main() -> None:
    logging.getLogger("zigzag").setLevel(logging.ERROR)
    table3 = json.loads(GOLDEN.read_text())["rows"]
    nets = {}
    for row in table3:
        name, size = row["model"], row["input_size"]
        layers = trace.trace_layers(
            lambda name=name: models.create(name, rngs=nnx.Rngs(0)), (size, size, 3)
        )
        nets[name] = [layer for layer in layers if layer.kind in ("conv", "dense")]

    for array in sys.argv[1:] or ARRAYS:
        start, accelerator = time.monotonic(), ARRAYS[array]
        dense = replace(accelerator, os_weight_density=1.0)
        totals, kinds = {}, defaultdict(lambda: [0, 0, Cost(), Cost()])
        for name, layers in nets.items():
            skipping, ours = estimate(layers, accelerator), estimate(layers, dense)
            theirs = Cost()
            for layer, own in zip(layers, ours.layers, strict=True):
                conv = Convolution.of(layer)
                found = zigzag(conv, dense)
                theirs += found
                of = kinds[kind(conv)]
                of[:] = [
                    of[0] + 1, of[1] + (own.dataflow == found.dataflow), of[2] + Cost(own.cycles, own.energy.total), of[3] + found,
                ]  # fmt: skip
            totals[name] = [Cost(e.cycles, e.energy) for e in (skipping, ours)] + [theirs]
            shapes, seconds = zigzag.cache_info().currsize, time.monotonic() - start
            print(
                f"{array} {name}: {shapes} shapes so far, {seconds:.0f} s",
                file=sys.stderr,
                flush=True,
            )
        report(array, table3, totals, kinds)


def report(
    array: str, table3: list[dict], totals: dict[str, list[Cost]], kinds: dict[str, list]
) -> None:
    """Prints an array's three tables."""
    paper = {row["model"]: Cost(row[f"time_{array}"], row[f"energy_{array}"]) for row in table3}
    columns = {name: [*costs, paper[name]] for name, costs in totals.items()}
    labels = ["ours", "ours, no skipping", "zigzag", "paper"]
    for what in ("cycles", "energy"):
        values = {name: [getattr(cost, what) for cost in costs] for name, costs in columns.items()}
        print(f"## {array}: {what} over those of {BASE}\n")
        table = [["net", *labels, "ours, no skipping / zigzag, absolute"]]
        for name, found in values.items():
            table.append(
                [
                    name,
                    *(f"{a / b:.2f}" for a, b in zip(found, values[BASE], strict=True)),
                    f"{found[1] / found[2]:.2f}",
                ]
            )
        print(markdown(table))
        series = list(zip(*values.values(), strict=True))
        ranks = [
            f"{label} {spearmanr(series[i], series[2]).statistic:.3f}"
            for i, label in enumerate(labels)
            if i != 2
        ]
        print(
            f"Spearman's rank correlation with zigzag over {len(values)} nets: {', '.join(ranks)}.\n"
        )

    print(f"## {array}: by kind of layer, over all nets, no skipping (millions, ours / zigzag)\n")
    table = [["kind", "layers", "same dataflow", "cycles", "energy"]]
    for name, (count, same, ours, theirs) in sorted(
        kinds.items(), key=lambda item: -item[1][2].cycles
    ):
        pairs = ((ours.cycles, theirs.cycles), (ours.energy, theirs.energy))
        table.append(
            [
                name,
                str(count),
                str(same),
                *(f"{a / 1e6:.2f} / {b / 1e6:.2f} ({a / b:.2f})" for a, b in pairs),
            ]
        )
    print(markdown(table))


if __name__ == "__main__":
    main()
