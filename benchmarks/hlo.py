"""An optimised XLA program, the text of `compiled.as_text()`, as a list of kernels: bytes, FLOP, kind and place.

A kernel is an instruction that is launched: a fusion, a copy, a call of a library. Its bytes are those of its inputs
and outputs; of an input that it only slices or gathers from, what it takes; of an output that it updates in place, what
it writes. Loops are multiplied out by the trip count that the compiler found. Called by aot.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

Shape = tuple[str, tuple[int, ...]]  # dtype and sizes of one array


class Instruction(NamedTuple):
    """One line of a program."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]  # of the result; several in a tuple
    operands: tuple[str, ...]  # names; of a parameter its number
    elements: tuple[str, ...]  # the same, where it is one of a tuple with its place: "fusion.3#1"
    attributes: str  # what stands behind the operands
    root: bool


Computation = dict[str, Instruction]
Windows = dict[str, float]  # parts of an array, by the slice that cuts them out ("": by none)


class Program(NamedTuple):
    """A parsed program."""

    computations: dict[str, Computation]
    entry: str
    places: dict[int, str]  # by stack frame: the project's innermost file and function


class Kernel(NamedTuple):
    """One launched instruction."""

    name: str
    kind: str
    place: str  # "ops/convolution.py:upsample"; "" where the compiler does not say
    times: int  # how often it runs
    bytes: int  # read and written, each time
    flop: dict[str, int]  # of its matrix products, each time, by the precision of the left factor


# --- Text to records --------------------------------------------------------------------------------------------------

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\]")


