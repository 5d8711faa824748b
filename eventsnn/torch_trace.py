"""A PyTorch module as a graph of named operations, and which of its classes are neurons or per-tick norms.

`torch.fx` traces the module; `forward` runs the graph, with other functions in place of some nodes where wanted. The
vocabulary at the end says what each node does in words the importer knows, and `torch_terms` turns them into
populations and connections. `torch` is imported inside the functions that need it.
"""

from __future__ import annotations

import copy
import functools
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from eventsnn.neurons import IF, LIF

# ------------------------------------------------------------------------------------- the table class -> converter

Converter = Callable[[Any], IF | tuple[IF, float] | tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class _Entry:
    convert: Converter
    activation: bool = False
    norm: bool = False
    multi_step: bool = False


_CONVERTERS: dict[type | str, _Entry] = {}


def register(
    cls: type | str,
    converter: Converter,
    *,
    activation: bool = False,
    norm: bool = False,
    multi_step: bool = False,
) -> None:
    """Teach `from_torch` a neuron or a per-tick norm of your own.

    cls: the module's class, or its full name ("package.module.Class") when importing it here is not wanted; subclasses
    follow their base. converter(module) returns an `IF` or `LIF`, or a pair of it and the amplitude: the value the
    module gives out for one spike (1 if left out), which is folded into the next weights.

    activation=False: the module is a spiking neuron that is stepped over time, called once per tick.
    activation=True: it is an elementwise, stateless activation that never falls as its input rises (QCFS), which the
    neuron stands in for. Then `from_torch` sets the comparator, and a max-pool in front of it changes places with it.
    multi_step=True: it is a spiking neuron that takes all ticks in one call, so `from_torch` and `verify` cannot step
    it: they believe the converter, and the neuron it returns stands in for the module.
    norm=True: it is a norm that differs by tick (TEBN, Duan et al., NeurIPS 2022; BNTT, Kim & Panda 2021). The
    converter returns a pair (scale, shift) of float64 arrays (ticks, channels) that say what it does in evaluation
    mode, y[t, c] = scale[t, c] x[c] + shift[t, c]; the module itself is never called.

    Raises ValueError when cls or converter is of the wrong kind, or more than one of the three is True.
    """
    if not isinstance(cls, type | str):
        raise ValueError(f"register: cls is {cls!r}, wanted a class or its full name as text")
    if not callable(converter):
        raise ValueError(f"register: the converter is {converter!r}, wanted a function of a module")
    if activation + norm + multi_step > 1:
        raise ValueError("register: a class is an activation, a norm or a multi-step neuron; set one of them")
    _CONVERTERS[cls] = _Entry(converter, activation, norm, multi_step)


def converter_of(module: Any) -> _Entry | None:
    """The entry of a module's class or of its nearest base in the table, or None."""
    for cls in type(module).__mro__:
        for key in (cls, f"{cls.__module__}.{cls.__qualname__}"):
            if key in _CONVERTERS:
                return _CONVERTERS[key]
    return None


def _snntorch_leaky(module: Any) -> tuple[IF, float]:
    """snnTorch's `Leaky`: fires above the threshold; a soft reset comes one tick late, a reset to zero at once.

    snnTorch clears the membrane before the next tick's input, so its late reset to zero is one at the spike. Its
    `reset_delay=False` with subtraction takes a second reset back where the membrane stays above threshold: refused.
    """
    reset = int(module.reset_mechanism_val)
    if module.inhibition or module.state_quant:
        raise ValueError("inhibition and state_quant of snnTorch are not supported")
    if reset == 0 and not getattr(module, "reset_delay", True):
        raise ValueError("reset_mechanism='subtract' is supported with reset_delay=True only")
    neuron = LIF(
        alpha=_plain(module.beta.clamp(0, 1)),
        threshold=_plain(module.threshold),
        comparator="gt",
        reset=("subtract", "value", "none")[reset],
        reset_delay=reset == 0,
    )
    return neuron, float(module.graded_spikes_factor)


def _qcfs_if(module: Any) -> tuple[IF, float]:
    """The activation of the QCFS authors' code: `thresh`, one number, and `T` = 0 while it quantises."""
    if getattr(module, "T", 0) != 0:
        raise ValueError(f"T is {module.T}: set it to 0 (the quantised activation) before the conversion")
    theta = float(module.thresh)
    return IF(threshold=theta, v0=theta / 2), theta


def _plain(value: Any) -> float | np.ndarray:
    array = np.asarray(value.detach().cpu(), np.float64)
    return float(array.reshape(-1)[0]) if array.size == 1 else array


register("snntorch._neurons.leaky.Leaky", _snntorch_leaky)
register("Models.layer.IF", _qcfs_if, activation=True)

# ------------------------------------------------------------------------------------------- the graph, and running it


def trace(module: Any) -> tuple[Any, Any]:
    """A private copy of the module in evaluation mode, as the child "net" of a root, and the root's fx graph.

    The wrapping makes a module that is a single leaf traceable, and has fx call the module with its default arguments.
    """
    import torch
    from torch import fx, nn

    if not isinstance(module, nn.Module):
        raise ValueError(f"from_torch: the module is a {type(module).__name__}, wanted a torch.nn.Module")
    if isinstance(module, nn.DataParallel):
        module = module.module
    name = type(module).__name__
    try:
        module = copy.deepcopy(module).cpu().eval()
    except RuntimeError as error:
        raise ValueError(f"cannot copy {name}: {first_line(error)}; reset its states before the conversion") from None
    kinds = {p.dtype for p in (*module.parameters(), *module.buffers()) if p.dtype.is_floating_point}
    module = module.double() if torch.float64 in kinds else module.float()
    module.requires_grad_(False)
    root = nn.Sequential()
    root.add_module("net", module)

    class Leaves(fx.Tracer):
        def is_leaf_module(self, m: Any, module_qualified_name: str) -> bool:
            return converter_of(m) is not None or super().is_leaf_module(m, module_qualified_name)

    try:
        graph = Leaves().trace(root)
    except Exception as error:  # the module's own forward runs here, with placeholders instead of tensors
        raise ValueError(
            f"cannot trace {name} with torch.fx ({first_line(error)}); write its forward without decisions on tensor "
            "values, or register() the class that makes them"
        ) from None
    _rewrite(root, graph)
    return root, graph


def first_line(error: Exception) -> str:
    """What an error says, in one line without the final stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


Instead = dict[Any, Callable[[tuple[Any, ...]], Any]]  # for some nodes, a function of their arguments


def forward(
    root: Any,
    graph: Any,
    x: Any,
    instead: Instead | None = None,
    before: Callable[[Any, Any], None] | None = None,
    after: Callable[[Any, Any], None] | None = None,
) -> Any:
    """Run a traced graph on a batch and return its output.

    instead: for some nodes, what to call in their place. before(node, first argument) and after(node, value) watch
    every node but the input.
    """
    import torch
    from torch.fx.node import map_arg

    values: dict[Any, Any] = {}
    waiting = {node: len(node.users) for node in graph.nodes}
    with torch.no_grad():
        for node in graph.nodes:
            args = map_arg(node.args, values.__getitem__)
            kwargs = map_arg(node.kwargs, values.__getitem__)
            first = args[0] if args else None
            if before is not None and node.op not in ("placeholder", "get_attr"):
                before(node, first)
            if instead is not None and node in instead:
                value = instead[node](args)
                if first is not None and in_place(root, node):
                    first.copy_(value)  # whoever else reads that tensor sees the change, as in the module
                    value = first
            elif node.op == "placeholder":
                value = x
            elif node.op == "get_attr":
                value = functools.reduce(getattr, node.target.split("."), root)
            elif node.op == "call_module":
                value = root.get_submodule(node.target)(*args, **kwargs)
            elif node.op == "call_method":
                value = getattr(first, node.target)(*args[1:], **kwargs)
            elif node.op == "call_function":
                value = node.target(*args, **kwargs)
            else:
                value = first
            if after is not None:
                after(node, value)
            values[node] = value
            for used in node.all_input_nodes:
                waiting[used] -= 1
                if not waiting[used]:
                    del values[used]
    return value


@dataclass(frozen=True, eq=False)
class TickNorm:
    """What a per-tick norm does in evaluation mode: scale[t, c] x[c] + shift[t, c]; both (ticks, channels) float64."""

    what: str
    scale: np.ndarray
    shift: np.ndarray

    def __call__(self, tick: int | None, args: tuple[Any, ...]) -> Any:
        """In one tick, of the one argument (N, channels, ...); None stands for the mean over its ticks."""
        import torch

        x = args[0]
        if x.ndim < 2 or x.shape[1] != self.scale.shape[1]:
            channels = self.scale.shape[1]
            raise ValueError(f"the tables of {self.what} have {channels} channels, its input is {tuple(x.shape)}")
        rows = (table.mean(0) if tick is None else table[tick] for table in (self.scale, self.shift))
        column = (-1, *(1,) * (x.ndim - 2))
        scale, shift = (torch.as_tensor(row, dtype=x.dtype).reshape(column) for row in rows)
        return scale * x + shift


def tick_norms(root: Any, graph: Any) -> dict[Any, TickNorm]:
    """The per-tick norms of a traced graph by node; raises ValueError when a converter gives no two such tables."""
    found = {}
    for node in graph.nodes:
        if operation(root, node) != "tick_norm":
            continue
        module = root.get_submodule(node.target)
        entry, what = converter_of(module), describe(root, node)
        assert entry is not None
        try:
            pair: Any = entry.convert(module)
            scale, shift = (np.asarray(table, np.float64) for table in pair)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the converter of {what} gave no pair of arrays ({first_line(error)})") from None
        if scale.ndim != 2 or scale.shape != shift.shape or not scale.size:
            raise ValueError(
                f"the converter of {what} gave tables of shape {scale.shape} and {shift.shape}, wanted (ticks, "
                "channels) twice"
            )
        if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
            raise ValueError(f"the converter of {what} gave tables that hold NaN or infinity")
        found[node] = TickNorm(what, scale, shift)
    return found


def at_tick(norms: Mapping[Any, TickNorm], tick: int | None) -> Instead:
    """For `forward`: what every per-tick norm does in one tick, or on average over its ticks (None)."""
    return {node: functools.partial(norm, tick) for node, norm in norms.items()}


def in_place(root: Any, node: Any) -> bool:
    """Whether a node writes into the tensor it reads."""
    if node.op == "call_module":
        return bool(getattr(root.get_submodule(node.target), "inplace", False))
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    return name in ("iadd", "imul") or name.endswith("_") or bool(node.kwargs.get("inplace", False))


# --------------------------------------------------------------------------------------- what we know how to carry over

# operation -> its arguments after the input; a module has them as attributes, a function takes them in this order
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "neuron": (),
    "relu": (),
    "pass": (),
    "dropout": ("p", "training"),
    "conv": ("weight", "bias", "stride", "padding", "dilation", "groups", "padding_mode"),
    "linear": ("weight", "bias"),
    "tick_norm": (),
    "batch_norm": ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    "avg_pool": ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    "adaptive_avg_pool": ("output_size",),
    "max_pool": ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    "adaptive_max_pool": ("output_size", "return_indices"),
    "mean": ("dim", "keepdim"),
    "reshape": (),
    "add": ("other", "alpha"),
    "subtract": ("other", "alpha"),
    "multiply": ("other",),
    "divide": ("other",),
    "getitem": ("index",),
    "pad": ("pad", "mode", "value"),
    "softmax": (),
}
ALIASES = {"axis": "dim", "keepdims": "keepdim"}
DEFAULTS = {"padding": 0, "stride": None, "dilation": 1, "groups": 1, "count_include_pad": True, "eps": 1e-5}


@functools.cache
def _vocabulary() -> tuple[tuple[tuple[type, str], ...], dict[Any, str], dict[str, str]]:
    """(module class, operation), function -> operation, and tensor method -> operation."""
    import torch
    import torch.nn.functional as F
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm
    from torch.nn.modules.dropout import _DropoutNd

    modules: tuple[tuple[type, str], ...] = (
        (nn.ReLU, "relu"),
        (nn.ReLU6, "relu"),  # a rate cannot exceed the threshold, and the threshold cannot exceed 6
        (nn.Conv1d, "conv"),
        (nn.Conv2d, "conv"),
        (nn.Linear, "linear"),
        (_BatchNorm, "batch_norm"),
        (nn.AvgPool1d, "avg_pool"),
        (nn.AvgPool2d, "avg_pool"),
        (nn.AdaptiveAvgPool1d, "adaptive_avg_pool"),
        (nn.AdaptiveAvgPool2d, "adaptive_avg_pool"),
        (nn.MaxPool1d, "max_pool"),
        (nn.MaxPool2d, "max_pool"),
        (nn.AdaptiveMaxPool1d, "adaptive_max_pool"),
        (nn.AdaptiveMaxPool2d, "adaptive_max_pool"),
        (nn.Flatten, "reshape"),
        (nn.Identity, "pass"),
        (_DropoutNd, "pass"),
        (nn.Softmax, "softmax"),
        (nn.LogSoftmax, "softmax"),
    )
    functions: dict[Any, str] = {
        getattr: "constant",
        operator.getitem: "getitem",
        operator.add: "add",
        operator.iadd: "add",
        operator.sub: "subtract",
        operator.mul: "multiply",
        operator.imul: "multiply",
        operator.truediv: "divide",
    }
    spelled = {
        "relu": (torch.relu, torch.relu_, F.relu, F.relu_, F.relu6),
        "conv": (torch.conv1d, torch.conv2d, F.conv1d, F.conv2d),
        "linear": (F.linear,),
        "batch_norm": (F.batch_norm,),
        "avg_pool": (torch.avg_pool1d, F.avg_pool1d, F.avg_pool2d),
        "adaptive_avg_pool": (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d),
        "max_pool": (torch.max_pool1d, torch.max_pool2d, F.max_pool1d, F.max_pool2d),
        "adaptive_max_pool": (F.adaptive_max_pool1d, F.adaptive_max_pool2d),
        "dropout": (F.dropout, F.dropout1d, F.dropout2d),
        "mean": (torch.mean,),
        "reshape": (torch.flatten, torch.reshape, torch.squeeze),
        "add": (torch.add,),
        "subtract": (torch.sub,),
        "multiply": (torch.mul,),
        "divide": (torch.div,),
        "pad": (F.pad,),
        "softmax": (torch.softmax, F.softmax, torch.log_softmax, F.log_softmax),
    }
    functions.update({function: name for name, group in spelled.items() for function in group})
    methods = {"relu": "relu", "relu_": "relu", "mean": "mean", "add": "add", "add_": "add", "mul": "multiply"}
    methods["sub"] = "subtract"
    methods.update(dict.fromkeys(("flatten", "view", "reshape", "squeeze"), "reshape"))
    methods.update(dict.fromkeys(("contiguous", "clone", "detach"), "pass"))
    methods.update(dict.fromkeys(("size", "dim", "numel"), "constant"))
    methods.update({"div": "divide", "softmax": "softmax", "log_softmax": "softmax"})
    return modules, functions, methods


def operation(root: Any, node: Any) -> str | None:
    """The name in our vocabulary of what a node does, or None."""
    modules, functions, methods = _vocabulary()
    if node.op == "call_module":
        module = root.get_submodule(node.target)
        entry = converter_of(module)
        if entry is not None:
            return "tick_norm" if entry.norm else "neuron"
        return next((name for cls, name in modules if isinstance(module, cls)), None)
    if node.op == "call_function":
        return functions.get(node.target)
    return methods.get(node.target) if node.op == "call_method" else None


def describe(root: Any, node: Any) -> str:
    """How a refusal names a node: module path and class, or function and the module it is called in."""
    if node.op == "call_module":
        return f"{path_of(node) or 'the module'!r} ({type(root.get_submodule(node.target)).__name__})"
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    owner, cls = (("", type(root.net)), *node.meta.get("nn_module_stack", {}).values())[-1]
    owner = owner.removeprefix("net").lstrip(".")
    return f"{name} in " + (f"{owner!r} ({cls.__name__})" if owner else f"the forward of {cls.__name__}")


def path_of(node: Any) -> str:
    """The user's path of the module a node calls; "" for the traced module itself."""
    return str(node.target).removeprefix("net").lstrip(".")


def label_of(root: Any, node: Any) -> str:
    """What a population made at this node is called: the module's path, with its kind where it is only a number."""
    if node.op == "call_module":
        path = path_of(node)
        if path and not path.isdigit():
            return path
        kind = re.sub(r"\d+d$|\d+$", "", type(root.get_submodule(node.target)).__name__).lower()
        return f"{kind}{path}"
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "operation")
    owners = [owner for owner, _ in node.meta.get("nn_module_stack", {}).values()]
    owner = owners[-1].removeprefix("net").lstrip(".") if owners else ""
    return f"{owner}.{name}" if owner else str(name)


