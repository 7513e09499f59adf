# What made the table beside it.
# Each run had 1 CPU core (taskset, --jobs): by rounding, scores depend on it.
git checkout a2ae0dcbd7a7
python -m venv .venv && . .venv/bin/activate
pip install -e '.[all]' jax==0.10.2 flax==0.12.8 optax==0.2.8 mctx==0.0.71 numpy==2.4.6 ale-py==0.12.1 gymnasium==1.4.0 metaworld==3.1.1 mujoco==3.3.0
python -m mow_jax.sweep --config=experiments/toy_slide.py --workdir=runs/bonus --seeds=0,1,2,3,4 --variants=sparse_tdmpc2,sparse_acts,sparse_none,sparse_clipped,sparse_reward

# sparse_tdmpc2, seed 0, at a2ae0dcbd7a7:
# python -m mow_jax.train --config=experiments/toy_slide.py:sparse_tdmpc2 --config.seed=0 --workdir=runs/bonus/sparse_tdmpc2/0
# sparse_acts, seed 0, at a2ae0dcbd7a7:
# python -m mow_jax.train --config=experiments/toy_slide.py:sparse_acts --config.seed=0 --workdir=runs/bonus/sparse_acts/0
# sparse_none, seed 0, at a2ae0dcbd7a7:
# python -m mow_jax.train --config=experiments/toy_slide.py:sparse_none --config.seed=0 --workdir=runs/bonus/sparse_none/0
# sparse_clipped, seed 0, at a2ae0dcbd7a7:
# python -m mow_jax.train --config=experiments/toy_slide.py:sparse_clipped --config.seed=0 --workdir=runs/bonus/sparse_clipped/0
# sparse_reward, seed 0, at a2ae0dcbd7a7:
# python -m mow_jax.train --config=experiments/toy_slide.py:sparse_reward --config.seed=0 --workdir=runs/bonus/sparse_reward/0
# sparse_tdmpc2, seed 1, at a2ae0dcbd7a7:
# python -m mow_jax.train --config=experiments/toy_slide.py:sparse_tdmpc2 --config.seed=1 --workdir=runs/bonus/sparse_tdmpc2/1
# sparse_acts, seed 1, at a2ae0dcbd7a7:
# python -m mow_jax.train --config=experiments/toy_slide.py:sparse_acts --config.seed=1 --workdir=runs/bonus/sparse_acts/1
# sparse_none, seed 1, at a2ae0dcbd7a7:
# python -m mow_jax.train --config=experiments/toy_slide.py:sparse_none --config.seed=1 --workdir=runs/bonus/sparse_none/1
# sparse_clipped, seed 1, at a2ae0dcbd7a7:
# python -m mow_jax.train --config=experiments/toy_slide.py:sparse_clipped --config.seed=1 --workdir=runs/bonus/sparse_clipped/1
# sparse_reward, seed 1, at a2ae0dcbd7a7:
# python -m mow_jax.train --config=experiments/toy_slide.py:sparse_reward --config.seed=1 --workdir=runs/bonus/sparse_reward/1
# sparse_tdmpc2, seed 2, at a2ae0dcbd7a7:
# python -m mow_jax.train --config=experiments/toy_slide.py:sparse_tdmpc2 --config.seed=2 --workdir=runs/bonus/sparse_tdmpc2/2
# sparse_acts, seed 2, at a2ae0dcbd7a7:
# python -m mow_jax.train --config=experiments/toy_slide.py:sparse_acts --config.seed=2 --workdir=runs/bonus/sparse_acts/2
# sparse_none, seed 2, at a2ae0dcbd7a7:
# python -m mow_jax.train --config=experiments/toy_slide.py:sparse_none --config.seed=2 --workdir=runs/bonus/sparse_none/2
# sparse_clipped, seed 2, at a2ae0dcbd7a7:
# python -m mow_jax.train --config=experiments/toy_slide.py:sparse_clipped --config.seed=2 --workdir=runs/bonus/sparse_clipped/2
# sparse_reward, seed 2, at a2ae0dcbd7a7:
# python -m mow_jax.train --config=experiments/toy_slide.py:sparse_reward --config.seed=2 --workdir=runs/bonus/sparse_reward/2
# sparse_tdmpc2, seed 3, at a2ae0dcbd7a7:
# python -m mow_jax.train --config=experiments/toy_slide.py:sparse_tdmpc2 --config.seed=3 --workdir=runs/bonus/sparse_tdmpc2/3
# sparse_acts, seed 3, at a2ae0dcbd7a7:
# python -m mow_jax.train --config=experiments/toy_slide.py:sparse_acts --config.seed=3 --workdir=runs/bonus/sparse_acts/3
# sparse_none, seed 3, at a2ae0dcbd7a7:
# python -m mow_jax.train --config=experiments/toy_slide.py:sparse_none --config.seed=3 --workdir=runs/bonus/sparse_none/3
# sparse_clipped, seed 3, at a2ae0dcbd7a7:
# python -m mow_jax.train --config=experiments/toy_slide.py:sparse_clipped --config.seed=3 --workdir=runs/bonus/sparse_clipped/3
# sparse_reward, seed 3, at a2ae0dcbd7a7:
# python -m mow_jax.train --config=experiments/toy_slide.py:sparse_reward --config.seed=3 --workdir=runs/bonus/sparse_reward/3
# sparse_tdmpc2, seed 4, at a2ae0dcbd7a7:
# python -m mow_jax.train --config=experiments/toy_slide.py:sparse_tdmpc2 --config.seed=4 --workdir=runs/bonus/sparse_tdmpc2/4
# sparse_acts, seed 4, at a2ae0dcbd7a7:
# python -m mow_jax.train --config=experiments/toy_slide.py:sparse_acts --config.seed=4 --workdir=runs/bonus/sparse_acts/4
# sparse_none, seed 4, at a2ae0dcbd7a7:
# python -m mow_jax.train --config=experiments/toy_slide.py:sparse_none --config.seed=4 --workdir=runs/bonus/sparse_none/4
# sparse_clipped, seed 4, at a2ae0dcbd7a7:
# python -m mow_jax.train --config=experiments/toy_slide.py:sparse_clipped --config.seed=4 --workdir=runs/bonus/sparse_clipped/4
# sparse_reward, seed 4, at a2ae0dcbd7a7:
# python -m mow_jax.train --config=experiments/toy_slide.py:sparse_reward --config.seed=4 --workdir=runs/bonus/sparse_reward/4
