# SPDX-License-Identifier: BSD-3-Clause
"""The commands and their options; exit status 2 for bad input, 1 for failure, 130 at Ctrl-C."""

import math
import sys
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, TypeVar

import click
import numpy as np

from .. import __version__, build_info
from .._typing import Array
from .blocks import OfSamples, Predictions, labels, largest, spread
from .errors import BadInput, Failure, printable, required
from .outputs import Output, check_outputs, output
from .scoring import DEFAULT_CHUNK, Interrupted, Job, score
from .sources import Source, open_source
from .tally import KINDS, Choices, Tally

MAX_PARTS = 1 << 17  # states of classes or groups that are kept at a time: 365 MB
SHELLS = ("bash", "zsh", "fish")

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Problem(click.ClickException):
    """What went wrong, in a line, with its exit status."""

    def __init__(self, error: Exception, status: int) -> None:
        super().__init__(printable(str(error)))
        self.exit_code = status  # type: ignore[misc]


class Commands(click.Group):
    """Commands whose ends are told by their exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BadInput as error:
            raise Problem(error, 2) from error
        except Failure as error:
            raise Problem(error, 1) from error
        except BrokenPipeError:
            raise
        except OSError as error:
            raise Problem(error, 1) from error
        except MemoryError as error:
            raise Problem(Failure(f"not enough memory: {error}".rstrip(": ")), 1) from error
        except Interrupted as error:
            click.echo(f"nll: {error}. Nothing was written.", err=True)
            sys.exit(130)
        except KeyboardInterrupt:
            click.echo("nll: stopped", err=True)
            sys.exit(130)


class Sectioned(click.Command):
    """A command whose options are listed in sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                section = getattr(parameter, "section", "Options")
                sections.setdefault(section, []).append(record)
        for section, records in sections.items():
            with formatter.section(section):
                formatter.write_dl(records)


class InSection(click.Option):
    """An option of a section of the help."""

    def __init__(self, *args: Any, section: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


def option(section: str, *names: str, **named: Any) -> Callable[[Decorated], Decorated]:
    """Declare an option of a section."""
    decorate: Callable[[Decorated], Decorated] = click.option(
        *names,
        cls=InSection,
        section=section,
        **named,
    )
    return decorate


class IgnoreIndex(click.ParamType):  # type: ignore[type-arg]
    """An integer, or none."""

    name = "INTEGER|none"

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> int | None:
        if value is None or isinstance(value, int):
            return value
        if value == "none":
            return None
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is neither an integer nor none", param, ctx)
        if not -(2**63) <= number < 2**64:
            self.fail(f"{number} is outside [-2^63, 2^64): no label can be that", param, ctx)
        return number


class FileName(click.Path):
    """A name of a file or an array, which is not empty."""

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        if value == "":
            self.fail("it is empty", param, ctx)
        return super().convert(value, param, ctx)


class Finite(click.FloatRange):
    """A number of a range, but for infinities and NaN."""

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{number} is not finite", param, ctx)
        return number


SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=Commands, context_settings=SETTINGS)
@click.version_option(__version__, prog_name="nll")
def nll() -> None:
    """Score saved predictions: exact losses of files of any size."""


FILE = FileName()
WHAT, HOW, MORE, OUT, WORK = "Predictions", "Loss", "Tables", "Results", "Work"


