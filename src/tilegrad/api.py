"""Compile a model, run it, continue, predict: the programming interface behind `tilegrad.compile`."""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilegrad.codegen.project import FAULTS, ProjectInfo, symbol, write_project
from tilegrad.errors import ModelError, RunError, UserError
from tilegrad.ir.graph import Graph, Store, Value, clone
from tilegrad.ir.types import Kind
from tilegrad.ir.verifier import verify_graph
from tilegrad.planning.plan import LevelUse, Plan
from tilegrad.planning.planner import Options, plan_program
from tilegrad.planning.validate import validate_plan
from tilegrad.targets import Program, Session, Target, Transaction, get_target
from tilegrad.training.assemble import TrainingProgram, assemble, select_trainable, unify
from tilegrad.transforms.pipeline import transform

if TYPE_CHECKING:
    from tilegrad.training.losses import Loss
    from tilegrad.training.optimizers import Optimizer

Array = NDArray[Any]
Batch = Sequence[Any]
Progress = Callable[[str], None]
#: Default seed of the random numbers that dropout draws.
DEFAULT_SEED = 0


@dataclass(frozen=True)
class State:
    """Everything that training continues from.

    Attributes:
        tensors: weights, buffers, optimizer state and the counter of the random numbers, by C symbol.
        step: optimizer steps taken.
    """

    tensors: dict[str, Array]
    step: int


@dataclass(frozen=True)
class Run:
    """What a run of training produced.

    Attributes:
        losses: float32, one per micro-batch.
        parameters: after the last step, by name; frozen ones included.
        buffers: running statistics and other buffers after the last step, by name.
        state: what `Build.run` continues from.
        seconds: time spent inside the compiled program.
        train_cycles: cycles of the forward and backward passes, or None where the target does not count.
        opt_cycles: cycles of the optimizer steps, or None where the target does not count.
    """

    losses: NDArray[np.float32]
    parameters: dict[str, Array]
    buffers: dict[str, Array]
    state: State
    seconds: float
    train_cycles: int | None
    opt_cycles: int | None
    _gradients: dict[str, Array] | None = field(default=None, repr=False)

    @property
    def gradients(self) -> dict[str, Array]:
        """The gradients that the first optimizer step used, by parameter name, before clipping.

        Raises:
            UserError: if the build fuses the update, so that gradients never exist as a whole.
        """
        if self._gradients is None:
            raise UserError(
                "this build fuses the update behind the gradients; compile with fuse_update=False to read them"
            )
        return self._gradients