def parse(text: str) -> Program:
    """The program of an HLO module's text. Raises ValueError where there is no entry computation."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if line.startswith("}"):
            current = None
        elif current is not None and (found := _LINE.match(line)):
            root, name, rest = found.groups()
            current[name] = _instruction(name, re.sub(r"/\*.*?\*/", "", rest), bool(root))
        elif not line.startswith("HloModule") and (head := _HEAD.match(line)):
            current = computations.setdefault(head[2], {})
            entry = head[2] if head[1] else entry
    if not entry:
        raise ValueError("not the text of an HLO module: it has no ENTRY")
    return Program(computations, entry, _places(text))


def _instruction(name: str, rest: str, root: bool) -> Instruction:
    typed, rest = _split(rest) if rest.startswith("(") else rest.split(" ", 1)
    opcode, rest = rest.strip().split("(", 1)
    inside, attributes = _split(f"({rest}")
    elements = (inside[1:-1],) if opcode == "parameter" else tuple(re.findall(r"%([\w.\-#]+)", inside))
    operands = tuple(element.partition("#")[0] for element in elements)
    return Instruction(name, opcode, _arrays(typed), operands, elements, attributes, root)


def _split(text: str) -> tuple[str, str]:
    """Text that begins with a parenthesis, cut behind the one that closes it."""
    depth = 0
    for parenthesis in re.finditer(r"[()]", text):
        depth += 1 if parenthesis[0] == "(" else -1
        if not depth:
            return text[: parenthesis.end()], text[parenthesis.end() :]
    raise ValueError(f"no closing parenthesis: {text[:80]}")


def _arrays(typed: str) -> tuple[Shape, ...]:
    return tuple((dtype, tuple(map(int, filter(None, sizes.split(","))))) for dtype, sizes in _ARRAY.findall(typed))


def _places(text: str) -> dict[int, str]:
    """The table of stack frames in front of a program: of each, the innermost frame inside mow_jax/."""
    table = text.split("\nStackFrames\n")[0]
    files, functions = (
        dict(re.findall(r'^(\d+) "(.*)"$', table.split(f"\n{title}\n")[-1].split("\n\n")[0], re.MULTILINE))
        for title in ("FileNames", "FunctionNames")
    )
    located = r"^(\d+) \{file_name_id=(\d+) function_name_id=(\d+)"
    locations = {place: (files[f], functions[g]) for place, f, g in re.findall(located, text, re.MULTILINE)}
    framed = r"^(\d+) \{file_location_id=(\d+)(?: parent_frame_id=(\d+))?"
    frames = {int(frame): (where, int(up or 0)) for frame, where, up in re.findall(framed, text, re.MULTILINE)}
    return {frame: _place(frame, frames, locations) for frame in frames}


def _place(frame: int, frames: dict, locations: dict) -> str:
    while frame in frames:
        where, up = frames[frame]
        file, function = locations[where]
        if "/mow_jax/" in file:
            return f"{file.rpartition('/mow_jax/')[2]}:{function.partition('.')[0]}"
        frame = up - 1  # the compiler's numbers of parents begin at 1 for none
    return ""


# --- Records to kernels -----------------------------------------------------------------------------------------------

FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "opt-barrier", "after-all"),
    *("partition-id", "replica-id", "copy-done", "async-done", "all-reduce-done", "all-gather-done"),
}  # fmt: skip
SLICES = {"slice", "dynamic-slice", "gather"}
IN_PLACE = {"dynamic-update-slice", "scatter"}
WHOLE = {"dot", "fusion", "custom-call", "sort", "scatter", "call"}  # need all of their inputs
TELLING = {
    "scatter": "scatters",
    "sort": "sorts",
    "dynamic-update-slice": "writes in place",
    "gather": "gathers",
    "reduce": "reductions",
    "reduce-window": "reductions",
}
MOVES = {
    *("copy", "copy-start", "transpose", "reshape", "concatenate", "pad", "reverse", "broadcast", "iota", "convert"),
    *("parameter", "constant", "bitcast", "tuple", "fusion", "compare", "select", "clamp", "and"),  # pads are masked
    *SLICES,
}  # fmt: skip


def kernels(program: Program) -> list[Kernel]:
    """All that the program launches, bodies of loops multiplied out. Raises ValueError for a loop of unknown length."""
    return list(_kernels(program, program.entry, 1))


def _kernels(program: Program, name: str, times: int) -> Iterator[Kernel]:
    computation = program.computations[name]
    for one in computation.values():
        if one.opcode == "while":
            yield from _kernels(program, _called(one, "body"), times * _trips(one))
        elif one.opcode == "call":
            yield from _kernels(program, _called(one, "to_apply"), times)
        elif one.opcode == "conditional":
            branches = [list(_kernels(program, branch, times)) for branch in _branches(one)]
            yield from max(branches, key=lambda found: sum(kernel.times * kernel.bytes for kernel in found))
        elif one.opcode not in FREE:
            yield _kernel(program, computation, one, times)


def _kernel(program: Program, computation: Computation, one: Instruction, times: int) -> Kernel:
    inner = _inside(program, one)
    roots = _outputs(inner) if inner else [one]
    if inner:
        moved = _taken(computation, one, inner, roots) + sum(_written(inner, root) for root in roots)
    else:
        wanted = _wanted({name: computation[name] for name in one.operands} | {one.name: one}, [one])
        moved = sum(round(_share(wanted[name]) * size(computation[name].shapes)) for name in set(one.operands))
        moved += _written(computation, one)
    nested = dict(_flat(program, inner)) if inner else {one.name: one}
    frame = re.search(r"stack_frame_id=(\d+)", one.attributes)
    place = program.places.get(int(frame[1]), "") if frame else ""
    flop = _flop(nested if inner else computation, nested.values())
    return Kernel(one.name, _kind(one, nested, roots, bool(flop)), place, times, moved, flop)


def _taken(computation: Computation, one: Instruction, inner: Computation, roots: list[Instruction]) -> int:
    """Bytes that a fused kernel takes of its inputs; of an array that it has by two names, once what it takes."""
    wanted, shares, bytes_ = _wanted(inner, roots), dict[str, float](), dict[str, int]()
    for each in inner.values():
        if each.opcode == "parameter":
            name = _behind(computation, one.elements[int(each.operands[0])])
            shares[name], bytes_[name] = shares.get(name, 0.0) + _share(wanted[each.name]), size(each.shapes)
    return sum(round(min(share, 1.0) * bytes_[name]) for name, share in shares.items())


def _behind(computation: Computation, name: str) -> str:
    """The array that bitcasts give another name."""
    while name in computation and computation[name].opcode == "bitcast":
        name = computation[name].elements[0]
    return name


def _wanted(inner: Computation, roots: list[Instruction]) -> dict[str, Windows]:
    """What a fused kernel takes of each array inside it, from the outputs backwards."""
    wanted: dict[str, Windows] = {name: {} for name in inner}
    for root in roots:
        wanted[root.name] = {"": 1.0}
    for one in reversed(inner.values()):  # operands stand before what uses them
        for place, name in enumerate(one.operands):
            if name in wanted:
                for window, share in _windows(one, place, inner[name], wanted[one.name], one in roots).items():
                    wanted[name][window] = max(share, wanted[name].get(window, 0.0))
    return wanted


def _windows(user: Instruction, place: int, source: Instruction, windows: Windows, root: bool) -> Windows:
    """What `user` takes of its operand where `windows` of its own result are wanted."""
    if place == 0 and user.opcode in SLICES:
        part = math.prod(user.shapes[0][1]) / max(math.prod(source.shapes[0][1]), 1)
        return {user.name: part * _share(windows)}
    if place == 0 and user.opcode in IN_PLACE and root:
        return {}
    return {"": 1.0} if user.opcode in WHOLE else windows


def _share(windows: Windows) -> float:
    """The part of an array that windows hold: those of one name are the same, others are taken to be apart."""
    return min(sum(windows.values()), 1.0)


def _written(computation: Computation, root: Instruction) -> int:
    """Bytes of an output: of one updated in place the update alone, which a scatter reads before; no scratch memory."""
    if root.opcode == "dynamic-update-slice":
        return size(computation[root.operands[1]].shapes)
    if root.opcode == "scatter":
        return 2 * size(computation[root.operands[-1]].shapes)
    return size(root.shapes[:1] if _library(root) else root.shapes)


def _outputs(inner: Computation) -> list[Instruction]:
    """What a fused kernel writes, behind tuples and bitcasts."""
    waiting, found = [one for one in inner.values() if one.root], []
    while waiting:
        one = waiting.pop()
        if one.opcode in ("tuple", "bitcast") and all(operand in inner for operand in one.operands):
            waiting += [inner[operand] for operand in one.operands]
        else:
            found.append(one)
    return found


def size(shapes: tuple[Shape, ...]) -> int:
    """Bytes of arrays; of those of less than a byte an element, a byte each."""
    return sum(
        max(_bits(dtype) // 8, 1) * math.prod(sizes) for dtype, sizes in shapes if dtype not in ("token", "opaque")
    )


def _bits(dtype: str) -> int:
    found = re.search(r"\d+", dtype)  # bf16, f32, s8, c64; pred
    return int(found[0]) if found else 8


def _called(one: Instruction, role: str) -> str:
    found = re.search(rf"\b{role}=%?([\w.\-]+)", one.attributes)
    return found[1] if found else ""


def _branches(one: Instruction) -> list[str]:
    listed = re.search(r"branch_computations=\{([^}]*)\}", one.attributes)
    names = listed[1] if listed else " ".join(re.findall(r"(?:true|false)_computation=(%?[\w.\-]+)", one.attributes))
    return re.findall(r"[\w.\-]+", names)


def _trips(one: Instruction) -> int:
    found = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', one.attributes)
    if not found:
        raise ValueError(f"the compiler knows no length of the loop {one.name}: its kernels cannot be counted")
    return int(found[1])


def _inside(program: Program, one: Instruction) -> Computation | None:
    """What a fused kernel does inside; of one that runs beside others, the kernel's own."""
    inner = program.computations.get(_called(one, "calls"))
    wrapped = [each for each in (inner or {}).values() if each.root] if one.opcode == "async-start" else []
    return next((found for each in wrapped if (found := _inside(program, each))), inner)


