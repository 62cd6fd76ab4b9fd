"""Options that several commands share, and the options of the zoo's models, which come from the zoo itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tilegrad.errors import UserError

if TYPE_CHECKING:
    from tilegrad.targets import Target

F = TypeVar("F", bound=Callable[..., Any])

MODEL_HELP = (
    "MODEL is a model of the zoo (`tilegrad models`), FILE.py:FACTORY (a function that returns a PyTorch module and "
    "its example inputs), or an ONNX file."
)


def _bytes(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """A number of bytes, at least 1; underscores may group its digits."""
    if value is None:
        return None
    try:
        number = int(value)
    except ValueError:
        number = 0
    if number < 1:
        raise click.BadParameter(f"{value!r} is not a number of bytes; give one such as 128000", ctx, param)
    return number


class ModelCommand(click.Command):
    """A command on a model: it takes the options of all models of the zoo, too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._zoo: list[click.Option] | None = None

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The command's own parameters and those of the zoo."""
        return [*super().get_params(ctx), *self._zoo_options()]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; ``--betas`` takes its two numbers with a comma between them, too."""
        return super().parse_args(ctx, list(_split_pairs(args)))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the zoo's options in a section of their own."""
        zoo = self._zoo_options()
        own = [param for param in self.get_params(ctx) if isinstance(param, click.Option) and param not in zoo]
        for title, options in (("Options", own), ("Options of the zoo's models", zoo)):
            with formatter.section(title):
                formatter.write_dl([record for one in options if (record := one.get_help_record(ctx)) is not None])

    def _zoo_options(self) -> list[click.Option]:
        if self._zoo is None:
            own = {name for param in self.params for name in param.opts}
            self._zoo = [option for option in _zoo_options() if not own.intersection(option.opts)]
        return self._zoo


def _split_pairs(args: Iterable[str]) -> Iterable[str]:
    pair = False
    for arg in args:
        if arg.startswith("--betas=") and "," in arg:
            yield "--betas"
            yield from arg.removeprefix("--betas=").split(",")
        elif pair and "," in arg:
            yield from (part for part in arg.replace(",", " ").split())
        else:
            yield arg
        pair = arg == "--betas"


def _zoo_options() -> list[click.Option]:
    """One option per keyword of any model of the zoo."""
    from tilegrad.models import list_models

    found: dict[str, list[tuple[str, Any]]] = {}
    for entry in list_models():
        for option in entry.options:
            found.setdefault(option.name, []).append((entry.name, option))
    options = []
    for name, users in found.items():
        choices = users[0][1].choices
        shown = f"[{'|'.join(map(str, choices))}]" if choices else type(users[0][1].default).__name__.upper()
        text = "; ".join(f"{model}: {option.help} [default: {option.default}]" for model, option in users)
        options.append(click.Option([f"--{name.replace('_', '-')}"], metavar=shown, help=text))
    return options


#: Levels of memory that a budget can be given for.
LEVELS = ("l1", "l2", "l3")


def take_zoo_options(values: dict[str, Any]) -> dict[str, str]:
    """Take the zoo's options out of a command's values.

    Returns:
        The given ones: name to text.
    """
    from tilegrad.models import list_models

    names = dict.fromkeys(option.name for entry in list_models() for option in entry.options)
    taken = {name: values.pop(name) for name in names if name in values}
    return {name: value for name, value in taken.items() if value is not None}


