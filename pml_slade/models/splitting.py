"""A trunk in two parts: one that stays as it came, and the last stages, which are trained."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from timm.models import get_notrace_functions, get_notrace_modules
from torch import fx, nn

from pml_slade.exceptions import ConfigError

LEAST, MOST = 0.25, 0.5
"""Share of a trunk's parameters that its last stages have."""


@dataclass(frozen=True)
class SplitTrunk:
    """Two modules that do, one after the other, what the trunk does; they share its parameters.

    Attributes:
        first: images to what stands at the cut, flat: (n, C, H, W) -> (n, d).
        last: from there to features. Its parameters have the names that they have in the trunk.
        size: d.
    """

    first: nn.Module
    last: nn.Module
    size: int


@dataclass(frozen=True)
class _Cut:
    node: fx.Node
    shape: tuple[int, ...]
    share: float

    @property
    def size(self) -> int:
        return prod(self.shape)


def split_trunk(trunk: nn.Module, image_shape: Sequence[int], at: str | None = None) -> SplitTrunk:
    """Cut a trunk before its last stages.

    The cut is where a single tensor passes, at the smallest one that leaves a quarter to a half of the
    parameters behind it; of equal ones, the last.

    Args:
        trunk: on any device; it is left as it is.
        image_shape: (C, H, W) of the images that it will take.
        at: the trunk's module that the second part begins with, such as ``"layer4"`` or ``"blocks.6"``.

    Raises:
        ConfigError: its code cannot be followed, there is no such module, or no place for a cut.

    Examples:
        >>> from pml_slade.models import build_trunk
        >>> trunk, images = build_trunk("resnet18").eval(), torch.rand(2, 3, 64, 64)
        >>> split = split_trunk(trunk, (3, 64, 64), at="layer4")
        >>> split.first(images).shape, split.size
        (torch.Size([2, 4096]), 4096)
        >>> torch.allclose(split.last(split.first(images)), trunk(images), atol=1e-5)
        True
    """
    followed = _Followed(trunk, image_shape)
    cuts = list(followed.cuts())
    if at is not None:
        cut = followed.before(cuts, at)
    else:
        enough = [cut for cut in cuts if LEAST <= cut.share < 1]
        fitting = [cut for cut in enough if cut.share <= MOST] or enough[-1:]
        if not fitting:
            raise ConfigError(
                f"{type(trunk).__name__} has no place at which a single tensor passes: train all of it, or "
                "the head alone."
            )
        cut = min(reversed(fitting), key=lambda c: c.size)
    return SplitTrunk(followed.until(cut), followed.after(cut), cut.size)


class _Tracer(fx.Tracer):
    """Follows a trunk's forward; modules without children, and those that timm names, are one step."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))
        self._whole = tuple(get_notrace_modules())

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            isinstance(m, self._whole)
            or next(m.children(), None) is None
            or super().is_leaf_module(m, module_qualified_name)
        )


class _Recorder(fx.Interpreter):
    """Runs a graph; keeps the shape of every tensor, and what does not depend on the images' values."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.fixed: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self.shapes[n] = tuple(value.shape)
        if self._is_fixed(n):
            self.fixed[n] = value
        return value

    def _is_fixed(self, node: fx.Node) -> bool:
        """Sizes but that of the batch, and what is computed from them and from constants alone."""
        if node.op == "get_attr":
            return not isinstance(self.fetch_attr(str(node.target)), nn.Parameter)
        if node.op not in ("call_function", "call_method"):
            return False
        sources = node.all_input_nodes
        if node.target is operator.getitem and sources[0].args[1:] == ("shape",):
            return node.args[1] not in (0, slice(None))
        return bool(sources) and all(source in self.fixed for source in sources)


