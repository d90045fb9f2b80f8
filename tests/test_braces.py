"""Many paths as one word of a shell, held to what bash makes of it."""

import subprocess

import pytest

from hklflow.experiment.braces import braced


def _shell(word: str) -> list[str]:
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {word}"], capture_output=True, text=True, check=True
    )
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize(
    "paths",
    [
        ["a/b"],
        ["a/b", "a/c"],
        ["a/x/1", "a/x/2", "a/y/1", "a/y/2", "b"],
        ["r/300K/r1/p.nxs", "r/300K/r2/p.nxs", "r/100K/r1/p.nxs", "r/100K/r2/p.nxs", "q/1"],
        ["a/b", "a/b", "c/b"],
        ["/a b/$c/{d}", "/a b/$c/e,f", "/a b/~/g"],
        ["a", "a/b", "a"],
    ],
)
def test_many_paths_as_one_word(paths: list[str]) -> None:
    assert _shell(braced(paths)) == paths


def test_many_paths_are_short() -> None:
    paths = [f"results/s/{t}K/{r}/scan.nxs" for t in range(300) for r in ("r1", "r2")]
    word = braced(paths)
    assert word.startswith("results/s/{0K,1K,")
    assert word.endswith("}/{r1,r2}/scan.nxs")
