"""IPython's magics %px, %%px, %autopx, %pxresult and %pxconfig: code on the engines of a view."""

from __future__ import annotations

import ast
import inspect
import os
import re
import sys
import time
from contextlib import nullcontext
from typing import Any

from IPython.core import magic_arguments
from IPython.core.error import UsageError
from IPython.core.magic import Magics, no_var_expand

from .. import error

__all__ = ["ParallelMagics"]

_argument: Any = magic_arguments.argument
_arguments: Any = magic_arguments.magic_arguments
_parse: Any = magic_arguments.parse_argstring
_Magics: Any = Magics
_plain: Any = no_var_expand

_EXECUTION = [
    (("-b", "--block"), {"action": "store_const", "const": True, "dest": "block", "help": "wait for the engines"}),
    (("-a", "--noblock"), {"action": "store_const", "const": False, "dest": "block", "help": "do not wait: the result is an AsyncResult"}),
    (("--stream",), {"action": "store_const", "const": True, "dest": "stream", "help": "show output as it comes, while waiting"}),
    (("--no-stream",), {"action": "store_const", "const": False, "dest": "stream", "help": "show output at the end"}),
    (("-t", "--targets"), {"type": str, "help": "the engines: 'all', a number, a list, or a slice such as 0:4"}),
    (("--verbose",), {"action": "store_const", "const": True, "dest": "set_verbose", "help": "say where code is run"}),
    (("--no-verbose",), {"action": "store_const", "const": False, "dest": "set_verbose", "help": "say nothing of that"}),
    (("--progress-after",), {"dest": "progress_after_seconds", "type": float, "default": None,
                             "help": "seconds after which a progress bar is shown; 0 at once, -1 never"}),
    (("--signal-on-interrupt",), {"dest": "signal_on_interrupt", "type": str, "default": None,
                                  "help": "the signal, by name or number, that engines get when waiting is interrupted; 0 none"}),
]
_OUTPUT = [
    (("-r",), {"action": "store_const", "dest": "groupby", "const": "order", "help": "--group-outputs=order"}),
    (("-e",), {"action": "store_const", "dest": "groupby", "const": "engine", "help": "--group-outputs=engine"}),
    (("--group-outputs",), {"dest": "groupby", "type": str, "choices": ["engine", "order", "type"], "default": "type",
                            "help": "type: stdout of all engines, then stderr, then what was displayed; engine: all of one engine, then of the next; "
                                    "order: what was displayed first by each, then second, ..."}),
    (("-o", "--out"), {"dest": "save_name", "type": str, "help": "keep the AsyncResult under this name"}),
]


def _with(arguments: list[Any]) -> Any:
    def decorate(f: Any) -> Any:
        for names, options in arguments:
            f = _argument(*names, **options)(f)
        return f

    return decorate


def _like(original: Any, replacement: Any) -> Any:
    """replacement, as a coroutine where original is one."""
    if not (inspect.iscoroutinefunction(original) or inspect.isgeneratorfunction(original)):
        return replacement

    async def awaitable(*args: Any, **kwargs: Any) -> Any:
        return replacement(*args, **kwargs)

    return awaitable