@nll.command("score", cls=Sectioned, context_settings=SETTINGS)
@click.argument("input", type=FILE)
@click.argument("target", type=FILE)
@option(
    WHAT,
    "--kind",
    type=click.Choice(KINDS),
    default="logits",
    show_default=True,
    help="What INPUT holds. Log-probabilities may be called logits, too: their loss is the same.",
)
@option(WHAT, "--axis", type=int, help="Class axis of INPUT.  [default: 1; with --shift -1]")
@option(
    WHAT,
    "--dtype",
    type=click.Choice(["bfloat16"]),
    help="What raw elements of two bytes are.",
)
@option(
    WHAT,
    "--shift",
    is_flag=True,
    help="Predictions are of the next token: position i of INPUT is scored with label i + 1.",
)
@option(HOW, "--weight", type=FILE, help="Weight of each class, (C,).")
@option(
    HOW,
    "--sample-weight",
    type=FILE,
    help="Weight of each sample: of TARGET's shape, or broadcast to it.",
)
@option(
    HOW,
    "--ignore-index",
    type=IgnoreIndex(),
    default=-100,
    show_default=True,
    help="Label of samples to leave out.",
)
@option(
    HOW,
    "--index-base",
    type=int,
    default=0,
    show_default=True,
    help="Label of the first class.",
)
@option(
    HOW,
    "--label-smoothing",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Of logits, as PyTorch has it.",
)
@option(
    HOW,
    "--reduction",
    type=click.Choice(["mean", "sum"]),
    default="mean",
    show_default=True,
    help="What to show first. --per-sample has the loss of each.",
)
@option(
    MORE,
    "--loss-only",
    is_flag=True,
    help="No accuracy and calibration, which take longer than the loss.",
)
@option(MORE, "--per-class", is_flag=True, help="A table by class.")
@option(
    MORE,
    "--group",
    type=FILE,
    help="Group of each sample, from 0 on: of TARGET's shape, or of its first axes.",
)
@option(
    MORE,
    "--worst",
    type=click.IntRange(0, 10**6),
    default=0,
    metavar="K",
    help="The K samples of largest loss.",
)
@option(
    MORE,
    "--compare",
    type=FILE,
    metavar="OTHER",
    help="Predictions of the same kind and shape to compare with.",
)
@option(
    OUT,
    "--per-sample",
    type=FILE,
    metavar="OUT.npy",
    help="Save the loss of each sample, float64.",
)
@option(
    OUT,
    "--json",
    "json_file",
    type=FILE,
    help="Save everything, for programs and `nll merge` (see `nll schema`).",
)
@option(OUT, "--plot", type=FILE, help="Save a picture: .png, .svg, .pdf.")
@option(
    WORK,
    "--threads",
    type=click.IntRange(1, 256),
    help="Threads.  [default: what nll.get_num_threads() says]",
)
@option(
    WORK,
    "--chunk",
    type=Finite(0, min_open=True),
    default=DEFAULT_CHUNK,
    show_default=True,
    metavar="MIB",
    help="Predictions that a thread takes at a time.",
)
def score_command(input: str, target: str, **chosen: Any) -> None:
    """Score predictions in INPUT against the labels in TARGET.

    INPUT has shape (N, C, d1, ..., dk), TARGET the same without the class axis. A file is a .npy,
    which is mapped and may be larger than memory; a .npz; a .safetensors; a Zarr array; or a quoted
    glob of such files, joined along the first axis, 2 before 10. FILE:NAME names an array in a file
    that has several. Nothing is ever unpickled. A file that is mapped must not become shorter
    meanwhile: the system ends the process then (SIGBUS).

    The results are the same for any number of threads, any chunk, and parts that `nll merge` adds
    up. The standard error holds for samples that are independent. The expected calibration error is
    that of 15 bins.

    \b
      nll score logits.npy labels.npy --per-class --worst 10
      nll score 'shards/logits-*.npy' tokens.npy --shift --json run.json
      nll score model.safetensors:logits labels.npy --compare base.safetensors:logits

    Exit status: 0, 1 after a failure, 2 for bad input, 130 after Ctrl-C.
    """
    if chosen["plot"] is not None and chosen["loss_only"]:
        raise click.UsageError(
            "--plot shows accuracy and calibration, which --loss-only leaves out",
        )
    job = job_of(input, target, chosen)
    outputs = [chosen[key] for key in ("per_sample", "json_file", "plot")]
    inputs = [name for names in job.files.values() for name in names]
    check_outputs(dict(zip(("--per-sample", "--json", "--plot"), outputs, strict=True)), inputs)
    with results(*outputs[1:]) as files:
        with losses_at(outputs[0], job) as losses, watched(job) as progress:
            job.per_sample = losses
            tally = score(job, threads=chosen["threads"], chunk=chosen["chunk"], progress=progress)
        report(tally, chosen["per_class"], *files)


