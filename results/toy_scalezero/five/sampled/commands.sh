# What made the table beside it.
# Each run had 1 CPU core (taskset, --jobs): by rounding, scores depend on it.
git checkout 404af5db3ce2
python -m venv .venv && . .venv/bin/activate
pip install -e '.[all]' jax==0.10.2 flax==0.12.8 optax==0.2.8 mctx==0.0.71 numpy==2.4.6 ale-py==0.12.1 gymnasium==1.4.0 metaworld==3.1.1 mujoco==3.3.0 scipy==1.17.1 scikit-learn==1.9.1 opencv-python-headless==5.0.0.93
python -m mow_jax.sweep --config=experiments/toy.py --workdir=runs/systems_toy5 --seeds=10,11,12 --variants=mow,one_equal,scalezero_mixture,scalezero_dense,scalezero_stages,scalezero_kept '--config.checkpoint.milestones=(2000,3000,4000,5500)' --actions=sampled

# mow, seed 10, at 404af5db3ce2:
# python -m mow_jax.train --config=experiments/toy.py:mow --config.seed=10 --workdir=runs/systems_toy5/mow/10 '--config.checkpoint.milestones=(2000,3000,4000,5500)'
# one_equal, seed 10, at 404af5db3ce2:
# python -m mow_jax.train --config=experiments/toy.py:one_equal --config.seed=10 --workdir=runs/systems_toy5/one_equal/10 '--config.checkpoint.milestones=(2000,3000,4000,5500)'
# scalezero_mixture, seed 10, at 404af5db3ce2:
# python -m mow_jax.train --config=experiments/toy.py:scalezero_mixture --config.seed=10 --workdir=runs/systems_toy5/scalezero_mixture/10 '--config.checkpoint.milestones=(2000,3000,4000,5500)'
# scalezero_dense, seed 10, at 404af5db3ce2:
# python -m mow_jax.train --config=experiments/toy.py:scalezero_dense --config.seed=10 --workdir=runs/systems_toy5/scalezero_dense/10 '--config.checkpoint.milestones=(2000,3000,4000,5500)'
# scalezero_stages, seed 10, at 404af5db3ce2:
# python -m mow_jax.train --config=experiments/toy.py:scalezero_stages --config.seed=10 --workdir=runs/systems_toy5/scalezero_stages/10 '--config.checkpoint.milestones=(2000,3000,4000,5500)'
# scalezero_kept, seed 10, at 404af5db3ce2:
# python -m mow_jax.train --config=experiments/toy.py:scalezero_kept --config.seed=10 --workdir=runs/systems_toy5/scalezero_kept/10 '--config.checkpoint.milestones=(2000,3000,4000,5500)'
# mow, seed 11, at 404af5db3ce2:
# python -m mow_jax.train --config=experiments/toy.py:mow --config.seed=11 --workdir=runs/systems_toy5/mow/11 '--config.checkpoint.milestones=(2000,3000,4000,5500)'
# one_equal, seed 11, at 404af5db3ce2:
# python -m mow_jax.train --config=experiments/toy.py:one_equal --config.seed=11 --workdir=runs/systems_toy5/one_equal/11 '--config.checkpoint.milestones=(2000,3000,4000,5500)'
# scalezero_mixture, seed 11, at 404af5db3ce2:
# python -m mow_jax.train --config=experiments/toy.py:scalezero_mixture --config.seed=11 --workdir=runs/systems_toy5/scalezero_mixture/11 '--config.checkpoint.milestones=(2000,3000,4000,5500)'
# scalezero_dense, seed 11, at 404af5db3ce2:
# python -m mow_jax.train --config=experiments/toy.py:scalezero_dense --config.seed=11 --workdir=runs/systems_toy5/scalezero_dense/11 '--config.checkpoint.milestones=(2000,3000,4000,5500)'
# scalezero_stages, seed 11, at 404af5db3ce2:
# python -m mow_jax.train --config=experiments/toy.py:scalezero_stages --config.seed=11 --workdir=runs/systems_toy5/scalezero_stages/11 '--config.checkpoint.milestones=(2000,3000,4000,5500)'
# scalezero_kept, seed 11, at 404af5db3ce2:
# python -m mow_jax.train --config=experiments/toy.py:scalezero_kept --config.seed=11 --workdir=runs/systems_toy5/scalezero_kept/11 '--config.checkpoint.milestones=(2000,3000,4000,5500)'
# mow, seed 12, at 404af5db3ce2:
# python -m mow_jax.train --config=experiments/toy.py:mow --config.seed=12 --workdir=runs/systems_toy5/mow/12 '--config.checkpoint.milestones=(2000,3000,4000,5500)'
# one_equal, seed 12, at 404af5db3ce2:
# python -m mow_jax.train --config=experiments/toy.py:one_equal --config.seed=12 --workdir=runs/systems_toy5/one_equal/12 '--config.checkpoint.milestones=(2000,3000,4000,5500)'
# scalezero_mixture, seed 12, at 404af5db3ce2:
# python -m mow_jax.train --config=experiments/toy.py:scalezero_mixture --config.seed=12 --workdir=runs/systems_toy5/scalezero_mixture/12 '--config.checkpoint.milestones=(2000,3000,4000,5500)'
# scalezero_dense, seed 12, at 404af5db3ce2:
# python -m mow_jax.train --config=experiments/toy.py:scalezero_dense --config.seed=12 --workdir=runs/systems_toy5/scalezero_dense/12 '--config.checkpoint.milestones=(2000,3000,4000,5500)'
# scalezero_stages, seed 12, at 404af5db3ce2:
# python -m mow_jax.train --config=experiments/toy.py:scalezero_stages --config.seed=12 --workdir=runs/systems_toy5/scalezero_stages/12 '--config.checkpoint.milestones=(2000,3000,4000,5500)'
# scalezero_kept, seed 12, at 404af5db3ce2:
# python -m mow_jax.train --config=experiments/toy.py:scalezero_kept --config.seed=12 --workdir=runs/systems_toy5/scalezero_kept/12 '--config.checkpoint.milestones=(2000,3000,4000,5500)'
