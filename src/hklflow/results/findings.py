"""Findings of the samples of an experiment: sentences, each with the command that shows it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hklflow import stage


@dataclass(frozen=True)
class Finding:
    """One sentence about a sample, and the command that shows it."""

    sample: str
    sentence: str
    command: str


class Findings(Sequence[Finding]):
    """Findings of an experiment; `print` writes the sentences."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self._findings = tuple(findings)

    def __len__(self) -> int:
        return len(self._findings)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        """Return one finding, or several."""
        return self._findings[index]

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._findings)

    def __repr__(self) -> str:
        if not self:
            return "no findings; make them with: snakemake"
        return "\n".join(f"{x.sample}: {x.sentence}\n  {x.command}" for x in self)


def read_findings(files: dict[str, list[Path]]) -> Findings:
    """Return the findings in the files of the samples; files that do not exist have none."""
    return Findings(
        [
            Finding(sample, row["sentence"], row["command"])
            for sample, paths in files.items()
            for path in paths
            if path.is_file()
            for row in stage.read_json(path)["findings"]
        ]
    )
