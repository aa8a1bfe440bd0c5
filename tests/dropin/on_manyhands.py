"""Runs a program unchanged with Manyhands as joblib's default backend:  python on_manyhands.py PROGRAM [ARGUMENT]...

The last line on stderr is "batches: N", the number of batches that ran on Manyhands' workers.
"""

import os
import runpy
import sys

os.environ["MPLBACKEND"] = "Agg"  # figures are drawn, and shown to nobody
import manyhands.joblib  # noqa: E402

batches = 0
submit = manyhands.joblib.ManyhandsBackend.submit


def counting(*args, **kwargs):
    global batches
    batches += 1
    return submit(*args, **kwargs)


manyhands.joblib.ManyhandsBackend.submit = counting
manyhands.joblib.register()
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
print(f"batches: {batches}", file=sys.stderr)
