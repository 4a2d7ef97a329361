"""The command line. `hyper-meta --help` lists the commands, `hyper-meta COMMAND --help` teaches by
example.

A command first checks its arguments and its configuration, then imports what it needs and works,
so that help and mistakes are answered at once.
"""

from __future__ import annotations

import errno
import importlib
import io
import logging
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from typing import IO

from hyper_meta.cli import (
    benchmark,
    check,
    compare,
    export,
    export_model,
    generate,
    import_tasks,
    methods,
    pipeline,
    predict,
    prepare,
    pretrain,
    sweep,
)
from hyper_meta.cli.parser import USAGE_ERROR, complain, make_parser, refuse_empty
from hyper_meta.core import interrupts
from hyper_meta.core.arguments import QUIET

COMMANDS = (
    *pipeline.COMMANDS,
    check.COMMAND,
    import_tasks.COMMAND,
    prepare.COMMAND,
    pretrain.COMMAND,
    generate.COMMAND,
    predict.COMMAND,
    export.COMMAND,
    export_model.COMMAND,
    compare.COMMAND,
    sweep.COMMAND,
    methods.COMMAND,
    benchmark.COMMAND,
)

HELP = """\
from nothing to a generated network:
  hyper-meta run --config configs/quickstart.py --workdir runs/quickstart
  hyper-meta generate --workdir runs/quickstart \\
      --task "Colour of the top left digit?" --out colour.safetensors
  hyper-meta predict --weights colour.safetensors --answers red,green,blue scene1.png scene2.png

hyper-meta COMMAND --help shows more examples.
"""

FAILED = 1
# A shell's code for a process that a signal ended.
INTERRUPTED, TERMINATED, UNREAD = (
    128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)
)
# What a file system may refuse without being asked wrongly by this program.
REFUSALS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
}

# What jax reads from the environment, as own_numerics sets it: a run has the same numbers in every
# shell.
NUMERICS = {
    "JAX_ENABLE_X64": "0",
    "JAX_DEFAULT_PRNG_IMPL": "threefry2x32",
    "JAX_THREEFRY_PARTITIONABLE": "1",
    "JAX_NUMPY_DTYPE_PROMOTION": "standard",
    "JAX_RANDOM_SEED_OFFSET": "0",
}

# Large arrays come and go at every step: on a CPU a quarter of a MAML step goes into asking for
# their memory in pages of 4 KiB. The C library reads this when a process starts.
HUGE_PAGES = "glibc.malloc.hugetlb=1"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code: 0, 2 for a mistake of the user, 130 or 143 where a
    signal stopped it, 141 where nobody reads on, 1 for a fault of this program. What went wrong is
    one line on stderr, which names the file with the traceback of a fault.

    argv: None for those of this process, which starts over with HUGE_PAGES once they have been
    checked. Raises SystemExit for --help, --version and for arguments that are no command.
    """
    _quiet()
    os.environ.update(NUMERICS)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What a terminal cannot show is written as its code.
            stream.reconfigure(errors="backslashreplace")
    parser = make_parser(
        COMMANDS, description="From a sentence to the weights of a classifier.", epilog=HELP
    )
    arguments, others = parser.parse_known_args(argv)
    refuse_empty(arguments)
    if getattr(arguments, "quiet", False):
        os.environ[QUIET] = "1"
    try:
        work_fn = arguments.command.check(arguments, others)
        if argv is None and arguments.command.computes:
            _start_over_with_huge_pages()
            interrupts.listen()
            hide_torch()
        work_fn()
        sys.stdout.flush()
        if signal.SIGINT in interrupts.heard():  # and lost in a library's callback
            raise KeyboardInterrupt
    except BrokenPipeError:
        # Whoever read it, such as head, has enough. Python would tell so when it ends, too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    except KeyboardInterrupt:
        interrupts.leave_alone()
        complain("interrupted")
        return INTERRUPTED
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            complain(_unexpected(error))
            return FAILED
        complain(_message(error))
        return code
    return 0


def _unexpected(error: Exception) -> str:
    """What is said of a fault of this program, whose traceback goes to the end of the log of the
    work directory, else into a file of its own."""
    kind = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    said = f"{kind} (a fault of hyper-meta, not yours: please report it"
    try:
        with _open_log(error) as file:
            traceback.print_exception(error, file=file)
    except OSError:
        traceback.print_exception(error)
        return f"{said})"
    return f"{said} with {file.name}, where it came from)"


def _open_log(error: Exception) -> IO[str]:
    text = {"encoding": "utf-8", "errors": "backslashreplace"}
    if path := getattr(error, "log_file", None):  # see core.progress.logged
        return open(path, "a", **text)
    return tempfile.NamedTemporaryFile(
        "w", prefix="hyper-meta-", suffix=".log", delete=False, **text
    )


def _start_over_with_huge_pages() -> None:
    """On Linux, unless the caller has tunables of their own; does nothing the second time."""
    if sys.platform == "linux" and sys.orig_argv and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = HUGE_PAGES
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def hide_torch() -> None:
    """Lets transformers, imported here, take PyTorch for missing, unless a module is there already.

    Where PyTorch is installed, transformers imports it for its image processor, which makes no use
    of it and takes longer than all other imports. Only for a process of this program alone.
    """
    if sys.modules.keys().isdisjoint({"torch", "transformers"}):
        sys.modules["torch"] = None  # type: ignore[assignment]
        importlib.import_module("transformers").utils.is_torch_available()  # keeps the answer
        del sys.modules["torch"]


def _quiet() -> None:
    """Keeps the libraries' remarks off the terminal, before they are imported."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore", module=r"PIL\.")
    for name in ("absl", "tensorflow_datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _exit_code(error: Exception) -> int | None:
    """The exit code for what is no fault of this program, else None."""
    from hyper_meta.core.errors import UserError

    if isinstance(error, UserError):
        return USAGE_ERROR
    if isinstance(error, OSError) and error.errno in REFUSALS:
        return USAGE_ERROR
    # Whoever raised an Interrupted has imported its module.
    loop = sys.modules.get("hyper_meta.train.loop")
    if loop and isinstance(error, loop.Interrupted):
        return TERMINATED if signal.SIGTERM.name in str(error) else INTERRUPTED
    return None


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        from hyper_meta.core.files import reason

        return f"{error.filename}: {reason(error)}" if error.filename else reason(error)
    return str(error)
