"""From the options of a command to a compiled program and a verified run: what the commands on a model share."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilegrad.errors import UserError

if TYPE_CHECKING:
    from tilegrad.api import Build
    from tilegrad.cli.options import Machine
    from tilegrad.cli.progress import Progress
    from tilegrad.cli.samples import Samples
    from tilegrad.cli.source import Source
    from tilegrad.report.observe import StepProfile
    from tilegrad.targets import Target
    from tilegrad.verification import Verification

_LOSSES = {"ce": "CrossEntropy", "mse": "MSE", "bce": "BCEWithLogits"}
_LOSS_OPTIONS = ("label_smoothing", "ignore_index")
_OPTIMIZERS = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}
_OPTIMIZER_OPTIONS = ("momentum", "dampening", "nesterov", "weight_decay", "betas", "eps")
_PLAIN_OPTIONS = ("accumulate", "accumulate_mode", "bn", "clip_norm", "fuse_update")


@dataclass(frozen=True)
class Request:
    """What to compile and how, as the command line says.

    Attributes:
        model: MODEL.
        zoo: options of the zoo's models that were given.
        batch: samples per batch, or None.
        seed: of everything that is drawn.
        training: the values of the training options; None for inference.
        machine: where it runs and how it is planned.
        out: folder of the C project.
        cc: compiler, or None for the target's.
        sanitize: build with sanitizers.
        guard: check every access of the kernels against the plan.
        profile: count the first step's cycles by kernel.
        trace: file for a trace of the first step, or None.
    """

    model: str
    zoo: Mapping[str, str]
    batch: int | None
    seed: int
    training: Mapping[str, Any] | None
    machine: Machine
    out: Path
    cc: str | None = None
    sanitize: bool = False
    guard: bool = False
    profile: bool = False
    trace: Path | None = None

    @property
    def watches(self) -> tuple[str, ...]:
        """The options given that need a simulated target."""
        given = {"--guard": self.guard, "--profile": self.profile, "--trace": self.trace is not None}
        return tuple(option for option, wanted in given.items() if wanted)


@dataclass(frozen=True)
class Outcome:
    """A verified run.

    Attributes:
        source: the model.
        build: the compiled program.
        samples: what it was trained on.
        verification: the comparison.
        steps: optimizer steps.
        seconds: time by stage; ``total`` is the time from the command's start.
        profile: the first step's cycles by kernel, or None where nobody asked.
    """

    source: Source
    build: Build
    samples: Samples
    verification: Verification
    steps: int
    seconds: dict[str, float] = field(default_factory=dict)
    profile: StepProfile | None = None


def compile_request(request: Request, progress: Progress) -> tuple[Source, Build]:
    """Find the model and compile it.

    Raises:
        TileGradError: whatever is wrong with the request or the model.
    """
    import tilegrad
    from tilegrad.cli.source import resolve

    arguments = training_arguments(request.training) if request.training is not None else {}
    target = request.machine.describe()
    _check_watching(request, target)
    progress.stage("loading the model")
    source = resolve(request.model, request.zoo, batch=request.batch, seed=request.seed)
    build = tilegrad.compile(
        source.model,
        source.example_inputs,
        target=target,
        buffering=request.machine.buffering,
        tiled=not request.machine.untiled,
        out=request.out,
        seed=request.seed,
        cc=request.cc,
        sanitize=request.sanitize,
        progress=progress.compiler,
        **arguments,
    )
    return source, build


def _check_watching(request: Request, target: Target) -> None:
    from tilegrad.targets import list_targets

    if request.watches and not target.simulated:
        others = ", ".join(other.name for other in list_targets() if other.simulated)
        raise UserError(
            f"{' and '.join(request.watches)}: programs for target {target.name!r} run on a real machine, where they "
            f"cannot be watched; choose a simulated target: {others or 'none is installed'}"
        )
    if request.trace is not None and not request.trace.absolute().parent.is_dir():
        raise UserError(f"--trace: there is no folder {request.trace.absolute().parent}")


def train(request: Request, *, steps: int, data: str | None, progress: Progress) -> Outcome:
    """Compile, build, run and compare; the C is built while the reference is computed.

    Raises:
        TileGradError: whatever goes wrong on the way; a comparison that fails is no error.
    """
    from tilegrad.cli.samples import make_samples
    from tilegrad.report.guard import guarded
    from tilegrad.report.observe import record_step
    from tilegrad.verification import verify

    started = time.monotonic()
    source, build = compile_request(request, progress)
    assert request.training is not None
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(lambda: build.program)

        def tell(line: str) -> None:
            if ahead.done():
                ahead.result()  # a build that failed is worth no further work
            progress.stage(line)

        try:
            tell("preparing the data")
            count = steps * build.accumulate
            loss = str(request.training["loss"])
            samples = make_samples(source, build, loss, count=count, seed=request.seed, data=data)
            build.check_batches(samples.batches)
            if request.guard:
                guarded(build)
            verification = verify(source.model, build, samples.batches, steps, progress=tell)
            profile = None
            if request.profile or request.trace is not None:
                tell("watching one step")
                profile = record_step(build, samples.batches, trace=request.trace)
        except KeyboardInterrupt:
            if not ahead.done():
                progress.note("stopping as soon as the C compiler has ended ...")
            raise
    progress.end()
    seconds = {**progress.seconds, "build": build.program.seconds, "total": time.monotonic() - started}
    return Outcome(source, build, samples, verification, steps, seconds, profile if request.profile else None)


def training_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of `tilegrad.compile` that the training options stand for.

    Raises:
        UserError: an option does not belong to the chosen loss or optimizer, or has a value that is not permitted.
    """
    from tilegrad.training import losses, optimizers

    loss = _make("--loss", options["loss"], _LOSSES, losses, _given(options, _LOSS_OPTIONS))
    settings = {"lr": options["lr"], **_given(options, _OPTIMIZER_OPTIONS)}
    optimizer = _make("--optimizer", options["optimizer"], _OPTIMIZERS, optimizers, settings)
    return {
        "loss": loss,
        "optimizer": optimizer,
        "trainable": list(options["train_only"]) or "*",
        "freeze": list(options["freeze"]),
        **{name: options[name] for name in _PLAIN_OPTIONS},
    }


def _given(options: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: options[name] for name in names if options[name] is not None}


def _make(option: str, choice: str, classes: Mapping[str, str], home: Any, given: Mapping[str, Any]) -> Any:
    """An instance of the class behind a choice, with the options that were given."""
    accepted = {key: inspect.signature(getattr(home, name)).parameters for key, name in classes.items()}
    for name in given:
        if name not in accepted[choice]:
            users = " and ".join(key for key in classes if name in accepted[key])
            spelling = name.replace("_", "-")
            raise UserError(f"--{spelling} does not go with {option} {choice}; it is an option of {users}")
    return getattr(home, classes[choice])(**given)
