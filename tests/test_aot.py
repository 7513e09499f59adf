"""The account of a compiled program: bytes of kernels, loops, FLOP, memory, and whose code they come from."""

from __future__ import annotations

import runpy
import subprocess
import sys
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import pytest
from processes import ROOT, environment

from mow_jax import build, flops

sys.path.insert(0, str(ROOT / "benchmarks"))
import aot
import gpus
import hlo
import throughput

# As XLA writes it: a loop that runs 16 times, in it weights converted and multiplied; then a row updated in place, two
# corners cut out of a sum, rows gathered and scattered, and a product that a library makes.
RECORDED = """HloModule jit_f, is_scheduled=true, entry_computation_layout={(f32[8,4]{1,0})->f32[8,4]{1,0}}

FileNames
1 "/home/me/mow_jax/benchmarks/aot.py"
2 "/home/me/mow_jax/mow_jax/ops/convolution.py"
3 "/home/me/lib/flax/linen.py"

FunctionNames
1 "main"
2 "upsample.<locals>.<lambda>"
3 "inner"

FileLocations
1 {file_name_id=1 function_name_id=1 line=1 end_line=1 column=1 end_column=2}
2 {file_name_id=2 function_name_id=2 line=2 end_line=2 column=1 end_column=2}
3 {file_name_id=3 function_name_id=3 line=3 end_line=3 column=1 end_column=2}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=3}


%converted (p.0: f32[4,4]) -> bf16[4,4] {
  %p.0 = f32[4,4]{1,0} parameter(0)
  ROOT %c.0 = bf16[4,4]{1,0} convert(%p.0)
}

%product (p.1: bf16[8,4], p.2: bf16[4,4]) -> bf16[8,4] {
  %p.1 = bf16[8,4]{1,0} parameter(0)
  %p.2 = bf16[4,4]{1,0} parameter(1)
  ROOT %d.0 = bf16[8,4]{1,0} dot(%p.1, %p.2), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (state: (s32[], bf16[8,4], f32[4,4])) -> (s32[], bf16[8,4], f32[4,4]) {
  %state = (s32[], bf16[8,4]{1,0}, f32[4,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = bf16[8,4]{1,0} get-tuple-element(%state), index=1
  %w = f32[4,4]{1,0} get-tuple-element(%state), index=2
  %cast = bf16[4,4]{1,0} fusion(%w), kind=kLoop, calls=%converted
  %y = bf16[8,4]{1,0} fusion(%x, %cast), kind=kCustom, calls=%product, metadata={op_name="dot" stack_frame_id=3}
  ROOT %next = (s32[], bf16[8,4]{1,0}, f32[4,4]{1,0}) tuple(%i, %y, %w)
}

%condition (state.1: (s32[], bf16[8,4], f32[4,4])) -> pred[] {
  %state.1 = (s32[], bf16[8,4]{1,0}, f32[4,4]{1,0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

%written (p.3: f32[100,4], p.4: f32[1,4], p.5: s32[]) -> f32[100,4] {
  %p.3 = f32[100,4]{1,0} parameter(0)
  %p.4 = f32[1,4]{1,0} parameter(1)
  %p.5 = s32[] parameter(2)
  %zero = s32[] constant(0)
  %same = f32[100,4]{1,0} bitcast(%p.3)
  ROOT %u.0 = f32[100,4]{1,0} dynamic-update-slice(%same, %p.4, %p.5, %zero)
}

%cut (p.6: f32[100,4], p.7: f32[100,4]) -> (f32[10,4], f32[10,4]) {
  %p.6 = f32[100,4]{1,0} parameter(0)
  %p.7 = f32[100,4]{1,0} parameter(1)
  %sum = f32[100,4]{1,0} add(%p.6, %p.7)
  %square = f32[100,4]{1,0} multiply(%sum, %p.6)
  %s.0 = f32[10,4]{1,0} slice(%square), slice={[0:10], [0:4]}
  %s.1 = f32[10,4]{1,0} slice(%square), slice={[50:60], [0:4]}
  ROOT %t.0 = (f32[10,4]{1,0}, f32[10,4]{1,0}) tuple(%s.0, %s.1)
}

%taken (p.8: f32[100,4], p.9: s32[3,1]) -> f32[3,4] {
  %p.8 = f32[100,4]{1,0} parameter(0)
  %p.9 = s32[3,1]{1,0} parameter(1)
  ROOT %g.0 = f32[3,4]{1,0} gather(%p.8, %p.9), offset_dims={1}, collapsed_slice_dims={0}, slice_sizes={1,4}
}

%added (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %ab = f32[] add(%a, %b)
}

%scattered (p.10: f32[100,4], p.11: s32[3,1], p.12: f32[3,4]) -> f32[100,4] {
  %p.10 = f32[100,4]{1,0} parameter(0)
  %p.11 = s32[3,1]{1,0} parameter(1)
  %p.12 = f32[3,4]{1,0} parameter(2)
  ROOT %sc.0 = f32[100,4]{1,0} scatter(%p.10, %p.11, %p.12), update_window_dims={1}, to_apply=%added
}

ENTRY %main.1 (x.0: bf16[8,4], w.0: f32[4,4], table: f32[100,4], row: f32[1,4], rows: s32[3,1]) -> f32[100,4] {
  %x.0 = bf16[8,4]{1,0} parameter(0)
  %w.0 = f32[4,4]{1,0} parameter(1)
  %table = f32[100,4]{1,0} parameter(2)
  %row = f32[1,4]{1,0} parameter(3)
  %rows = s32[3,1]{1,0} parameter(4)
  %none = s32[] constant(0)
  %start = (s32[], bf16[8,4]{1,0}, /*index=2*/f32[4,4]{1,0}) tuple(%none, %x.0, %w.0)
  %loop = (s32[], bf16[8,4]{1,0}, f32[4,4]{1,0}) while(%start), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"16"}}
  %copied = f32[100,4]{1,0} copy(%table)
  %update = f32[100,4]{1,0} fusion(%copied, %row, %none), kind=kLoop, calls=%written
  %corners = (f32[10,4]{1,0}, f32[10,4]{1,0}) fusion(%update, %table), kind=kLoop, calls=%cut
  %take = f32[3,4]{1,0} fusion(%table, %rows), kind=kLoop, calls=%taken
  %library = (bf16[8,4]{1,0}, s8[4096]{0}) custom-call(%x.0, %x.0), custom_call_target="__cublas$lt$matmul", \
backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"x":["0"]}}}
  ROOT %scatter = f32[100,4]{1,0} fusion(%update, %rows, %take), kind=kInput, calls=%scattered
}
"""