def job_of(input: str, target: str, chosen: dict[str, Any]) -> Job:
    """Open the files, and check that they belong together."""
    shift = chosen["shift"]
    axis = chosen["axis"] if chosen["axis"] is not None else (-1 if shift else 1)
    predictions = Predictions(noted(open_source(input, chosen["dtype"])), axis, shift)
    target_source = noted(open_source(target))
    of_samples = labels(target_source, predictions, shift)
    files = {"input": predictions.source.files, "target": target_source.files}
    kind = chosen["kind"]
    floats(predictions.source)
    if kind != "logits" and chosen["label_smoothing"]:
        raise BadInput(f"--label-smoothing is for logits, not {kind}")

    weight: Array | None = None
    if chosen["weight"] is not None:
        source = noted(open_source(chosen["weight"]))
        weight = source.read(tuple(slice(0, size) for size in source.shape))
        if weight.shape != (predictions.classes,):
            problem = f"shape {weight.shape}, but there are {predictions.classes} classes"
            raise BadInput(f"{source.files[0]} has {problem}")
        files["weight"] = source.files
    sample_weight = group = other = None
    groups = 0
    if chosen["sample_weight"] is not None:
        source = noted(open_source(chosen["sample_weight"]))
        files["sample_weight"] = source.files
        sample_weight = spread(source, of_samples, shift)
    if chosen["group"] is not None:
        source = noted(open_source(chosen["group"]))
        files["group"] = source.files
        group, groups = grouped(source, of_samples, shift)
    if chosen["compare"] is not None:
        source = noted(open_source(chosen["compare"], chosen["dtype"]))
        floats(source)
        files["compare"] = source.files
        other = Predictions(source, axis, shift)
        if source.shape != predictions.source.shape:
            problem = f"but {predictions.source.files[0]} has {predictions.source.shape}"
            raise BadInput(f"{source.files[0]} has shape {source.shape}, {problem}")
        if weight is not None and chosen["label_smoothing"]:
            raise BadInput("--compare takes --weight or --label-smoothing, not both")
    per_class = bool(chosen["per_class"]) and predictions.classes > 0
    if per_class and predictions.classes > MAX_PARTS:
        raise BadInput(f"--per-class is for at most {MAX_PARTS} classes, not {predictions.classes}")
    if chosen["plot"] is not None and 0 < predictions.classes <= MAX_PARTS:
        per_class = True
    hint(predictions, kind)
    return Job(
        choices=Choices(
            kind=kind,
            classes=predictions.classes,
            ignore_index=chosen["ignore_index"],
            index_base=chosen["index_base"],
            label_smoothing=chosen["label_smoothing"],
            shift=shift,
            reduction=chosen["reduction"],
            weighted=weight is not None,
            sample_weighted=sample_weight is not None,
        ),
        files={key: list(value) for key, value in files.items()},
        predictions=predictions,
        target=of_samples,
        weight=weight,
        sample_weight=sample_weight,
        group=group,
        groups=groups,
        other=other,
        counts=not chosen["loss_only"],
        per_class=per_class,
        worst=chosen["worst"],
    )


def grouped(source: Source, target: OfSamples, shift: bool) -> tuple[OfSamples, int]:
    """Take groups, and tell how many there are."""
    name = source.files[0]
    if source.dtype.kind not in "iu":
        raise BadInput(f"{name} has dtype {source.dtype}; groups must be integers")
    groups = largest(source) + 1
    if groups > MAX_PARTS:
        raise BadInput(f"{name} has groups up to {groups - 1}; at most {MAX_PARTS} are kept apart")
    return spread(source, target, shift, leading=True), max(groups, 1)


def floats(source: Source) -> None:
    if source.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
        rule = "predictions must be float16, bfloat16, float32 or float64"
        raise BadInput(f"{source.files[0]} has dtype {source.dtype}; {rule}")