@dataclass(eq=False)
class Build:
    """A compiled program; `tilegrad.compile` makes it.

    Attributes:
        observe: what accompanies every later `run`, or None: called with the session when the program is ready to
            train, it gives a context manager that is left when training ends.
        c_project: the generated folder.
        memory: use of every memory level.
        plan: the plan that the code follows.
        target: the target's description.
        training: the training program, or None for an inference-only build.
        inference: the inference graph as imported.
    """

    c_project: Path
    plan: Plan
    target: Target
    training: TrainingProgram | None
    inference: Graph
    inputs: list[Value]
    parameters: dict[str, Value]
    buffers: dict[str, Value]
    outputs: list[Value]
    loss: Loss | None
    optimizer: Optimizer | None
    accumulate: int
    accumulate_mode: str
    bn: str
    clip_norm: float | None
    trainable_names: list[str]
    random_seed: int
    model_aliases: dict[str, str]
    cc: str | None
    sanitize: bool
    optimization: str
    flags: tuple[str, ...]
    progress: Progress | None
    observe: Callable[[Session], contextlib.AbstractContextManager[object]] | None = None
    _program: Program | None = None
    _building: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _last: State | None = None

    @property
    def memory(self) -> dict[str, LevelUse]:
        """Peak, lower bound and capacity in bytes of every memory level."""
        return self.plan.memory

    @property
    def training_graph(self) -> Graph:
        """Forward and backward pass of one micro-batch as derived, before any transformation."""
        return self._training().derived

    @property
    def gradient_values(self) -> dict[str, Value]:
        """The gradient of every trainable parameter in `training_graph`, by name."""
        return self._training().gradients

    @property
    def loss_value(self) -> Value:
        """The loss in `training_graph`."""
        return self._training().loss

    @property
    def weight_bytes(self) -> int:
        """Bytes of the trainable weights."""
        return sum(self.parameters[name].bytes for name in self.trainable_names)

    def _training(self) -> TrainingProgram:
        if self.training is None:
            raise UserError("this is an inference-only build; give `tilegrad.compile` a loss and an optimizer to train")
        return self.training

    @property
    def program(self) -> Program:
        """The program, built on first use; a thread may build it ahead.

        Raises:
            ToolchainError: if the compiler is missing or rejects the project.
        """
        with self._building:
            if self._program is None:
                self._program = self.target.build(
                    self.c_project, cc=self.cc, sanitize=self.sanitize, optimization=self.optimization,
                    flags=self.flags, progress=self.progress,
                )  # fmt: skip
        return self._program

    def check_batches(self, batches: Sequence[Batch]) -> None:
        """Check that `run` can take these batches.

        Raises:
            UserError: if there are none, or one does not fit the compiled shapes and element types.
        """
        training = self._training()
        if not len(batches):
            raise UserError("there are no batches to train on")
        for batch in batches:
            self._feeds(batch, training.target)

    def run(
        self,
        batches: Sequence[Batch],
        steps: int,
        *,
        lr: float | Sequence[float] | None = None,
        state: State | None = None,
        progress: Callable[[int, float], None] | None = None,
    ) -> Run:
        """Train for a number of optimizer steps.

        Args:
            batches: micro-batches ``(inputs..., target)`` of arrays or tensors; cycled.
            steps: optimizer steps; each takes `accumulate` micro-batches.
            lr: learning rate, one number or one per step; None uses the optimizer's.
            state: continue from here, bit for bit as if the run had not been interrupted; None starts from the
                weights of the model.
            progress: called with the number of each finished micro-batch and its loss.

        Raises:
            UserError: if a batch does not fit the compiled shapes, or there are none.
            RunError: if the program fails.
        """
        training = self._training()
        if steps < 1:
            raise UserError(f"steps must be at least 1, not {steps}")
        if not len(batches):
            raise UserError("there are no batches to train on")
        rates = self._rates(lr, steps)
        prepared: dict[int, dict[str, Array]] = {}
        losses: list[float] = []
        gradients: dict[str, Array] | None = None
        trained: list[Transaction] = []
        optimized: list[Transaction] = []
        told = progress or _untold
        first = 0 if state is None else state.step * self.accumulate
        loss_symbol = self._symbol(training.loss_output)
        rate_symbol = self._symbols().get(training.learning_rate)
        with contextlib.ExitStack() as stack:
            session = stack.enter_context(self.program.start())
            _initialise(session)
            self._restore(session, state)
            if self.observe is not None:
                stack.enter_context(self.observe(session))
            for step in range(steps):
                setting = {rate_symbol: np.array(rates[step], np.float32)} if rate_symbol is not None else {}
                for micro in range(self.accumulate):
                    count = first + step * self.accumulate + micro
                    place = count % len(batches)
                    if place not in prepared:
                        prepared[place] = self._feeds(batches[place], training.target)
                    writes = prepared[place] | (setting if training.fused else {})
                    entry = "tilegrad_step" if training.fused else "tilegrad_train"
                    trained.append(session.transact(writes, entry, {loss_symbol: (np.float32, ())}))
                    if not session.deferred:  # else a run would be needed for each
                        losses.append(float(trained[-1].values[loss_symbol]))
                        told(len(losses), losses[-1])
                if not training.fused:
                    wanted = training.gradient_buffers if step == 0 else {}
                    if wanted:
                        gradients = {name: self._read(session, value) for name, value in wanted.items()}
                    optimized.append(session.transact(setting, "tilegrad_optimize", {}))
            for done in trained[len(losses) :]:
                losses.append(float(done.values[loss_symbol]))
                told(len(losses), losses[-1])
            train_cycles = [done.cycles for done in trained]
            opt_cycles = [done.cycles for done in optimized]
            after = self._capture(session, (0 if state is None else state.step) + steps)
            seconds = session.seconds
        self._last = after
        return Run(
            losses=np.array(losses, np.float32),
            parameters=self._named(after, self.parameters),
            buffers=self._named(after, self.buffers),
            state=after,
            seconds=seconds,
            train_cycles=_total(train_cycles),
            opt_cycles=_total(opt_cycles) if opt_cycles else (0 if _total(train_cycles) is not None else None),
            _gradients=gradients,
        )

    def predict(self, *inputs: Any) -> Any:
        """The model's outputs in inference mode, with the weights after the last run (initial ones before any).

        Args:
            inputs: arrays or tensors of the compiled shapes.

        Returns:
            An array where a training build's model returns one tensor, else a tuple of arrays; always a tuple from an
            inference-only build.
        """
        writes = self._input_feeds(inputs, self.inference.inputs)
        symbols = {self._symbol(output): (output.dtype.numpy, output.shape) for output in self.outputs}
        with self.program.start() as session:
            _initialise(session)
            self._restore(session, self._last)
            values = session.transact(writes, "tilegrad_predict", symbols).values
        found = tuple(values[name] for name in symbols)
        return found[0] if len(found) == 1 and self.training is not None else found

    def _symbols(self) -> dict[Value, str]:
        return {s.persistent: symbol(s) for s in self.plan.persistent if s.persistent is not None}

    def _symbol(self, value: Value) -> str:
        return self._symbols()[value]

    def _state_values(self) -> list[Value]:
        training = self.training
        values = [*self.parameters.values(), *self.buffers.values()]
        if training is not None:
            values += training.optimizer_state
            if training.derived.random_step is not None:
                values.append(training.derived.random_step)
        present = self._symbols()
        return [value for value in dict.fromkeys(values) if value in present]

    def _capture(self, session: Session, step: int) -> State:
        return State({self._symbol(v): self._read(session, v) for v in self._state_values()}, step)

    def _read(self, session: Session, value: Value) -> Array:
        return session.read(self._symbol(value), value.dtype.numpy, value.shape)

    def _restore(self, session: Session, state: State | None) -> None:
        if state is None:
            return
        for value in self._state_values():
            name = self._symbol(value)
            if name not in state.tensors or state.tensors[name].shape != value.shape:
                raise UserError(f"the state does not fit this build: {name} is missing or has another shape")
            session.write(name, state.tensors[name])

    def _named(self, state: State, values: dict[str, Value]) -> dict[str, Array]:
        symbols = self._symbols()
        return {
            name: state.tensors[symbols[value]].copy() if value in symbols else np.array(value.data)
            for name, value in values.items()
        }

    def _rates(self, lr: float | Sequence[float] | None, steps: int) -> list[float]:
        if lr is None:
            assert self.optimizer is not None
            return [self.optimizer.lr] * steps
        if isinstance(lr, int | float | np.number):
            return [float(lr)] * steps
        if len(lr) != steps:
            raise UserError(f"{len(lr)} learning rates were given for {steps} steps")
        return [float(rate) for rate in lr]

    def _feeds(self, batch: Batch, target: Value) -> dict[str, Array]:
        if len(batch) != len(self.inputs) + 1:
            raise UserError(f"a batch is {len(self.inputs)} input(s) and the target; got {len(batch)} array(s)")
        assert self.loss is not None
        wanted = as_array(batch[-1], target.name)
        self.loss.check_target(wanted, self._training().derived.results[0].shape)
        feeds = self._input_feeds(batch[:-1], self.inputs)
        feeds[self._symbol(target)] = fit(wanted, target)
        return feeds

    def _input_feeds(self, arrays: Sequence[Any], values: Sequence[Value]) -> dict[str, Array]:
        if len(arrays) != len(values):
            raise UserError(f"the model takes {len(values)} input(s), got {len(arrays)}")
        symbols = self._symbols()
        return {
            symbols[value]: fit(as_array(array, value.name), value)
            for array, value in zip(arrays, values, strict=True)
            if value in symbols
        }


