"""Trains, evaluates and explains a grounding model, and searches with it; --help lists modes and flags.

python launch.py --config=configs/fvmr.py
python launch.py --mode=evaluate --workdir=runs/fvmr_storyboard
"""

import signal

if __name__ == "__main__":
    # Until the command listens, Ctrl-C ends it without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from vmr_jax.modes.launch import command

if __name__ == "__main__":
    command()