def noted(source: Source) -> Source:
    """Say what the user should know of a source."""
    for note in source.notes:
        click.echo(f"note: {printable(note)}", err=True)
    return source


def hint(predictions: Predictions, kind: str) -> None:
    """Warn of logits that look like probabilities."""
    if kind != "logits" or not all(predictions.samples) or predictions.classes < 2:
        return
    block = predictions.read(tuple(slice(0, 1) for _ in predictions.samples)).astype(np.float64)
    if (block >= 0).all() and abs(block.sum() - 1) < 1e-2:
        named = printable(predictions.source.files[0])
        click.echo(
            f"note: {named} looks like probabilities: is --kind probabilities meant?",
            err=True,
        )


@contextmanager
def losses_at(path: str | None, job: Job) -> Any:
    """Yield an array on disk for the losses, which gets its name when all of them are there."""
    with output(path) as file:
        if file is None:
            yield None
            return
        shape = job.predictions.samples
        with file.failing():
            losses = np.lib.format.open_memmap(file.partial, "w+", np.float64, shape)
        yield losses
        with file.failing():
            losses.flush()
        file.keep()


@contextmanager
def results(json_path: str | None, plot_path: str | None) -> Any:
    """Yield the files of the object and the picture; what they or the tables lack is told first."""
    required("rich")
    if plot_path is not None:
        from . import plot

        plot.format_of(plot_path)
    with output(json_path) as json_file, output(plot_path) as plot_file:
        yield json_file, plot_file


@contextmanager
def watched(job: Job) -> Any:
    """Yield what shows progress."""
    from .progress import progress_bar

    with progress_bar(math.prod(job.predictions.samples)) as progress:
        yield progress


def report(
    tally: Tally,
    per_class: bool,
    json_file: Output | None,
    plot_file: Output | None,
) -> None:
    """Print the tables, then save the object and the picture."""
    from . import document, plot, table

    found = document.as_object(tally, with_states=json_file is not None)
    table.show(found, per_class=per_class)
    if json_file is not None:
        document.save(json_file, found)
    if plot_file is not None:
        plot.save(plot_file, found)


@nll.command("merge", cls=Sectioned, context_settings=SETTINGS)
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="A.json B.json ...")
@option(OUT, "--json", "json_file", type=FILE, help="Save the sum, which may be merged again.")
@option(OUT, "--plot", "plot_file", type=FILE, help="Save a picture: .png, .svg, .pdf.")
def merge_command(files: tuple[str, ...], json_file: str | None, plot_file: str | None) -> None:
    """Add up results of `nll score --json`.

    The sum has the same bits as one run over all samples, for files in the same order.
    """
    from . import document

    check_outputs({"--json": json_file, "--plot": plot_file}, files)
    tally: Tally | None = None
    for name in files:
        one = document.load(name)
        if tally is None:
            tally = one
        else:
            tally.add(one, name)
    assert tally is not None
    if plot_file is not None and tally.counts is None:
        raise BadInput(f"{files[0]} has no accuracy and calibration, which --plot shows")
    with results(json_file, plot_file) as outputs:
        report(tally, True, *outputs)


@nll.command("info", context_settings=SETTINGS)
def info_command() -> None:
    """Print how nll was built and which of its kernels run here."""
    for key, value in build_info().items():
        click.echo(f"{key}: {value}")


@nll.command("schema", context_settings=SETTINGS)
def schema_command() -> None:
    """Print the JSON Schema of what `nll score --json` saves."""
    from .document import schema

    click.echo(schema(), nl=False)


@nll.command("completion", context_settings=SETTINGS)
@click.argument("shell", type=click.Choice(SHELLS))
def completion_command(shell: str) -> None:
    """Print the completion script of a shell.

    \b
      bash:  echo 'eval "$(nll completion bash)"' >> ~/.bashrc
      zsh:   echo 'eval "$(nll completion zsh)"' >> ~/.zshrc
      fish:  nll completion fish > ~/.config/fish/completions/nll.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(nll, {}, "nll", "_NLL_COMPLETE").source())
