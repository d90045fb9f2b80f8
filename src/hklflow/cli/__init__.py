"""The command `hklflow`: prepare an experiment, start its workflow and inspect its results.

`snakemake` runs the computing jobs; these commands write its input and start it. The command
modules import heavy packages inside functions, to keep ``--help`` fast.
"""

import os
import shlex
import sys
import traceback
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter

from hklflow import __version__
from hklflow.base import system
from hklflow.base.errors import HklflowError, printable_lines
from hklflow.cli import calibration, constants, next_step
from hklflow.cli.add import add_sample, add_scan
from hklflow.cli.calibrant import calibrant
from hklflow.cli.check import check_experiment
from hklflow.cli.compare import compare
from hklflow.cli.explain import explain
from hklflow.cli.export import export_product
from hklflow.cli.groups import app as groups
from hklflow.cli.import_ini import import_ini
from hklflow.cli.import_scans import import_scans
from hklflow.cli.init import init_experiment
from hklflow.cli.instrument import app as instrument
from hklflow.cli.lattice import app as lattice
from hklflow.cli.mask import app as mask
from hklflow.cli.model import app as model
from hklflow.cli.peaks import app as peaks
from hklflow.cli.peaks_list import list_peaks
from hklflow.cli.plan import plan_scan
from hklflow.cli.show import show
from hklflow.cli.slice import slice_volume
from hklflow.cli.status import show_status
from hklflow.cli.verify import remove, verify
from hklflow.cli.view import view
from hklflow.cli.watch import watch_experiment

app = App(
    name="hklflow",
    help="Single-crystal X-ray rotation data, from raw frames to S(Q) volumes with error bars.",
    version=__version__,
    default_parameter=Parameter(consume_multiple=True, negative_iterable=()),
)
sample = App(name="sample", help="The table of samples.")
scan = App(name="scan", help="The table of scans.")
config = App(name="config", help="The configuration.")

app.command(init_experiment, name="init")
app.command(import_scans, name="import")
app.command(sample)
app.command(scan)
app.command(config)
app.command(mask)
app.command(peaks)
peaks.command(list_peaks, name="list")
app.command(lattice)
app.command(model)
app.command(instrument)
app.command(groups)
app.command(calibration.app)
app.command(constants.app)
app.command(calibrant)
app.command(watch_experiment, name="watch")
app.command(check_experiment, name="check")
app.command(show)
app.command(slice_volume, name="slice")
app.command(view)
app.command(compare)
app.command(export_product, name="export")
app.command(show_status, name="status")
app.command(verify)
app.command(remove)
sample.command(add_sample, name="add")
scan.command(add_scan, name="add")
scan.command(plan_scan, name="plan")
config.command(explain, name="explain")
config.command(import_ini, name="import-ini")
app.register_install_completion_command()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    After an `HklflowError` or a wrong argument, print one line and exit with code 2. After any
    other error, print the traceback and exit with code 1.
    """
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    if tokens[:1] == ["watch"] and "--" in tokens:
        # The words after `--` are another command with its own options.
        dashes = tokens.index("--")
        tokens[dashes:] = [f"--command={shlex.join(tokens[dashes + 1 :])}"]
    try:
        code = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
        if not code:
            next_step.say(app, tokens)
    except (CycloptsError, HklflowError) as error:
        print(printable_lines(f"hklflow: {_one_line(error)}"), file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        # The reader, such as `| head`, has closed the pipe: discard the rest of the output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:  # noqa: BLE001  (every other error is shown in full)
        if (message := system.sentence(error)) is not None:
            print(printable_lines(f"hklflow: {message}"), file=sys.stderr)
            sys.exit(2)
        traceback.print_exc()
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _one_line(error: Exception) -> str:
    # Line breaks in messages of cyclopts are removed; a list of problems has one problem per line.
    return str(error) if isinstance(error, HklflowError) else " ".join(str(error).split())
