"""Trains, evaluates and explains a grounding model, and searches with it; the README has a line for each mode.

python launch.py --config=configs/fvmr.py --workdir=runs/fvmr
python launch.py --mode=evaluate --workdir=runs/fvmr
python launch.py --mode=predict --workdir=runs/fvmr --video=ID --query="a person opens the door"
python launch.py --mode=index --workdir=runs/fvmr
python launch.py --mode=search --workdir=runs/fvmr --query="a person opens the door"
python launch.py --mode=serve --workdir=runs/fvmr
"""

from vmr_jax.modes.launch import cli

if __name__ == "__main__":
    cli()
