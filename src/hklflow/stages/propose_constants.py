"""Propose the constants of a detector to the calibration store, with key values and gates.

A person accepts or rejects the proposal in the store (`hklflow calibration accept`); scans are
corrected only with accepted constants.
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from hklflow import stage
from hklflow.constants.gate_limits import Gates as Gates

VERSION = 2


class Inputs(stage.Inputs):
    constants: Path
    """Constants of the detector."""
    report: list[Path]
    """Pictures and tables that help to judge the constants."""


class Outputs(stage.Outputs):
    proposed: Path
    """Name of the candidate, and the results of its gates."""


class Params(stage.Params):
    store: Path
    """Folder of the store."""
    name: str
    """Name of the candidate."""
    state: dict[str, Any]
    """Set-points of the instrument that define the state."""
    author: str
    """Author of the proposal."""
    state_schema: Path | None = None
    """JSON file that lists the set-points of a state; None: the list in the package."""
    aliases: dict[str, str] = Field(default_factory=dict)
    """State ids that are replaced: id from the set-points, and the id that is used. Needed if
    a set-point lies on the boundary between two steps.
    """
    gates: Gates = Gates()
    """Limits for accepting the constants."""

    def paths(self, base: Path = Path()) -> dict[str, list[Path]]:
        """Return the input files; the store is not an input, because every proposal changes it."""
        return {"state_schema": [self.state_schema] if self.state_schema else []}


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Compare with the accepted constants, judge, and add the candidate to the store."""
    import tempfile
    from contextlib import ExitStack

    from hklflow.calibration import records
    from hklflow.calibration.states import read_schema, state_of
    from hklflow.calibration.store import Store
    from hklflow.constants import files, gates

    state = state_of("constants", params.state, read_schema(params.state_schema), params.aliases)
    for warning in state.warnings:
        print(f"warning: {warning}")
    store = Store(params.store.expanduser())
    accepted = [v for v in store.versions(state.kind, state.id) if v.status == "accepted"]
    with ExitStack() as stack:
        now = stack.enter_context(files.open_constants(inputs.constants))
        before = None
        if accepted:
            before = stack.enter_context(files.open_constants(accepted[-1].artefact(_FILE)))
        figures = gates.figures(now, before)
        about = now.about
    verdicts = gates.judge(figures, params.gates)
    paths = [inputs.constants, *inputs.report]
    record = {
        "author": params.author,
        "comments": f"constants of {about['detector']}",
        "parentVersion": accepted[-1].number if accepted else None,
        "inputs": [{"path": str(path), "sha256": stage.fingerprint(path)} for path in paths],
        "software": records.software(),
        "metrics": figures,
        "gates": verdicts,
    }
    with tempfile.TemporaryDirectory() as folder:
        parameters = Path(folder) / "parameters.json"
        stage.write_json(parameters, {"source": "constants", "about": about})
        named = {path.name: path for path in inputs.report}
        candidate = store.new_iteration(
            state, params.name, {_FILE: inputs.constants, "parameters.json": parameters, **named},
            record,
        )  # fmt: skip
    stage.write_json(
        outputs.proposed,
        {
            "state": state.id,
            "candidate": candidate.name,
            "iteration": candidate.iteration,
            "compared with version": accepted[-1].number if accepted else None,
            "gates": verdicts,
            "figures": figures,
        },
    )
    failed = [gate["sentence"] for gate in verdicts if not gate["passed"]]
    for sentence in failed:
        print(f"failed: {sentence}")
    print(
        f"proposed as {candidate.name}/{candidate.iteration:02d}, state {state.id}: "
        f"{len(verdicts) - len(failed)} of {len(verdicts)} gates passed; accept it with "
        f"`hklflow calibration accept {candidate.name} --calibration {params.name} ...`"
    )


_FILE = "constants.nxs"

if __name__ == "__main__":
    stage.command(main)
