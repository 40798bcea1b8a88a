"""Trains, evaluates and explains a grounding model, and searches with it; --help lists modes and flags.

python launch.py --config=configs/fvmr.py
python launch.py --mode=evaluate --workdir=runs/fvmr_storyboard
"""

from vmr_jax.modes.launch import cli

if __name__ == "__main__":
    cli()