def _flat(program: Program, inner: Computation) -> Iterator[tuple[str, Instruction]]:
    """All instructions of a fused kernel, those of fusions inside it too."""
    for one in inner.values():
        yield one.name, one
        if nested := _inside(program, one):
            yield from _flat(program, nested)


# --- Memory -----------------------------------------------------------------------------------------------------------

VIEWS = {"tuple", "get-tuple-element", "bitcast", "opt-barrier", "while", "copy-done", "async-done"}


def assigned(text: str) -> dict[str, int]:
    """Bytes by their use from the compiler's final assignment of buffers, as it is dumped; a donated argument whose
    place an output takes counts as an argument."""
    found = {"arguments": 0, "outputs": 0, "temporaries": 0}
    uses = {"parameter": "arguments", "preallocated-temp": "temporaries", "maybe-live-out": "outputs"}
    for count, line in re.findall(r"^allocation \d+:.*?\bsize (\d+),(.*)$", text, re.MULTILINE):
        for word, use in uses.items():
            if word in line:
                found[use] += int(count)
                break
    return found


def walked(program: Program) -> dict[str, int]:
    """The same where the compiler did not come that far: temporaries by a walk over what lives."""
    entry = program.computations[program.entry].values()
    given = sum(size(one.shapes) for one in entry if one.opcode == "parameter")
    made = sum(size(one.shapes) for one in entry if one.root)
    return {"arguments": given, "outputs": made, "temporaries": temporaries(program)}


