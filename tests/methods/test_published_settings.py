"""The settings that were published, as in a table of the papers and of their commands."""

from ast import literal_eval

import pytest

from condense.methods.recipes import recipe_for

SETTINGS = """
dm     cifar10      10   steps=20000 lr=1 preprocess=standard
dm     cifar10      51   lr=10
paper  cifar10      10   task_balance=0.01 lr=1 preprocess=zca
paper  cifar10      51   lr=10
paper  tinyimagenet 10   task_balance=0.02 lr=1 preprocess=standard
mmd    cifar10      10   steps=20000 lr=1
cafe   cifar10      10   steps=20000 lr=0.1 init=noise layer_weights=(0.1,0.1,1,2)
dc     cifar10      1    outer_loops=1 inner_loops=1 steps=1000 real_batch=256 lr=0.1 momentum=0.5
dc     cifar10      10   outer_loops=10 inner_loops=50 init=noise augment=none net_lr=0.01
dc     cifar10      20   outer_loops=20 inner_loops=25
dc     cifar10      30   outer_loops=30 inner_loops=20
dc     cifar10      40   outer_loops=40 inner_loops=15
dc     cifar10      50   outer_loops=50 inner_loops=10
dc     cifar10      51   outer_loops=50 inner_loops=10
dc     cifar10      11   outer_loops=20 inner_loops=25
dsa    cifar10      10   outer_loops=10 inner_loops=50 init=random augment=dsa net_momentum=0
dd     cifar10      10   steps=20000 real_batch=100 lr=0.01 momentum=0.5 init=noise augment=none
dd     cifar10      10   passes=3 halve_every=2000 first_rate=0.001
dd     mnist        10   first_rate=0.02
kip    cifar10      10   lr=0.04 momentum=0.9 real_batch=500 steps=10000 augment=none
kip    mnist        10   lr=0.01 kernel=fc depth=1 ridge=1e-6
ld     cifar10      10   steps=17600 real_batch=102 lr=1e-3 momentum=0.9 augment=none
ld     cifar100     10   real_batch=10 inner_lr=0.01 inner_batch=50 network_lr=1e-3 patience=50
gmmn   cifar10      10   steps=40000 real_batch=100 lr=1e-3 momentum=0.9 init=noise augment=none
gmmn   tinyimagenet 10   real_batch=5 bandwidths=(0.125,0.25,0.5,1,2)
cgan   cifar10      10   steps=50000 real_batch=10 lr=2e-4 momentum=0.5 latent=100 augment=none
vae    cifar10      10   steps=50000 real_batch=10 lr=1e-3 momentum=0.9 latent=64 augment=none
mtt    cifar10      1    student_steps=50 expert_passes=2 max_start=2 lr=100 rate_lr=1e-7
mtt    cifar10      1    first_rate=0.01 batch=None preprocess=zca steps=5000 momentum=0.5
mtt    cifar10      10   student_steps=30 expert_passes=2 max_start=20 lr=100 rate_lr=1e-5
mtt    cifar10      10   first_rate=1e-3 batch=None preprocess=zca
mtt    cifar10      2    student_steps=30 expert_passes=2 max_start=20
mtt    cifar10      50   student_steps=30 expert_passes=2 max_start=40 lr=1000 rate_lr=1e-5
mtt    cifar10      11   first_rate=1e-3 max_start=40 batch=None preprocess=standard
mtt    cifar100     1    student_steps=20 expert_passes=3 max_start=20 lr=1000 rate_lr=1e-5
mtt    cifar100     1    first_rate=0.01 batch=None preprocess=zca
mtt    cifar100     10   student_steps=20 expert_passes=2 max_start=20 lr=1000 rate_lr=1e-5
mtt    cifar100     10   first_rate=0.01 batch=None preprocess=standard
mtt    cifar100     50   student_steps=80 expert_passes=2 max_start=40 lr=1000 rate_lr=1e-5
mtt    cifar100     50   first_rate=0.01 batch=125 preprocess=zca
mtt    tinyimagenet 1    student_steps=10 expert_passes=2 max_start=10 lr=10000 rate_lr=1e-4
mtt    tinyimagenet 1    first_rate=0.01 batch=None preprocess=standard
mtt    tinyimagenet 10   student_steps=20 expert_passes=2 max_start=40 lr=10000 rate_lr=1e-4
mtt    tinyimagenet 10   first_rate=0.01 batch=200 preprocess=standard
mtt    tinyimagenet 50   student_steps=20 expert_passes=2 max_start=40 lr=10000 rate_lr=1e-4
mtt    tinyimagenet 50   first_rate=0.01 batch=300 preprocess=standard
mtt    svhn         50   student_steps=20 expert_passes=2 max_start=20 lr=1000 preprocess=standard
"""
"""Recipe, dataset, images per class, and what it then says. Of SVHN no settings are published."""
SHAPES = {"mnist": (1, 28, 28), "tinyimagenet": (3, 64, 64)}


@pytest.mark.parametrize("line", SETTINGS.strip().splitlines(), ids=lambda line: line[:24])
def test_a_recipe_says_what_was_published(line: str) -> None:
    name, dataset, ipc, *settings = line.split()
    recipe = recipe_for(name, dataset, SHAPES.get(dataset, (3, 32, 32)), int(ipc))
    for setting in settings:
        field, _, wanted = setting.partition("=")
        found = getattr(recipe if hasattr(recipe, field) else recipe.method, field)
        read = wanted if isinstance(found, str) else literal_eval(wanted)
        assert found == read, field
