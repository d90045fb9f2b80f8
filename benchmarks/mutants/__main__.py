"""The command line; see the package's own text."""

import argparse
import tempfile
from pathlib import Path

from benchmarks.mutants import draw, reach, run

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutants", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("draw", help="draw mutants of a checkout")
    one.add_argument("--seed", type=int, required=True)
    one.add_argument("--number", type=int, required=True, help="not counting equivalent ones")
    two = commands.add_parser("reach", help="which tests reach which lines")
    two.add_argument("--tests", nargs="+", default=["tests"], help="files, folders or single tests")
    two.add_argument("--workers", type=int, default=2, help="of pytest-xdist; 0: none")
    three = commands.add_parser("run", help="run the tests that reach each mutant")
    three.add_argument("--mutants", type=Path, required=True)
    three.add_argument("--reach", type=Path, required=True)
    three.add_argument("--only", help="ids, packages, `kernel` or `plain`, by commas")
    three.add_argument("--jobs", type=int, default=2)
    three.add_argument(
        "--keep-going-seconds", type=float, help="no mutant is begun after so long; call again"
    )
    three.add_argument(
        "--at-most", type=float, help="seconds for one mutant, which is `unfinished` after that"
    )
    for command in (one, two, three):
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--repo", type=Path, default=ROOT, required=command is not one)
    for command in (two, three):
        command.add_argument("--venv-python", type=Path, required=True)
        work = Path(tempfile.gettempdir()) / "hklflow-mutants"
        command.add_argument("--work", type=Path, default=work, help=f"default: {work}")
        command.add_argument(
            "--cold", action="store_true", help="do not compile all kernels first; for a few tests"
        )
    given = parser.parse_args()
    {"draw": draw.main, "reach": reach.main, "run": run.main}[given.command](given)


main()
