"""Run notebooks and store what they print and draw: python -m tests.store_notebooks [name ..], else all.

What is stored depends on the notebook alone, not on who ran it: no execution counts, no times, no metadata.
"""

import os
import re
import struct
import sys
import tempfile
from base64 import b64decode
from importlib import import_module
from pathlib import Path

import nbformat
from ipykernel.kernelspec import make_ipkernel_cmd
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"), key=lambda path: int(path.stem.split("_")[0]))
LIMIT = 180  # seconds

# They compute for longer than they compile, and are compiled a little better than the tests.
LONG = ("2_mini_batches", "3_sweeps", "5_network_norms", "7_higher_orders")
QUICK, BETTER = "optimization_level=0", "optimization_level=1"


class ThisPython(AsyncKernelManager):
    """Whatever kernels are registered on a machine, run the interpreter that runs this."""

    @property
    def kernel_spec(self):
        return KernelSpec(argv=make_ipkernel_cmd(executable=sys.executable), language="python")


def environment(folder, name):
    """A kernel that imports this checkout and leaves the user's own Jupyter and IPython folders alone."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = {"PYTHONPATH": path, "IPYTHONDIR": str(folder), "JUPYTER_CONFIG_DIR": str(folder)}
    if name in LONG:
        own["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "").replace(QUICK, BETTER)
    return os.environ | own


def executed(path, folder):
    """The notebook, run from top to bottom in a folder of its own."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, kernel_manager_class=ThisPython, timeout=LIMIT, coalesce_streams=True, record_timing=False
    )
    client.execute(env=environment(folder, path.stem), cwd=str(folder))
    return notebook


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def normalised(notebook):
    """Without what differs from one run to the next."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
    for cell in code_cells(notebook):
        cell.execution_count = None
        for output in cell.outputs:
            if "data" in output:
                kept = {"text/plain", "image/png"} & set(output.data)
                output.data = nbformat.from_dict({kind: output.data[kind].strip() for kind in sorted(kept)})
                output.metadata = nbformat.from_dict({})
            if "execution_count" in output:
                output.execution_count = None
    return notebook


NUMBER = re.compile(r"[-+]?\d+(?:,\d{3})*(?:\.\d*)?(?:e[-+]?\d+)?|[-+]?\.\d+(?:e[-+]?\d+)?")
# Below this a number is rounding, and differs from one processor to another.
ROUNDING = 1e-9


def unit(number):
    """One in the last digit that is shown."""
    digits, _, power = number.partition("e")
    return 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))


def same_number(stored, fresh, *, rel):
    a, b = (float(number.replace(",", "")) for number in (stored, fresh))
    allowed = max(rel * max(abs(a), abs(b)), 1.01 * max(unit(stored), unit(fresh)))
    return abs(a - b) <= allowed or max(abs(a), abs(b)) < ROUNDING


def same_text(stored, fresh, *, rel=0.05):
    """Are the words the same, and the numbers the same up to what another machine may make of them?"""
    words = [NUMBER.sub("#", text).split() for text in (stored, fresh)]
    numbers = [NUMBER.findall(text) for text in (stored, fresh)]
    return words[0] == words[1] and all(same_number(a, b, rel=rel) for a, b in zip(*numbers, strict=True))


def picture_size(output):
    """Pixels, (width, height)."""
    return struct.unpack(">II", b64decode(output.data["image/png"])[16:24])


def main(names):
    import_module("tests.conftest")  # compiles as the tests do
    for path in NOTEBOOKS:
        if not names or path.stem in names or path.name in names:
            with tempfile.TemporaryDirectory() as folder:
                notebook = normalised(executed(path, Path(folder)))
            nbformat.write(notebook, path)
            print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
