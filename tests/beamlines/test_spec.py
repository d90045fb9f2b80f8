"""An example of the SPEC plugin for the contract; what it finds is tested with SPEC's formats."""

from .examples import Example, example
from .test_images import write_tiffs

POINTS = 5
HEAD = """\
#F run.spec
#E 1783000000
#D Wed Jul 01 12:00:00 2026
#C run  User = beam
#O0 mu  eta  chi  phi  nu  del
"""


def scan(number, start):
    lines = [
        f"#S {number}  ascan  eta {start} {start + 2} {POINTS - 1} 1",
        "#D Wed Jul 01 12:00:01 2026",
        "#T 1  (Seconds)",
        f"#P0 0 {start} 90 0 0 0",
        "#N 3",
        "#L eta  Seconds  ion",
    ]
    lines += [f"{start + 0.5 * i} 1 {1000 + i}" for i in range(POINTS)]
    return "\n" + "\n".join(lines) + "\n"


@example("spec")
def make(folder):
    folder.mkdir()
    for number in (7, 8):
        write_tiffs(folder / "images" / f"S{number:03d}", f"run_S{number:03d}", n=POINTS)
    (folder / "run.spec").write_text(HEAD + scan(7, 0.0) + scan(8, 10.0))
    return Example(
        folder / "run.spec",
        {("run", "S7", "S7"), ("run", "S8", "S8")},
        ask={"monitor": "ion"},
        options={"wavelength": "0.6"},
    )