class ParallelMagics(_Magics):  # type: ignore[misc]
    """The magics of one view, whose names end in `suffix`."""

    registered = True
    magics: Any = None
    suffix = ""
    view: Any = None
    last_result: Any = None
    verbose = False
    stream_output = os.environ.get("IPP_NONINTERACTIVE", "") in ("", "0")
    progress_after_seconds: float = 2
    signal_on_interrupt: Any = "SIGINT"
    _autopx = False

    def __init__(self, shell: Any, view: Any, suffix: str = "") -> None:
        self.view = view
        self.suffix = suffix
        line = {"px" + suffix: self.px, "pxresult" + suffix: self.result, "pxconfig" + suffix: self.pxconfig, "autopx" + suffix: self.autopx}
        if not suffix:
            line["result"] = self.result
        self.magics = {"line": line, "cell": {"px" + suffix: self.cell_px}}
        super().__init__(shell=shell)

    def _eval_target_str(self, text: str) -> Any:
        if "all" in text:
            return "all"
        if ":" in text:
            parts = [int(part) if part.strip() else None for part in text.strip("[] ").split(":")]
            return self.view.client.ids[slice(*parts)]
        return ast.literal_eval(text)

    def _eval_signal_str(self, text: str) -> Any:
        return int(text) if text.isdigit() else text

    @_arguments()  # type: ignore[untyped-decorator, misc, unused-ignore]
    @_with(_EXECUTION)  # type: ignore[untyped-decorator, misc, unused-ignore]
    def pxconfig(self, line: str) -> None:
        """Set where and how %px runs code."""
        args = _parse(self.pxconfig, line)
        if args.targets:
            self.view.targets = self._eval_target_str(args.targets)
        if args.block is not None:
            self.view.block = args.block
        if args.set_verbose is not None:
            self.verbose = args.set_verbose
        if args.stream is not None:
            self.stream_output = args.stream
        if args.signal_on_interrupt is not None:
            self.signal_on_interrupt = self._eval_signal_str(args.signal_on_interrupt)
        if args.progress_after_seconds is not None:
            self.progress_after_seconds = args.progress_after_seconds

    @_arguments()  # type: ignore[untyped-decorator, misc, unused-ignore]
    @_with(_OUTPUT)  # type: ignore[untyped-decorator, misc, unused-ignore]
    def result(self, line: str = "") -> None:
        """Show the result of the last %px."""
        args = _parse(self.result, line)
        if self.last_result is None:
            raise UsageError("%pxresult recalls last %px result, which has not yet been used.")
        if args.save_name:
            self.shell.user_ns[args.save_name] = self.last_result
            return
        self.last_result.get()
        self.last_result.display_outputs(groupby=args.groupby)

    @_plain  # type: ignore[untyped-decorator, misc, unused-ignore]
    def px(self, line: str = "") -> Any:
        """Run a line on the engines."""
        return self.parallel_execute(line)

    def _say(self, block: bool) -> None:
        targets = self.view.targets
        many = isinstance(targets, list) and len(targets) > 10
        text = f"{str(targets[:4])[:-1]}, ..., {str(targets[-4:])[1:]}" if many else str(targets)
        print(f"{'Parallel' if block else 'Async parallel'} execution on engine(s): {text}")

    def parallel_execute(self, cell: str, block: bool | None = None, groupby: str = "type", save_name: str | None = None,
                         stream_output: bool | None = None, progress_after: float | None = None, signal_on_interrupt: Any = None) -> Any:
        """Run a cell on the engines; an AsyncResult if it does not wait."""
        block = self.view.block if block is None else block
        stream = self.stream_output if stream_output is None else stream_output
        if self.verbose:
            self._say(block)
        result = self.view.execute(cell, silent=False, block=False)
        result._fname = "%px"
        self.last_result = result
        if save_name:
            self.shell.user_ns[save_name] = result
        if not block:
            return result
        try:
            with result.stream_output() if stream else nullcontext():
                self._await(result, self.progress_after_seconds if progress_after is None else progress_after)
                try:
                    result.get()
                except error.CompositeError as e:
                    if stream and result._output_ready:
                        raise error.AlreadyDisplayedError(e) from None
                    raise
        except KeyboardInterrupt:
            self._interrupt(self.signal_on_interrupt if signal_on_interrupt is None else signal_on_interrupt)
        finally:
            if not stream:
                result.wait_for_output(1)
                if result.done():
                    result.display_outputs(groupby)
        return None

    @staticmethod
    def _await(result: Any, progress_after: float) -> None:
        if progress_after < 0:
            result.wait()
            result.wait_for_output(1)
            return
        until = time.monotonic() + progress_after
        if progress_after and result.wait(progress_after):
            result.wait_for_output(max(until - time.monotonic(), 0.5))
        if not result.done():
            result.wait_interactive()
            result.wait_for_output(1)

    def _interrupt(self, sig: Any) -> None:
        if sig is None:
            raise KeyboardInterrupt
        print(f"Received Keyboard Interrupt. Sending signal {sig} to engines...", file=sys.stderr)
        self.view.client.send_signal(sig, targets=self.view.targets, block=True)

    @_arguments()  # type: ignore[untyped-decorator, misc, unused-ignore]
    @_with(_EXECUTION)  # type: ignore[untyped-decorator, misc, unused-ignore]
    @_with(_OUTPUT)  # type: ignore[untyped-decorator, misc, unused-ignore]
    @_argument("--local", action="store_const", const=True, dest="local", help="run the cell here too")  # type: ignore[untyped-decorator, misc, unused-ignore]
    def cell_px(self, line: str = "", cell: Any = None) -> Any:
        """Run a cell on the engines."""
        args = _parse(self.cell_px, line)
        saved = self.view.targets
        if args.targets:
            self.view.targets = self._eval_target_str(args.targets)
        try:
            sig = self._eval_signal_str(args.signal_on_interrupt) if args.signal_on_interrupt else None
            result = self.parallel_execute(cell, False if args.local else args.block, args.groupby, args.save_name, args.stream,
                                           args.progress_after_seconds, sig)
        finally:
            self.view.targets = saved
        block = self.view.block if args.block is None else args.block
        if args.local:
            self.shell.run_cell(cell)
            if block:
                result.get()
                result.display_outputs(args.groupby)
        return None if block else result

    # ---- all that is typed ------------------------------------------------------------------------------------------

    def autopx(self, line: str = "") -> None:
        """Run all that is typed on the engines, until %autopx is typed again."""
        if self._autopx:
            self._disable_autopx()
        else:
            self._enable_autopx()

    def _enable_autopx(self) -> None:
        self._original_run_cell, self._original_run_nodes = self.shell.run_cell, self.shell.run_ast_nodes
        self.shell.run_cell = _like(self._original_run_cell, self.pxrun_cell)
        self.shell.run_ast_nodes = _like(self._original_run_nodes, self.pxrun_nodes)
        self._autopx = True
        print("%autopx enabled")

    def _disable_autopx(self) -> None:
        if self._autopx:
            self.shell.run_cell, self.shell.run_ast_nodes = self._original_run_cell, self._original_run_nodes
            self._autopx = False
            print("%autopx disabled")

    def pxrun_cell(self, raw_cell: str, *args: Any, **kwargs: Any) -> Any:
        """In place of the shell's run_cell: remember the cell as it was typed."""
        self._px_cell = raw_cell
        return self._original_run_cell(raw_cell, *args, **kwargs)

    def pxrun_nodes(self, *args: Any, **kwargs: Any) -> bool:
        """In place of the shell's run_ast_nodes: run the cell on the engines; whether that failed."""
        if re.search(r"^\s*%autopx\b", self._px_cell):
            self._disable_autopx()
            return False
        try:
            self.parallel_execute(self._px_cell)
        except Exception:
            self.shell.showtraceback()
            return True
        return False