@pytest.fixture(scope="module")
def recorded():
    return {kernel.name: kernel for kernel in hlo.kernels(hlo.parse(RECORDED))}


def test_what_is_launched_is_counted_and_the_rest_is_free(recorded):
    assert list(recorded) == ["cast", "y", "copied", "update", "corners", "take", "library", "scatter"]
    assert {name: kernel.times for name, kernel in recorded.items() if kernel.times > 1} == {"cast": 16, "y": 16}


@pytest.mark.parametrize(
    ("name", "moved"),
    [
        ("cast", 4 * 16 + 2 * 16),
        ("y", 2 * (32 + 16 + 32)),
        ("copied", 2 * 1600),
        ("update", 2 * 16 + 4),  # the row is read and written: the table stays where it is
        ("corners", 2 * 2 * 160 + 2 * 160),  # of both inputs two windows, though one is used twice
        ("take", 12 + 2 * 48),
        ("library", 2 * (32 + 32)),  # no scratch memory
        ("scatter", 12 + 48 + 2 * 48),  # what is added to is read and written
    ],
)
def test_bytes_are_those_that_a_kernel_reads_and_writes(recorded, name, moved):
    assert recorded[name].bytes == moved


def test_kinds_say_what_a_kernel_is_for(recorded):
    assert {name: kernel.kind for name, kernel in recorded.items()} == {
        "cast": "conversions",
        "y": "matrix products",
        "copied": "copies",
        "update": "writes in place",
        "corners": "element by element",
        "take": "gathers",
        "library": "matrix products",
        "scatter": "scatters",
    }


def test_flop_are_told_by_precision_and_places_by_our_own_innermost_function(recorded):
    assert recorded["y"].flop == {"bf16": 2 * 8 * 4 * 4} == recorded["library"].flop
    assert recorded["y"].place == "ops/convolution.py:upsample" and recorded["cast"].place == ""


def test_memory_is_what_lives_at_once():
    # The loop's two results at their height, 32 + 64 bytes; then the table's copy, which the update and the scatter
    # overwrite and which is the output; the corners, the gathered rows and the library's product are made beside it.
    assert hlo.walked(hlo.parse(RECORDED)) == {
        "arguments": 64 + 64 + 1600 + 16 + 12,
        "outputs": 1600,
        "temporaries": 4208,
    }


def test_a_dumped_assignment_of_buffers_is_read_by_use():
    text = """BufferAssignment:
allocation 0: size 100, page 0, parameter 0, shape |f32[25]| at ShapeIndex {}, maybe-live-out:
 value: <1 p{} @0> (size=100,offset=0): f32[25]{0}
allocation 1: 0x55d, size 40, maybe-live-out:
allocation 2: size 7, page 0, constant:
allocation 3: size 1000, page 0, preallocated-temp:
"""
    assert hlo.assigned(text) == {"arguments": 100, "outputs": 40, "temporaries": 1000}


def test_a_loop_of_unknown_length_is_refused():
    with pytest.raises(ValueError, match="no length of the loop loop"):
        hlo.kernels(hlo.parse(RECORDED.replace("known_trip_count", "unknown")))
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("HloModule nothing\n")


