"""What instructions of optimized HLO move, counted by hand."""

from experiments.tpu import traffic

HLO = """HloModule jit_step, entry_computation_layout={()->f32[]}

%fused_computation.1 (param_0: bf16[2,4,4,8]) -> bf16[2,4,4,16] {
  %param_0 = bf16[2,4,4,8]{3,2,1,0} parameter(0)
  ROOT %convolution.1 = bf16[2,4,4,16]{3,2,1,0} convolution(%param_0, %param_0), window={size=1x1}
}

ENTRY %main.3 (x: bf16[2,4,4,8], y: f32[8]) -> f32[8] {
  %x = bf16[2,4,4,8]{3,2,1,0:T(8,128)(2,1)} parameter(0), metadata={op_name="x"}
  %y = f32[8]{0:T(128)} parameter(1)
  %fusion.1 = bf16[2,4,4,16]{3,2,1,0:T(8,128)(2,1)S(1)} fusion(%x), kind=kOutput, \
calls=%fused_computation.1, metadata={op_name="jit(f)/transpose(jvp())/conv"}
  %copy-start = (bf16[2,4,4,8]{3,2,1,0:S(1)}, bf16[2,4,4,8]{3,2,1,0}, u32[]{:S(2)}) \
copy-start(%x)
  %copy-done = bf16[2,4,4,8]{3,2,1,0:S(1)} copy-done(%copy-start)
  ROOT %add.1 = f32[8]{0} add(%y, %y), metadata={op_name="jit(f)/jvp()/add"}
}
"""


def test_bytes_are_those_of_arrays_in_hbm():
    found = {movement.name: movement[1:] for movement in traffic.movements(HLO)}
    x = 2 * 4 * 4 * 8 * 2
    assert found == {
        "fusion.1": ("backward", "convolution", "4x4", x),  # the result is on the chip
        "copy-start": ("rest", "copy", "4x4", x),
        "add.1": ("forward", "elementwise", "", 3 * 8 * 4),
    }


def test_bytes_add_up_by_operation():
    found = traffic.movements(HLO)
    assert sum(traffic.by_operation(found).values()) == sum(move.bytes for move in found)
