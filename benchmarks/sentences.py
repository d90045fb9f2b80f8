"""Draw sentences of docstrings, messages and pages by seed, for somebody else to read.

    python -m benchmarks.sentences [N] [SEED]

prints N sentences (default 200), each with its file and line. The reader, who wrote none of them,
counts those that must be read twice; the number before and after a change of the language is
what shows it.
"""

import ast
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_LEAST_WORDS = 4
_SENTENCE = re.compile(r"(?<=[.;:!?])\s+(?=[A-Z`*{])|\n\s*\n")


def sentences() -> Iterator[tuple[str, str]]:
    """Yield each sentence of the project with its place."""
    for path in sorted((_ROOT / "src").rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node, text in _texts(tree):
            for sentence in _split(text):
                yield f"{path.relative_to(_ROOT)}:{node.lineno}", sentence
    for path in [_ROOT / "README.md", *sorted((_ROOT / "docs").glob("*.md"))]:
        prose = re.sub(r"```.*?```|<[^>]+>", "", path.read_text(), flags=re.DOTALL)
        for sentence in _split(prose):
            yield str(path.relative_to(_ROOT)), sentence


def _texts(tree: ast.Module) -> Iterator[tuple[ast.expr, str]]:
    """Docstrings, and strings of more than a few words, with the values in braces."""
    inside: set[ast.AST] = set()
    for node in ast.walk(tree):
        if node in inside:
            continue
        if isinstance(node, ast.JoinedStr):
            inside.update(ast.walk(node))
            yield (
                node,
                "".join(
                    str(part.value)
                    if isinstance(part, ast.Constant)
                    else "{" + ast.unparse(part.value) + "}"
                    for part in node.values
                    if isinstance(part, ast.Constant | ast.FormattedValue)
                ),
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node, node.value


def _split(text: str) -> Iterator[str]:
    """Sentences of a text; headings, tables, code and lists of names are none."""
    for piece in _SENTENCE.split(text):
        sentence = " ".join(piece.split())
        plain = re.sub(r"[`*_{}\[\]()]", "", sentence)
        if len(re.findall(r"\b[a-z]+\b", plain)) >= _LEAST_WORDS and not re.match(
            r"[#|>]|---|:::", sentence
        ):
            yield sentence


def main(number: int = 200, seed: int = 0) -> None:
    """Print the sentences drawn."""
    known = sorted(set(sentences()))
    for i, (place, sentence) in enumerate(random.Random(seed).sample(known, number), 1):
        print(f"{i}. [{place}] {sentence}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