def test_what_this_compiler_writes_is_counted_as_the_code_has_it():
    def f(x, w):
        step = lambda x, _: (jnp.tanh(x @ w), None)
        return jax.lax.scan(step, x, None, length=7)[0].at[2].set(1.0)

    x, w = jax.ShapeDtypeStruct((64, 48), jnp.float32), jax.ShapeDtypeStruct((48, 48), jnp.float32)
    kernels = hlo.kernels(hlo.parse(jax.jit(f).lower(x, w).compile().as_text()))
    counted = sum(kernel.times * kernel.flop.get("f32", 0) for kernel in kernels)
    assert counted == flops.count(f, x, w) == 7 * 2 * 64 * 48 * 48


def test_the_bound_is_bytes_or_products_whichever_takes_longer():
    gpu = gpus.GPUS["h100"]
    assert gpus.seconds(gpu, 3_350_000_000, {}) == pytest.approx(1e-3 / gpus.BANDWIDTH_REACHED)
    assert gpus.seconds(gpu, 1, {"bf16": 989_000_000_000}) == pytest.approx(1e-3 / gpus.RATE_REACHED)
    assert gpus.seconds(gpu, 1, {"f32": 1e9}) > gpus.seconds(gpu, 1, {"bf16": 1e9})


@pytest.mark.slow
def test_programs_come_from_shapes_alone_and_the_parts_are_the_whole_update():
    config = runpy.run_path(str(ROOT / "tests/configs/tiny.py"))["get_config"]()
    work = aot.programs(config, build.tasks(config))
    assert set(work) == set(aot.ALL)
    assert not any(isinstance(leaf, jax.Array) for part in work.values() for leaf in jax.tree.leaves(part.arguments))
    counted = {name: flops.count(throughput.with_axis(part.function), *part.arguments) for name, part in work.items()}
    parts = sum(counted[name] for name in throughput.PARTS)  # two of them choose rows by the router, the whole but once
    assert 0 < counted["whole update"] <= parts < 1.01 * counted["whole update"] and counted["acting"] > 0


@pytest.mark.slow
@pytest.mark.skipif(find_spec("jax_cuda13_plugin") is not None, reason="the CUDA plugin is installed")
def test_without_the_plugin_there_is_one_message():
    command = [sys.executable, "benchmarks/aot.py", "--config=tests/configs/tiny.py"]
    run = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert run.returncode == 2 and run.stderr.startswith("error: jax's CUDA plugin is not installed"), run.stderr
    assert "pip install jax-cuda13-plugin" in run.stderr and "Traceback" not in run.stderr


# A row written beside other kernels, and an array that a kernel has by two names.
BESIDE = """HloModule small, is_scheduled=true

%written (p.0: f32[16,4], p.1: f32[1,4], p.2: s32[]) -> f32[16,4] {
  %p.0 = f32[16,4]{1,0} parameter(0)
  %p.1 = f32[1,4]{1,0} parameter(1)
  %p.2 = s32[] parameter(2)
  ROOT %dus = f32[16,4]{1,0} dynamic-update-slice(%p.0, %p.1, %p.2, %p.2)
}

%beside (q.0: f32[16,4], q.1: f32[1,4], q.2: s32[]) -> f32[16,4] {
  %q.0 = f32[16,4]{1,0} parameter(0)
  %q.1 = f32[1,4]{1,0} parameter(1)
  %q.2 = s32[] parameter(2)
  ROOT %fused = f32[16,4]{1,0} fusion(%q.0, %q.1, %q.2), kind=kLoop, calls=%written
}

%squares (r.1: f32[64], r.0: f32[64], r.2: f32[64]) -> f32[64] {
  %r.1 = f32[64]{0} parameter(1)
  %r.0 = f32[64]{0} parameter(0)
  %r.2 = f32[64]{0} parameter(2)
  %product = f32[64]{0} multiply(%r.0, %r.1)
  ROOT %sum = f32[64]{0} add(%product, %r.2)
}

ENTRY %main (table: f32[16,4], row: f32[1,4], pair: (f32[64], f32[64])) -> f32[64] {
  %table = f32[16,4]{1,0} parameter(0)
  %row = f32[1,4]{1,0} parameter(1)
  %pair = (f32[64]{0}, f32[64]{0}) parameter(2)
  %none = s32[] constant(0)
  %start = ((f32[16,4]{1,0}, f32[1,4]{1,0}, s32[]), f32[16,4]{1,0}, u32[]) async-start(%table, %row, %none), \
calls=%beside
  %done = f32[16,4]{1,0} async-done(%start)
  %flat = f32[64]{0} bitcast(%done)
  %again = f32[64]{0} bitcast(%flat)
  ROOT %out = f32[64]{0} fusion(%flat, %again, %pair#1), kind=kLoop, calls=%squares
}
"""


def test_a_kernel_that_runs_beside_others_counts_as_it_would_alone_and_no_array_twice():
    found = {kernel.name: kernel for kernel in hlo.kernels(hlo.parse(BESIDE))}
    assert list(found) == ["start", "out"]
    assert found["start"].kind == "writes in place" and found["start"].bytes == 2 * 16 + 4
    assert found["out"].bytes == 256 + 256 + 256
