# What made the table beside it.
# Each run had 1 CPU core (taskset, --jobs): by rounding, scores depend on it.
git checkout 6ac0e96ea322
python -m venv .venv && . .venv/bin/activate
pip install -e '.[all]' jax==0.10.2 flax==0.12.8 optax==0.2.8 mctx==0.0.71 numpy==2.4.6 ale-py==0.12.1 gymnasium==1.4.0 metaworld==3.1.1 mujoco==3.3.0
python -m mow_jax.sweep --config=experiments/toy_slide.py --workdir=runs/slide_pixels --variants=m3po_pixels --seeds=0,1,2

# m3po_pixels, seed 0, at 6ac0e96ea322:
# python -m mow_jax.train --config=experiments/toy_slide.py:m3po_pixels --config.seed=0 --workdir=runs/slide_pixels/m3po_pixels/0
# m3po_pixels, seed 1, at 6ac0e96ea322:
# python -m mow_jax.train --config=experiments/toy_slide.py:m3po_pixels --config.seed=1 --workdir=runs/slide_pixels/m3po_pixels/1
# m3po_pixels, seed 2, at 6ac0e96ea322:
# python -m mow_jax.train --config=experiments/toy_slide.py:m3po_pixels --config.seed=2 --workdir=runs/slide_pixels/m3po_pixels/2
