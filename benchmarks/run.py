"""Thalweg beside its peers: `make bench`, and `make precision`.

Makes an environment of its own for the peers (.venv-peers), so that they never become dependencies, and runs
`side_by_side.py` (PyTorch's operations) and `engine.py` (the native engine) there. Where the first word is the name of
one of the scripts, it runs that with the other words; `side_by_side --help` lists its.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ["torchdiffeq==0.2.5", "torchode==1.0.1", "diffrax==0.7.2", "jax==0.10.2"]
ENVIRONMENT = ROOT / ".venv-peers"
SCRIPTS = ("side_by_side", "engine", "door", "precision", "stiff")


def environment() -> Path:
    """The Python of the peers' environment, which is made anew when what it should hold has changed."""
    python = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = "\n".join([*PEERS, (ROOT / "constraints.txt").read_text(), (ROOT / "pyproject.toml").read_text()])
    ready = ENVIRONMENT / ".ready"
    if ready.exists() and ready.read_text() == wanted:
        return python
    print("Setting up .venv-peers (a minute or two) ...", flush=True)
    venv.create(ENVIRONMENT, with_pip=True, clear=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "--constraint", str(ROOT / "constraints.txt"), "torch", "numpy", "matplotlib", *PEERS], check=True
    )
    # its other dependencies are for tables and figures; a solve needs torch alone
    subprocess.run([*pip, "--no-deps", "--editable", str(ROOT)], check=True)
    ready.write_text(wanted)
    return python


if __name__ == "__main__":
    words = sys.argv[1:]
    names = (
        [words.pop(0)] if words and words[0] in SCRIPTS else ["side_by_side", "engine"] if not words else SCRIPTS[:1]
    )
    python = environment()
    for name in names:
        subprocess.run([str(python), str(Path(__file__).with_name(f"{name}.py")), *words], check=True)
