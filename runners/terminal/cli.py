"""What every command line of the runner shares: one-line errors and exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from runners.cells.errors import EXIT_AGAIN, EXIT_USAGE, UserError


class Parser(argparse.ArgumentParser):
    """Argument parser whose errors are one line."""

    def __init__(self, module: str, description: str, **kwargs: object) -> None:
        super().__init__(
            prog=f"python -m {module}",
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **kwargs,  # type: ignore[arg-type]
        )

    def error(self, message: str) -> NoReturn:
        """Print one line and leave with the usage code."""
        fail(message)


def fail(message: object) -> NoReturn:
    """Print one line, even if a bad value has several, and leave with the usage code."""
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(EXIT_USAGE)


def run_main(main: Callable[[], int]) -> NoReturn:
    """Run a command line; a user's mistake becomes one line and exit code 2."""
    try:
        code = main()
    except UserError as error:
        fail(error)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename else error)
    except KeyboardInterrupt:
        print("stopped; run the same command to go on", file=sys.stderr)
        sys.exit(EXIT_AGAIN)
    except (ValueError, RuntimeError) as error:
        if isinstance(error, _mistakes()):
            fail(error)
        raise
    sys.exit(code)


def _mistakes() -> tuple[type[Exception], ...]:
    """Return what packages below raise for a user's mistake; they are loaded only if needed."""
    from algos import UnknownAlgo
    from algos.parts.config import OptionError
    from envs import NoRendering, UnknownTask

    return OptionError, UnknownAlgo, UnknownTask, NoRendering


def check_device(device: str) -> str:
    """Return `device` if this machine has it: cpu, cuda or cuda:N."""
    import torch

    kind = device.partition(":")[0]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    valid = ["cpu", *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count))]
    if device not in valid:
        reason = "" if count or kind != "cuda" else " (torch sees no CUDA device here)"
        raise UserError(f"--device {device}: valid devices are {', '.join(valid)}{reason}")
    return device