def temporaries(program: Program) -> int:
    """Bytes that live at once at most, in the order of the text: what stands in for a final assignment of buffers.

    Arguments and outputs do not count, a loop's state lies where it lay before, and an update in place takes nothing.
    """
    return _live(program, program.entry)


def _live(program: Program, name: str) -> int:
    computation = program.computations[name]
    lies = _owners(program, computation)
    last, kept = dict.fromkeys(computation, 0), frozenset[str]()
    for place, one in enumerate(computation.values()):
        touched = lies[one.name].union(*(lies[operand] for operand in one.operands if operand in lies))
        last |= dict.fromkeys(touched, place)
        kept |= lies[one.name] if one.root else frozenset()
    live, now, most = {}, 0, 0
    for place, one in enumerate(computation.values()):
        if one.name in lies[one.name] - kept and one.opcode not in FREE:
            live[one.name] = size(one.shapes)
            now += live[one.name]
        within = _live(program, _called(one, "body")) if one.opcode == "while" else 0
        most = max(most, now + within)
        for dead in [owner for owner in live if last[owner] <= place]:
            now -= live.pop(dead)
    return most


def _owners(program: Program, computation: Computation) -> dict[str, frozenset[str]]:
    """Of each instruction, those that made the memory which its result lies in: itself, unless it is a view of what it
    is given or updates it in place."""
    lies: dict[str, frozenset[str]] = {}
    for one in computation.values():
        inner = _inside(program, one)
        placed = any(root.opcode in IN_PLACE for root in _outputs(inner)) if inner else one.opcode in IN_PLACE
        same = [name for name in one.operands if name in computation and computation[name].shapes == one.shapes]
        under = one.operands if one.opcode in VIEWS else same[:1] if placed else ()
        lies[one.name] = frozenset[str]().union(*(lies[name] for name in under)) or frozenset({one.name})
    return lies


# --- What a kernel does -----------------------------------------------------------------------------------------------


def _flop(known: Computation, instructions) -> dict[str, int]:
    """FLOP of the matrix products among the instructions, by the precision of the left factor."""
    total: dict[str, int] = {}
    for one in instructions:
        found = re.search(r"lhs_contracting_dim(?:s|ensions\")\W+([\d,\"]*)", one.attributes)
        if (one.opcode == "dot" or _library(one)) and found and one.operands[0] in known:
            dtype, sizes = known[one.operands[0]].shapes[0]
            contracted = math.prod(sizes[int(axis)] for axis in re.findall(r"\d+", found[1]))
            total[dtype] = total.get(dtype, 0) + 2 * math.prod(one.shapes[0][1]) * contracted
    return total


def _library(one: Instruction) -> bool:
    """Whether a call is one of a library's matrix product."""
    return one.opcode == "custom-call" and bool(re.search(r'custom_call_target="[^"]*(gemm|matmul)', one.attributes))


def _kind(one: Instruction, nested: Computation, roots: list[Instruction], product: bool) -> str:
    """What a kernel is for, by the most telling operation inside it."""
    inside = {each.opcode for each in nested.values()} - IN_PLACE | {root.opcode for root in roots}
    if product or _library(one):
        return "matrix products"
    if re.search(r'op_name="[^"]*(random|threefry|shuffle)', one.attributes):
        return "random numbers"
    for opcode, kind in TELLING.items():
        if opcode in inside:
            return kind
    if inside - MOVES:
        return "element by element"
    return "conversions" if "convert" in inside and not inside & {"concatenate", "pad", "transpose"} else "copies"