_FAULTS = {
    1: "it fuses separate multiplies and adds (compile with -ffp-contract=off)",
    2: "its fma rounds twice",
    4: "it flushes subnormal numbers to zero",
    8: "its rounding mode is not to nearest",
}


def _initialise(session: Session) -> None:
    """Call the program's init and make sure that its arithmetic is the one that equal results rest on.

    What the session's runner is known for passes: the program's notices tell it.
    """
    started = session.transact({}, "tilegrad_init", {FAULTS: (np.uint32, ())})
    faults = int(started.values[FAULTS]) & ~session.known_faults
    if faults:
        reasons = "; ".join(text for bit, text in _FAULTS.items() if faults & bit)
        raise RunError(f"this build of the program would not give the same bits as others: {reasons}")


def _untold(count: int, loss: float) -> None:
    """Nobody wants to know."""


def _total(cycles: Sequence[int | None]) -> int | None:
    known = [count for count in cycles if count is not None]
    return sum(known) if len(known) == len(cycles) and cycles else None


def as_array(data: Any, name: str) -> Array:
    """A tensor or array as a NumPy array.

    Raises:
        UserError: if it is neither.
    """
    if hasattr(data, "detach"):
        data = data.detach().cpu().numpy()
    array = np.asarray(data)
    if array.dtype.kind not in "fiub":
        raise UserError(f"{name}: expected an array of numbers, got {array.dtype}")
    return array


