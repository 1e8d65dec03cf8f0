"""Parts of a run: processes, on one machine or many, that share its images."""

import math
import re
from dataclasses import dataclass

from detclip2.utils.errors import UserError

_NAME = re.compile(r"part-(\d+)-of-(\d+)\.jsonl")


@dataclass(frozen=True)
class Part:
    """Every `count`-th image, beginning with number `index`: the parts of a run take turns."""

    index: int
    """From 0."""
    count: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """A part as it is written: ``"3/16"`` is the third of 16.

        Raises:
            UserError: it is not written so, or there is no such part.
        """
        number, slash, count = text.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal()):
            raise UserError(f"--part {text}: expected number/count, such as 3/16")
        part = cls(int(number) - 1, int(count))
        if not 0 <= part.index < part.count:
            raise UserError(f"--part {text}: the parts are 1/{count} to {count}/{count}")
        return part

    @classmethod
    def of_journal(cls, name: str) -> "Part | None":
        """The part of a journal by its file name; None if it is no journal of one."""
        found = _NAME.fullmatch(name)
        return cls(int(found[1]) - 1, int(found[2])) if found else None

    @property
    def journal(self) -> str:
        """The name of its journal."""
        return f"part-{self.index + 1}-of-{self.count}.jsonl"

    def __str__(self) -> str:
        return f"part {self.index + 1}/{self.count}"

    def split(self, number: int) -> "list[Part]":
        """This part as `number` smaller ones."""
        return [Part(self.index + self.count * i, self.count * number) for i in range(number)]

    def shares_images_with(self, other: "Part") -> bool:
        """Whether an image of a long enough run is in both (by the Chinese remainder theorem)."""
        return (self.index - other.index) % math.gcd(self.count, other.count) == 0
