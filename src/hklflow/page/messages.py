"""What the stages say about the scans of a sample: each sentence once, the most serious first."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from hklflow.page.content import Page

Severity = Literal["failed", "doubtful", "note"]
_ORDER: tuple[Severity, ...] = ("failed", "doubtful", "note")
_NUMBER = re.compile(r"[−-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


@dataclass
class Message:
    """A sentence, and where it holds.

    Attributes
    ----------
    text : str
        The sentence of the first scan, without the names of scan and product.
    severity : str
        Of a failed gate, of a doubt, or a note that is no reason of a verdict.
    places : list of (str, str, str)
        Scan, rotation (may be empty) and product (may be empty), each once.
    """

    text: str
    severity: Severity
    places: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def where(self) -> str:
        """The places in words, such as ``100K (r1, r2), 200K (r1)``."""
        scans: dict[str, list[str]] = {}
        for scan, rotation, _ in self.places:
            scans.setdefault(scan, [])
            if rotation and rotation not in scans[scan]:
                scans[scan].append(rotation)
        return ", ".join(
            f"{scan} ({', '.join(rotations)})" if rotations else scan
            for scan, rotations in scans.items()
        )


def messages(page: Page) -> list[Message]:
    """Return all sentences, failed scans first; sentences that differ in numbers alone are one.

    The doubts that change cell and orientation most are first, and doubts of a single step about
    all scans are last.
    """
    found: dict[tuple[str, str], Message] = {}
    for severity, scan, sentence in sorted(_sentences(page), key=lambda x: _ORDER.index(x[0])):
        name, _, text = sentence.partition(": ")
        if (said := page.products(scan).get(name)) is None:
            said, text = ("", ""), sentence
        rotation, product = said
        # The page says where a sentence holds.
        text = re.sub(rf"^({re.escape(page.sample)} )?{re.escape(scan)}( at [^:]*)?: ", "", text)
        key = product, _NUMBER.sub("#", text.replace(scan, ""))
        message = found.setdefault(key, Message(text, severity))
        if (scan, rotation, product) not in message.places:
            message.places.append((scan, rotation, product))
    return sorted(found.values(), key=lambda message: _weight(message, page))


def _weight(message: Message, page: Page) -> tuple[int, int, float]:
    """Return the key that sorts messages: severity, then size of the effect."""
    severity = _ORDER.index(message.severity)
    if message.severity != "doubtful":
        return severity, 0, 0.0
    bias = max((_bias(page, scan, message.text) for scan, _, _ in message.places), default=0.0)
    judged = any(not product for _, _, product in message.places)
    everywhere = len({scan for scan, _, _ in message.places}) == len(page.scans) > 1
    return severity, 0 if judged else 1 + everywhere, -bias


def _bias(page: Page, scan: str, text: str) -> float:
    """Return the error of cell and orientation, in σ, that a doubt about a scan reports."""
    figures = page.one(scan, "accepted").get("figures", {})
    records = [x for found in figures.values() if isinstance(found, list) for x in found]
    return max(
        (
            float(x.get("bias in sigma") or 0.0)
            for x in records
            if isinstance(x, dict) and str(x.get("sentence", "")).endswith(text)
        ),
        default=0.0,
    )


def _sentences(page: Page) -> Iterable[tuple[Severity, str, str]]:
    for scan in page.scans:
        judged = page.judged(scan)
        failures = page.failures(scan)
        for sentence in judged.reasons if judged is not None else ():
            yield ("failed" if sentence in failures else "doubtful"), scan, sentence
        for sentence in page.notes(scan):
            yield "note", scan, sentence