def fit(array: Array, value: Value) -> Array:
    """An array checked against the compiled shape and converted to the compiled type.

    Raises:
        UserError: if the shape differs, or floats are given where integers are expected.
    """
    if array.shape != value.shape:
        raise UserError(
            f"{value.name} has shape {array.shape}; the program was compiled for {value.shape} (shapes are static)"
        )
    if value.dtype.is_float and array.dtype.kind not in "f":
        raise UserError(f"{value.name} has element type {array.dtype}; the program expects float32")
    if not value.dtype.is_float and array.dtype.kind == "f":
        raise UserError(f"{value.name} has element type {array.dtype}; the program expects {value.dtype.numpy}")
    return np.ascontiguousarray(array.astype(value.dtype.numpy, copy=False))


def compile(
    model: Any,
    example_inputs: Sequence[Any] | None = None,
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
    trainable: str | Sequence[str] = "*",
    accumulate: int = 1,
    accumulate_mode: str = "mean",
    bn: str = "batch",
    target: str | Target = "host",
    out: str | os.PathLike[str] | None = None,
    *,
    freeze: str | Sequence[str] = (),
    clip_norm: float | None = None,
    fuse_update: bool = False,
    seed: int = DEFAULT_SEED,
    cc: str | None = None,
    sanitize: bool = False,
    optimization: str = "-O3",
    flags: Sequence[str] = (),
    optimize: bool = True,
    buffering: str = "auto",
    tiled: bool = True,
    progress: Progress | None = None,
) -> Build:
    """Compile a model's training (or, without loss and optimizer, its inference) to a C project.

    Args:
        model: a ``torch.nn.Module`` (its mode is respected for training), or the path of an ONNX inference model.
        example_inputs: tensors or arrays; their shapes become static. Optional for ONNX models with static shapes.
        loss: one of `tilegrad.losses`.
        optimizer: one of `tilegrad.optim`.
        trainable: glob or globs over parameter names of what is trained (fnmatch, ``*`` crosses dots).
        accumulate: micro-batches per optimizer step.
        accumulate_mode: ``"mean"`` averages the gradients over the micro-batches, ``"sum"`` adds them.
        bn: ``"batch"`` trains with batch statistics, ``"frozen"`` with the running ones.
        target: name of a target, or its description.
        out: folder of the C project; a temporary one by default, deleted with the build.
        freeze: globs of parameters that are not trained.
        clip_norm: largest global norm of the gradients, as ``torch.nn.utils.clip_grad_norm_``.
        fuse_update: update each weight as soon as its gradient is known, where the optimizer step allows it; saves the
            gradient buffers, and `Run.gradients` does not exist.
        seed: seed of the random numbers that dropout draws.
        cc: compiler; the target's default if None.
        sanitize: build with sanitizers.
        optimization: optimisation option of the C compiler.
        flags: further options of the C compiler.
        optimize: fuse and block loops; False gives the plainest C, bit for bit the same results.
        buffering: ``"double"`` lets transfers overlap with kernels, ``"single"`` does not, ``"auto"`` chooses for every
            group of kernels; on targets with a fast memory of their own.
        tiled: cut the work into tiles for the fast memory; without it kernels work on tensors where they are.
        progress: called with a line of text when a stage begins.

    Raises:
        TileGradError: with what is wrong and what to do about it.
    """
    if (loss is None) != (optimizer is None):
        raise UserError("training needs a loss and an optimizer; give both, or neither for inference")
    if not isinstance(accumulate, int | np.integer) or accumulate < 1:
        raise UserError(f"accumulate must be a whole number of micro-batches, at least 1, not {accumulate}")
    if accumulate_mode not in ("mean", "sum"):
        raise UserError(f"accumulate_mode is 'mean' or 'sum', not {accumulate_mode!r}")
    if bn not in ("batch", "frozen"):
        raise UserError(f"bn is 'batch' or 'frozen', not {bn!r}")
    if clip_norm is not None and not clip_norm > 0:
        raise UserError(f"clip_norm must be positive, not {clip_norm}")
    if buffering not in ("auto", "single", "double"):
        raise UserError(f"buffering is 'auto', 'single' or 'double', not {buffering!r}")
    description = get_target(target) if isinstance(target, str) else target
    tell = progress or (lambda line: None)
    tell("importing the model")
    frontend = _Frontend(model, example_inputs, bn)
    inference = frontend.load(training=False)
    program: TrainingProgram | None = None
    forward = inference
    names: list[str] = []
    if loss is not None and optimizer is not None:
        forward = frontend.load(training=True)
        chosen = select_trainable(forward, trainable, [freeze] if isinstance(freeze, str) else list(freeze))
        tell("deriving the training graph")
        _seed_random(forward, seed)
        program = assemble(
            forward, chosen, loss, optimizer, accumulate=accumulate, mean=accumulate_mode == "mean",
            clip_norm=clip_norm, fuse=fuse_update,
        )  # fmt: skip
        names = list(chosen)
        unify(inference, _shared(inference, forward))
    model_inputs = forward.inputs[:-1] if program is not None else forward.inputs
    outputs = _predict_entry(inference)
    entries = [*(program.entries if program is not None else []), clone(inference, "predict")]
    tell("optimising and planning")
    for graph in entries:
        verify_graph(graph)
        transform(graph, optimize=optimize)
        verify_graph(graph)
    plan = plan_program(entries, description, Options(plain=not optimize, tiled=tiled, buffering=buffering))
    validate_plan(plan, entries, description)
    tell("writing C")
    folder = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="tilegrad-")) / "project"

    info = _info(frontend.name, program, loss, optimizer)
    try:
        write_project(plan, folder, info, description.project_files())
    except BaseException:
        if out is None:
            _discard(folder.parent)
        raise
    build = Build(
        c_project=folder, plan=plan, target=description, training=program, inference=inference,
        inputs=list(model_inputs), parameters=dict(forward.parameters), buffers=forward.buffers | {
            name: value for name, value in inference.buffers.items() if name not in forward.buffers
        },
        outputs=outputs, loss=loss, optimizer=optimizer, accumulate=accumulate, accumulate_mode=accumulate_mode, bn=bn,
        clip_norm=clip_norm, trainable_names=names, random_seed=seed, model_aliases=dict(forward.aliases), cc=cc,
        sanitize=sanitize, optimization=optimization, flags=tuple(flags), progress=progress,
    )  # fmt: skip
    if out is None:
        weakref.finalize(build, _discard, folder.parent)
    return build


