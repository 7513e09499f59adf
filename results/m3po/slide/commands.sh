# What made the table beside it.
git checkout ab2a11715256
python -m venv .venv && . .venv/bin/activate
pip install -e '.[all]' jax==0.10.2 flax==0.12.8 optax==0.2.8 mctx==0.0.71 numpy==2.4.6 ale-py==0.12.1 gymnasium==1.4.0 metaworld==3.1.1 mujoco==3.3.0
python -m mow_jax.sweep --config=experiments/toy_slide.py --workdir=runs/slide_seeds --variants=m3po,m3po_pixels --seeds=0,1,2

# m3po, seed 0, at ab2a11715256:
# python -m mow_jax.train --config=experiments/toy_slide.py:m3po --config.seed=0 --workdir=runs/slide_seeds/m3po/0
# m3po_pixels, seed 0, at ab2a11715256:
# python -m mow_jax.train --config=experiments/toy_slide.py:m3po_pixels --config.seed=0 --workdir=runs/slide_seeds/m3po_pixels/0
# m3po, seed 1, at ab2a11715256:
# python -m mow_jax.train --config=experiments/toy_slide.py:m3po --config.seed=1 --workdir=runs/slide_seeds/m3po/1
# m3po_pixels, seed 1, at ab2a11715256:
# python -m mow_jax.train --config=experiments/toy_slide.py:m3po_pixels --config.seed=1 --workdir=runs/slide_seeds/m3po_pixels/1
# m3po, seed 2, at ab2a11715256:
# python -m mow_jax.train --config=experiments/toy_slide.py:m3po --config.seed=2 --workdir=runs/slide_seeds/m3po/2
# m3po_pixels, seed 2, at ab2a11715256:
# python -m mow_jax.train --config=experiments/toy_slide.py:m3po_pixels --config.seed=2 --workdir=runs/slide_seeds/m3po_pixels/2
