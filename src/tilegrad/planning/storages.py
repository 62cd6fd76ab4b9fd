"""Which tensors share memory in their homes: views, state replaced in place, dying tensors overwritten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tilegrad.errors import InternalError
from tilegrad.ir.graph import Graph, ReshapeOp, StructuredOp, Value
from tilegrad.planning.axes import Views
from tilegrad.planning.grouping import Cluster
from tilegrad.planning.layout import Layout, Part
from tilegrad.planning.names import Names
from tilegrad.planning.overwrite import may_overwrite
from tilegrad.planning.plan import Copy, Storage
from tilegrad.planning.span import Span


@dataclass(frozen=True)
class Use:
    """One operation that reads a tensor: its group, its position there, and the tensor or view that it sees."""

    group: int
    position: int
    seen: Value


@dataclass
class Homes:
    """The homes of the tensors of one entry point.

    Attributes:
        of: the storage of every tensor that has a home, views included.
        copies: state that is replaced by a copy at the end.
    """

    of: dict[Value, Storage]
    copies: list[Copy] = field(default_factory=list)


class HomeFinder:
    """Assigns homes group by group.

    Args:
        graph: the entry point.
        clusters: its groups in order.
        views: its views.
        statics: storages of persistent tensors and constants.
        level: memory of the homes.
        resident: tensors whose home is the fast memory, and its name.
        names: identifiers in use.
    """

    def __init__(
        self,
        graph: Graph,
        clusters: Sequence[Cluster],
        views: Views,
        statics: dict[Value, Storage],
        level: dict[Value, str],
        names: Names,
    ) -> None:
        self.graph, self.clusters, self.views, self.names = graph, clusters, views, names
        self.statics, self.level = statics, level
        self.uses = find_uses(clusters, views)
        self.producer = {
            output: (g, k)
            for g, cluster in enumerate(clusters)
            for k, op in enumerate(cluster.ops)
            for output in op.outputs
        }
        self.kept = {views.root(store.value) for store in graph.stores}

    def run(self) -> Homes:
        """The homes of all tensors that outlive a tile."""
        homes = Homes(dict(self.statics))
        direct = self._direct_stores()
        for cluster in self.clusters:
            for op in cluster.ops:
                for output in op.outputs:
                    if output not in cluster.layout.needed:
                        continue
                    home = self.statics[direct[output]] if output in direct else self._dying(op, output, homes)
                    if home is None:
                        home = Storage(self.names.unique(output.name), output.bytes, self.level[output])
                    home.values.append(output)
                    homes.of[output] = home
        for view in self.views.sources:
            root = self.views.root(view)
            if root in homes.of:
                homes.of[view] = homes.of[root]
                homes.of[root].values.append(view)
        for store in self.graph.stores:
            if store.value not in homes.of:
                raise InternalError(f"{store.value.name} is stored but never computed")
            if homes.of[store.value] is not homes.of[store.target]:
                homes.copies.append(Copy(homes.of[store.target], homes.of[store.value], store.target.bytes))
        homes.copies = _ordered(homes.copies)
        return homes

    def _direct_stores(self) -> dict[Value, Value]:
        """Values that may be computed in the place of the persistent tensor they replace."""
        direct: dict[Value, Value] = {}
        for store in self.graph.stores:
            value, target = self.views.root(store.value), store.target
            if value not in self.producer or value in direct or target.bytes != value.bytes:
                continue
            if target in self.kept:  # another store takes what it held before, at the end
                continue
            if self.statics[target].level == self.level[value] and self._may_replace(
                value, self.uses.get(target, ()), [store.target]
            ):
                direct[value] = target
        return direct

    def _dying(self, op: StructuredOp, output: Value, homes: Homes) -> Storage | None:
        """The home of a tensor that this operation's group reads last and may overwrite."""
        group, _ = self.producer[output]
        layout = self.clusters[group].layout
        outside = [part.value for part in layout.inputs.values()]
        inside = [operand for operand in op.operands if self.views.root(operand) in layout.outputs]
        for operand in [*outside, *inside]:
            root = self.views.root(operand)
            home = homes.of.get(root)
            if home is None or home.persistent is not None or home.bytes != output.bytes:
                continue
            if home.level != self.level[output]:
                continue
            tenants = {self.views.root(value) for value in home.values}
            if tenants & self.kept or output in tenants:
                continue
            uses = [use for tenant in tenants for use in self.uses.get(tenant, ())]
            if self._may_replace(output, uses, sorted(tenants, key=lambda value: value.name)):
                return home
        return None

    def _may_replace(self, output: Value, uses: Sequence[Use], tenants: Sequence[Value]) -> bool:
        """True where every read of what lies in a storage precedes the write of the output that takes its place."""
        group, _ = self.producer[output]
        cluster = self.clusters[group]
        layout = cluster.layout
        out = layout.outputs[output]
        for tenant in tenants:
            if self.producer.get(tenant, (-1, 0))[0] == group and not (
                layout.tiles == 1 and layout.outputs[tenant].direct
            ):
                return False
        for use in uses:
            if use.group > group:
                return False
            if use.group < group:
                continue
            part = layout.inputs.get(use.seen) or layout.outputs[self.views.root(use.seen)]
            if not self._tile_safe(layout, out, part):
                return False
            if out.direct and part.direct and not self._read_before(use, output, uses):
                return False
        return True

    def _read_before(self, use: Use, output: Value, uses: Sequence[Use]) -> bool:
        """True where a kernel reads a tensor in its home before another kernel writes the output there."""
        group, position = self.producer[output]
        if use.position != position:
            return use.position < position
        seen = {other.seen for other in uses if (other.group, other.position) == (group, position)}
        return seen == {use.seen} and may_overwrite(self.clusters[group].ops[position], output, use.seen)

    @staticmethod
    def _tile_safe(layout: Layout, out: Part, part: Part) -> bool:
        """True where no tile writes what a later tile reads from the same storage."""
        if layout.tiles == 1 or (not part.direct and part.window.depth == 0):
            return True
        mine, others = ([span for span in p.window.spans if span.extent > 1] for p in (out, part))
        moving = {loop for span in mine for loop, _ in span.terms}  # else a later tile comes back to the same elements
        return mine == others and all(_exact(span) for span in mine) and len(moving) == len(layout.loops)


def _exact(span: Span) -> bool:
    return span.is_whole or (span.offset == 0 and span.extra == 0)


def find_uses(clusters: Sequence[Cluster], views: Views) -> dict[Value, list[Use]]:
    """Every operation that reads each tensor, itself or through views."""
    uses: dict[Value, list[Use]] = {}
    for g, cluster in enumerate(clusters):
        for k, op in enumerate(cluster.ops):
            for operand in op.operands:
                uses.setdefault(views.root(operand), []).append(Use(g, k, operand))
    return uses


def views_of(graph: Graph) -> Views:
    """The views of a graph."""
    return Views({op.output: op.source for op in graph.ops if isinstance(op, ReshapeOp)})


def _ordered(copies: list[Copy]) -> list[Copy]:
    """Copies in an order in which none overwrites what another one still reads."""
    ordered: list[Copy] = []
    while copies:
        sources = {copy.source for copy in copies}
        ready = [copy for copy in copies if copy.target not in sources]
        if not ready:
            raise InternalError(f"stores exchange the contents of {', '.join(copy.target.name for copy in copies)}")
        ordered.extend(ready)
        copies = [copy for copy in copies if copy not in ready]
    return ordered
