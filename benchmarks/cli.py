"""The ``sgpo`` command: thin, and quick to start (torch is imported by the verb that needs it)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks.commands import cluster, data, provenance, results, runs
from sgpo.core.verifier.pool import VerifierUnavailable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code. A user's mistake ends in one line on stderr and code 2."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        message = "stopped; finished cells are kept, run the same command to continue"
        print("\n" + message, file=sys.stderr)
        return 130
    except (ValueError, OSError, VerifierUnavailable) as error:
        print(f"sgpo: error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sgpo", description=__doc__.split(":")[0])
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for group in (runs, data, cluster, results, provenance):
        group.add(verbs)
    return parser


if __name__ == "__main__":
    sys.exit(main())