class _Followed:
    """What a trunk does with images of a size, step by step.

    Attributes:
        graph: the steps.
        parts: the modules and tensors that these name.
        shapes: of what they give, for two images.
    """

    def __init__(self, trunk: nn.Module, image_shape: Sequence[int]) -> None:
        self.kind, training = type(trunk).__name__, trunk.training
        images = next(trunk.parameters()).new_zeros(2, *image_shape)
        try:
            module = fx.GraphModule(trunk, _without_options(_Tracer().trace(trunk.eval())))
            recorder = _Recorder(module)
            with torch.no_grad():
                recorder.run(images)
        except Exception as error:  # whatever code does that asks tensors for their values
            raise ConfigError(
                f"{self.kind} cannot be split, since its code cannot be followed ({error}): train all of it, "
                "or the head alone."
            ) from error
        finally:
            trunk.train(training)
        _write_down(module, recorder.fixed)
        self.graph, self.shapes = module.graph, recorder.shapes
        named = [str(node.target) for node in self.graph.nodes if node.op in ("call_module", "get_attr")]
        self.parts = {name: operator.attrgetter(name)(module) for name in named}

    def cuts(self) -> Iterator[_Cut]:
        """The steps after which nothing else that was computed before is read, in their order."""
        nodes = list(self.graph.nodes)
        position = {node: i for i, node in enumerate(nodes)}
        total = self._parameters(nodes)
        needed_until = -1
        for i, node in enumerate(nodes):
            if node.op in ("get_attr", "output"):  # a part may read these anew
                continue
            shape = self.shapes.get(node, ())
            if needed_until <= i and len(shape) > 1 and shape[0] == 2:
                yield _Cut(node, shape[1:], self._parameters(nodes[i + 1 :]) / total)
            needed_until = max([needed_until, *(position[user] for user in node.users)])

    def _parameters(self, nodes: Sequence[fx.Node]) -> int:
        """Parameters that steps read."""
        found: dict[int, int] = {}
        for node in nodes:
            part = self.parts.get(str(node.target))
            if isinstance(part, nn.Module):
                found |= {id(p): p.numel() for p in part.parameters()}
            elif isinstance(part, nn.Parameter):
                found[id(part)] = part.numel()
        return sum(found.values())

    def before(self, cuts: Sequence[_Cut], name: str) -> _Cut:
        """The last cut before a module.

        Raises:
            ConfigError: there is none.
        """
        nodes = list(self.graph.nodes)
        inside = [i for i, node in enumerate(nodes) if f"{node.target}.".startswith(f"{name}.")]
        found = [cut for cut in cuts if inside and nodes.index(cut.node) < inside[0]]
        if not found:
            modules = dict.fromkeys(str(n.target).split(".")[0] for n in nodes if n.op == "call_module")
            raise ConfigError(
                f"{self.kind} has no module {name!r} that it can be cut before; its modules: "
                f"{', '.join(modules)}."
            )
        return found[-1]

    def until(self, cut: _Cut) -> nn.Module:
        """The steps up to a cut, and what stands there, flat."""
        part = fx.Graph()
        copied: dict[fx.Node, fx.Node] = {}
        for node in self.graph.nodes:
            copied[node] = part.node_copy(node, copied.__getitem__)
            if node is cut.node:
                break
        part.output(part.call_method("flatten", (copied[cut.node], 1)))
        return fx.GraphModule(self.parts, part)

    def after(self, cut: _Cut) -> nn.Module:
        """The steps after a cut, from what stands there, flat."""
        part = fx.Graph()
        flat = part.placeholder("features")
        copied: dict[fx.Node, fx.Node] = {cut.node: part.call_method("reshape", (flat, -1, *cut.shape))}
        nodes = list(self.graph.nodes)
        behind = set(nodes[nodes.index(cut.node) + 1 :])
        for node in nodes:
            if node in behind or (node.op == "get_attr" and behind & node.users.keys()):
                copied[node] = part.node_copy(node, copied.__getitem__)
        return fx.GraphModule(self.parts, part)


def _without_options(graph: fx.Graph) -> fx.Graph:
    """Arguments of the trunk besides the images are what they are by default."""
    for node in graph.nodes:
        if node.op == "placeholder" and node.args:
            _replace(node, node.args[0], list(node.users))
            graph.erase_node(node)
    return graph


def _write_down(module: fx.GraphModule, fixed: dict[fx.Node, Any]) -> None:
    """Put what does not depend on the images in the place of its computation."""
    for i, (node, value) in enumerate(fixed.items()):
        readers = [user for user in node.users if user not in fixed]
        if isinstance(value, torch.Tensor) and readers:
            module.register_buffer(f"fixed_{i}", value)
            with module.graph.inserting_before(node):
                value = module.graph.get_attr(f"fixed_{i}")
        _replace(node, value, readers)
    module.graph.eliminate_dead_code()


def _replace(node: fx.Node, value: Any, readers: Sequence[fx.Node]) -> None:
    """Let steps read a value in the place of another step's."""
    for reader in readers:
        given: Any = (reader.args, reader.kwargs)
        reader.args, reader.kwargs = (fx.map_arg(g, lambda n: value if n is node else n) for g in given)
