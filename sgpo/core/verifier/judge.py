"""Who decides whether two expressions are equal: the judge that answer_compare is handed."""

from __future__ import annotations

from typing import Protocol

from sgpo.core.verifier.shapes import Relation


class Undecided(Exception):
    """The exact rules do not decide; the symbolic judge has to."""


class Judge(Protocol):
    def equal(self, gold: str, answer: str) -> bool:
        """Whether two expressions are equal wherever both are defined."""

    def same_relation(self, gold: Relation, answer: Relation) -> bool:
        """Whether two relations with one operator each hold for the same values."""


class ExactOnly:
    """The judge of the parent process: never guesses, never imports a computer-algebra system."""

    def equal(self, gold: str, answer: str) -> bool:
        raise Undecided

    def same_relation(self, gold: Relation, answer: Relation) -> bool:
        raise Undecided