def require_options(model: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse the zoo's options that a model does not have.

    Raises:
        UserError: naming the models that have the option.
    """
    from tilegrad.models import list_models

    accepted = set(known)
    for name in given:
        if name not in accepted:
            users = [entry.name for entry in list_models() if any(option.name == name for option in entry.options)]
            raise UserError(f"{model} has no option --{name.replace('_', '-')}; it is one of {', '.join(users)}")


def _decorate(options: list[Callable[[F], F]]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def model_options() -> Callable[[F], F]:
    """MODEL, and what decides its inputs and initial weights."""
    return _decorate(
        [
            click.argument("model"),
            click.option(
                "--batch",
                type=click.IntRange(1),
                metavar="N",
                help="Samples per batch. [default: 1, or that of the example inputs]",
            ),
            click.option(
                "--seed",
                type=click.IntRange(0, 2**32 - 1),
                default=0,
                metavar="N",
                show_default=True,
                help="Of initial weights, synthetic data and dropout.",
            ),
        ]
    )


def training_options() -> Callable[[F], F]:
    """Everything that decides the training program."""
    return _decorate(
        [
            click.option(
                "--loss",
                type=click.Choice(["ce", "mse", "bce"]),
                default="ce",
                show_default=True,
                help="Cross-entropy, mean squared error, or binary cross-entropy with logits.",
            ),
            click.option("--label-smoothing", type=float, metavar="X", help="Of cross-entropy. [default: 0]"),
            click.option(
                "--ignore-index", type=int, metavar="N", help="Label that cross-entropy skips. [default: -100]"
            ),
            click.option(
                "--optimizer",
                type=click.Choice(["sgd", "adam", "adamw"]),
                default="sgd",
                show_default=True,
                help="As in torch.optim.",
            ),
            click.option("--lr", type=float, metavar="X", default=1e-3, show_default=True, help="Learning rate."),
            click.option("--momentum", type=float, metavar="X", help="Of SGD. [default: 0]"),
            click.option("--dampening", type=float, metavar="X", help="Of SGD's momentum. [default: 0]"),
            click.option("--nesterov", is_flag=True, default=None, help="Nesterov momentum, for SGD."),
            click.option(
                "--weight-decay", type=float, metavar="X", help="As in torch.optim. [default: 0; adamw: 0.01]"
            ),
            click.option("--betas", type=float, metavar="X X", nargs=2, help="Of Adam and AdamW. [default: 0.9 0.999]"),
            click.option("--eps", type=float, metavar="X", help="Of Adam and AdamW. [default: 1e-8]"),
            click.option(
                "--accumulate",
                type=click.IntRange(1),
                metavar="N",
                default=1,
                show_default=True,
                help="Micro-batches whose gradients one optimizer step uses.",
            ),
            click.option(
                "--accumulate-mode",
                type=click.Choice(["mean", "sum"]),
                default="mean",
                show_default=True,
                help="How their gradients are combined.",
            ),
            click.option(
                "--train-only",
                multiple=True,
                metavar="GLOB",
                help="Train only the parameters whose names match; may be repeated.",
            ),
            click.option(
                "--freeze",
                multiple=True,
                metavar="GLOB",
                help="Do not train the parameters whose names match; may be repeated.",
            ),
            click.option(
                "--bn",
                type=click.Choice(["batch", "frozen"]),
                default="batch",
                show_default=True,
                help="Batch norm with the batch's statistics or the running ones.",
            ),
            click.option("--clip-norm", type=float, metavar="X", help="Clip the gradients' global norm to this."),
            click.option(
                "--fuse-update",
                is_flag=True,
                help="Update a weight as soon as its gradient is known: no gradient buffers.",
            ),
        ]
    )


def target_option() -> Callable[[F], F]:
    """The target that the C is for."""
    return _decorate(
        [
            click.option(
                "--target",
                metavar="NAME",
                default="host",
                show_default=True,
                help="Where it runs; see `tilegrad targets`.",
            ),
            click.option(
                "--cores",
                type=click.IntRange(1),
                metavar="N",
                help="Cores that share the work, for targets with several. [default: all]",
            ),
            click.option("--runner", metavar="NAME", help="What runs the program, for targets with a choice."),
            *(
                click.option(
                    f"--{level}",
                    callback=_bytes,
                    metavar="BYTES",
                    help=f"Budget of memory {level.upper()}: tensors, buffers and stacks. [default: the target's]",
                )
                for level in LEVELS
            ),
            click.option(
                "--buffering",
                type=click.Choice(["auto", "single", "double"]),
                default="auto",
                show_default=True,
                help="Whether transfers overlap with kernels; auto chooses for every group.",
            ),
            click.option("--untiled", is_flag=True, help="No tiles: kernels work on tensors where they are."),
        ]
    )


@dataclass(frozen=True)
class Machine:
    """Where a program runs and how it is planned, as the command line says.

    Attributes:
        target: name of the target.
        cores: cores that share the work, or None for all.
        runner: what runs the program, or None for the target's choice.
        budgets: bytes by level of memory, where given.
        buffering: ``auto``, ``single`` or ``double``.
        untiled: no tiles.
    """

    target: str = "host"
    cores: int | None = None
    runner: str | None = None
    budgets: Mapping[str, int] = field(default_factory=dict)
    buffering: str = "auto"
    untiled: bool = False

    def describe(self) -> Target:
        """The target's description.

        Raises:
            UserError: there is no such target, or it does not have what is asked for.
        """
        from tilegrad.targets import get_target

        found = get_target(self.target)
        if self.cores is not None:
            found = found.with_cores(self.cores)
        if self.runner is not None:
            found = found.with_runner(self.runner)
        for level, budget in self.budgets.items():
            found = found.with_memory(level, budget)
        return found


def take_machine(values: dict[str, Any]) -> Machine:
    """Take the options of `target_option` out of a command's values."""
    budgets = {level: values.pop(level) for level in LEVELS}
    return Machine(
        values.pop("target"), values.pop("cores"), values.pop("runner"),
        {level.upper(): budget for level, budget in budgets.items() if budget is not None},
        values.pop("buffering"), values.pop("untiled"),
    )  # fmt: skip