def _rewrite(root: Any, graph: Any) -> None:
    """Simplify the traced graph without changing what it computes.

    A softmax at the very end goes (it keeps the order of the classes), and a ReLU of a ReLU; states that spiking
    modules hand out beside their spikes go from the output; a max-pool in front of an activation changes places with it
    (both never fall, so they commute), for spikes can be max-pooled and graded values cannot.
    """
    import torch.nn.functional as F

    output = next(node for node in graph.nodes if node.op == "output")
    if isinstance(output.args[0], tuple | list):
        kept = [node for node in output.args[0] if not _is_state(root, node)]
        if len(kept) != 1:
            raise ValueError(f"the module returns {len(kept)} tensors, wanted one: the class scores")
        output.args = (kept[0],)
    for node in reversed(list(graph.nodes)):  # from the end, so that an activation passes several max-pools
        name = operation(root, node)
        ends = name == "softmax" and list(node.users) == [output]
        if ends or (name == "relu" and _never_negative(root, node.all_input_nodes[0])):
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.erase_node(node)
        elif name in ("max_pool", "adaptive_max_pool"):
            source, follow = node.all_input_nodes[0], node
            if operation(root, source) in ("relu", "neuron"):
                continue
            chain = []
            while len(follow.users) == 1:
                follow = next(iter(follow.users))
                chain.append(follow)
                if not _rises(root, follow):
                    break
            if not chain or not _is_activation(root, follow):
                continue
            chain[0].replace_input_with(node, source)
            follow.replace_all_uses_with(node)
            node.replace_input_with(source, follow)
            follow.append(node)
            if operation(root, follow) == "relu":  # no longer in place: its input now has other readers
                follow.op, follow.target, follow.kwargs = "call_function", F.relu, {}
                follow.args = (follow.all_input_nodes[0],)


def _never_negative(root: Any, node: Any) -> bool:
    """Whether a node gives the output of a ReLU, perhaps pooled or flattened."""
    name = operation(root, node)
    if name in ("pass", "reshape", "max_pool", "adaptive_max_pool", "avg_pool", "adaptive_avg_pool"):
        return _never_negative(root, node.all_input_nodes[0])
    return name == "relu"


def _is_state(root: Any, node: Any) -> bool:
    return (
        operation(root, node) == "getitem"
        and operation(root, node.args[0]) == "neuron"
        and isinstance(node.args[1], int)
        and node.args[1] > 0
    )


def _is_activation(root: Any, node: Any) -> bool:
    name = operation(root, node)
    entry = converter_of(root.get_submodule(node.target)) if name == "neuron" else None
    return name == "relu" or (entry is not None and entry.activation)


def _rises(root: Any, node: Any) -> bool:
    """Whether a node keeps the order of its values: nothing at all, or a batch norm with positive factors."""
    name = operation(root, node)
    if name == "batch_norm" and node.op == "call_module":
        weight = root.get_submodule(node.target).weight
        return weight is None or bool((weight > 0).all())
    return name == "pass"