def _discard(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


class _Frontend:
    """Imports one model once for training and once for inference."""

    def __init__(self, model: Any, example_inputs: Sequence[Any] | None, bn: str) -> None:
        self.model, self.example_inputs, self.bn = model, example_inputs, bn
        self.is_path = isinstance(model, str | os.PathLike)
        self.name = Path(model).name if isinstance(model, str | os.PathLike) else type(model).__name__

    def load(self, *, training: bool) -> Graph:
        """The model's graph in one mode."""
        if self.is_path or type(self.model).__name__ == "ModelProto":
            from tilegrad.frontends.onnx_model import import_onnx

            return import_onnx(
                self.model, example_inputs=self.example_inputs, training=training, frozen_bn=self.bn == "frozen"
            )
        if not hasattr(self.model, "named_parameters"):
            raise UserError(f"expected a torch.nn.Module or the path of an ONNX file, not {type(self.model).__name__}")
        from tilegrad.frontends.torch_export import import_torch
        from tilegrad.frontends.torch_modules import freeze_batch_norm

        if self.example_inputs is None:
            raise UserError("example_inputs are needed for a PyTorch module: their shapes become static")
        module = copy.deepcopy(self.model)
        if not training:
            module.eval()
        elif self.bn == "frozen":
            freeze_batch_norm(module)
        return import_torch(module, self.example_inputs, training=training)


def _seed_random(graph: Graph, seed: int) -> None:
    if graph.random_seed is not None:
        graph.random_seed.data = np.array([seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF], np.uint32)


def _shared(inference: Graph, training: Graph) -> dict[Value, Value]:
    """The tensors of the inference graph that are those of the training graph."""
    shared: dict[Value, Value] = {}
    for name, value in inference.parameters.items():
        if name not in training.parameters:
            raise ModelError(f"parameter {name!r} exists in inference mode only")
        shared[value] = training.parameters[name]
    for name, value in inference.buffers.items():
        if name in training.buffers:
            shared[value] = training.buffers[name]
    for mine, theirs in zip(inference.inputs, training.inputs, strict=False):
        if mine.shape == theirs.shape and mine.dtype is theirs.dtype:
            shared[mine] = theirs
    return shared


def _predict_entry(inference: Graph) -> list[Value]:
    """Give the inference graph outputs that a caller can read; a model's own state does not change."""
    outputs = []
    inference.stores = []
    for position, result in enumerate(inference.results):
        output = Value(f"output{position}", result.shape, result.dtype, Kind.OUTPUT)
        inference.stores.append(Store(output, result))
        outputs.append(output)
    return outputs


def _info(name: str, program: TrainingProgram | None, loss: object, optimizer: object) -> ProjectInfo:
    if program is None:
        return ProjectInfo(f"Inference of {name}, generated by TileGrad.")
    return ProjectInfo(f"Training of {name}, generated by TileGrad.", (f"Loss: {loss}.", f"Optimizer: {optimizer}."))
