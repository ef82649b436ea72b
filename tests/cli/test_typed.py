"""What people type who know other programs: every answer says what to type here."""

import pytest

from metalearn_cli.cli.composing import Composer
from metalearn_cli.cli.faults import _fitting
from metalearn_cli.cli.typed import TABLE
from metalearn_cli.core.config import STAGES

ANSWERS = {
    "pretrain lr=0.1 learning_rate=0.2 optimizer.learning_rate=0.3 model.lr=0.4 training.lr=0.5": tuple(
        f"optimizer.lr=0.{n}" for n in range(1, 6)
    ),
    "pretrain epochs=3 batch=32 trainer.max_steps=20 trainer.max_epochs=3": (
        "steps=N",
        "batch_size=32",
        "steps=20",
        "steps=N",
    ),
    "run step=20 pretrain.step=30": (  # a key that is wrong itself is not advised
        "pretrain.steps=20 or transfer.steps=20 or meta_train.steps=20",
        "pretrain.steps=30",
    ),
    "run lr=0.1 pretrain.step=30 evaluate.episode=20 meta-train.steps=40 pretrain.epochs=3": (
        "pretrain.optimizer.lr=0.1 or transfer.optimizer.lr=0.1 or meta_train.optimizer.lr=0.1",
        "pretrain.steps=30",
        "evaluate.episodes=20",
        "meta_train.steps=40",
        "pretrain.steps=N",
    ),
    "run optim=adamw": "optimizer@pretrain.optimizer=adamw or optimizer@transfer.optimizer=adamw",
    "evaluate steps=10 inner_lr=0.1 report_to=mlflow": ("episodes=10", "algorithm.inner_lr=0.1", "tracker=[mlflow]"),
    "pretrain gpu=0 cuda=1": ("runtime=gpu runtime.devices=[0]", "runtime=gpu runtime.devices=[1]"),
    "pretrain gpu=true device=cuda device_id=2": ("runtime=gpu", "runtime=gpu", "runtime=gpu runtime.devices=[2]"),
    "meta-train algorithm=maml inner_lr=0.1 algorithm.inner_step=5 algorithm.lr=0.01": (
        "algorithm.inner_lr=0.1",
        "algorithm.inner_steps=5",
        "algorithm.inner_lr=0.01",
    ),
    "meta-train MAML": "algorithm=maml",
    "meta-train algorithm=MAML": "maml",
    "meta-train algorithm=ProtoNet": "protonet",
    "meta-train model=conv4": "backbone=conv4",
    "pretrain model=conv4": "backbone=conv4",
    "meta-train method=maml": "algorithm=maml",
    "pretrain --steps 100 --model autoencoder --seed=1": ("steps=100", "model=autoencoder", "seed=1"),
    "pretrain --lr 0.1 --batch-size 8 --fp16 seed=1": ("optimizer.lr=0.1", "batch_size=8", "precision=16-mixed"),
    "pretrain steps = 100": "steps=100",
    "pretrain steps= 100 seed =3": ("steps=100", "seed=3"),
    "pretrain seed 1": "seed=1",
    "evaluate init_from=latest": "ckpt=latest",
    "meta-train ckpt=best": "init_from=latest",
    "meta-train init_from=best shot=0": "init_from=latest",
    "evaluate ckpt=best shot=0": "ckpt=latest",
    "meta-train checkpoint=a init=b": ("init_from=a", "init_from=b"),
    "evaluate checkpoint=a": "ckpt=a",
    "evaluate ckpt=null run_id=x": "mlx runs",
    "pretrain -v": "mlx show latest",
    "-m meta-train algorithm=[maml,protonet]": "-m algorithm=maml,protonet",
    "meta-train algorithm=[maml,protonet]": "-m algorithm=maml,protonet",
    "meta-train batch=32 num_steps=5 max_steps=6 n_way=5 ways=3 num_ways=4 k_shot=1 shots=2 precision=16 workers=4": (
        "tasks=32",
        "steps=5",
        "steps=6",
        "way=5",
        "way=3",
        "way=4",
        "shot=1",
        "shot=2",
        "runtime.precision=16-mixed",
        "runtime.threads=4",
    ),
    "meta-train runtime.precision=16": "runtime.precision=16-mixed",
    "meta-train runtime.accelerator=cuda": "runtime=gpu",
    "meta-train dataset=omniglot network=conv4 model.lr=0.1 optimizer.momentum=0.9": (
        "data=omniglot",
        "backbone=conv4",
        "optimizer.lr=0.1",
        "optimizer=sgd optimizer.momentum=0.9",
    ),
    "meta-train resume=a output_dir=b wandb=true": ("mlx resume RUN", "runs_dir=b", "tracker=[wandb]"),
    "pretrain tracker=mlflow": "tracker=[mlflow]",
    "meta-train experiment=smoke": "mlx run experiment=smoke",
    "pretrain data_dir=x": "mlx data make x",
    "pretrain data=omniglot data_dir=x": "data.root=x",
    "transfer data@alos.x=glyphs": "data@also.x=glyphs",
    "run data@alos.x=glyphs": "data@transfer.also.x=glyphs",
    "pretrain backbone.hiden=8 optimizer.weight_deacy=0.1": ("backbone.hidden=8", "optimizer.weight_decay=0.1"),
    "pretrain optimzer=adamw network=conv": ("optimizer=adamw", "backbone=conv4"),
    "evaluate latest": "ckpt=latest",
    "run backbone=resnet18 weights=w.pth": "backbone.weights=w.pth",
    "meta-train latest:transfer": "init_from=latest:transfer",
    "run stages=meta-train": "stages=[meta-train]",
    "run stages=[meta_train] evaluate.normalisation=inductive": (
        "stages=[meta-train]",
        "evaluate.normalisation=[inductive]",
    ),
    "run stages=pretrain,transfer": "stages=[pretrain,transfer]",
    "evaluate normalisation=inductive": "normalisation=[inductive]",
    "pretrain seed=42,": "seed=42",
    "pretrain seed=[1,2,3]": "-m seed=1,2,3",
    "pretrain seed=1,2": "-m seed=1,2",
    "pretrain --dry-run seed=1": "mlx validate pretrain seed=1",
}
"""What follows "did you mean:", in the lines of the answer: a line for each."""

SENTENCES = {
    "run optimizer=adamw": "is chosen here with optimizer@",
    "evaluate lr=0.1": "optimizer is a setting of pretrain, transfer, meta-train",
    "evaluate tasks=3": "tasks is a setting of meta-train",
    "pretrain algorithm=maml": "algorithm is a setting of meta-train, evaluate",
    "pretrain data=my_photos/": "how a file or folder of your own is read: mlx data make my_photos/",
    "pretrain data=a/b": "how a file or folder of your own is read: mlx data make a/b",
    "transfer data@also.x=glyphs data@also.x=gaussian": "is given twice, glyphs and gaussian; remove one",
    "meta-train algorithm=maml algorithm=protonet": "is given twice, maml and protonet; remove one",
    "pretrain epochs=3 batch=32 trainer.max_steps=20 trainer.max_epochs=3": "training is measured in optimizer steps",
    "pretrain --nonsense": "there is no option --nonsense; settings are written key=value, without dashes",
    "pretrain --dry-run": "there is no option --dry-run",
    "pretrain seed=42,": "has a comma too many",
    "meta-train model=autoencoder": "mlx meta-train has no model; it has",
    "meta-train model=autoencoder seed=0": "model is a setting of pretrain",
    "meta-train network=wavenet": "backbone= takes one of cnn1d, conv4",
    "meta-train inner_lr=0.1": "algorithm.inner_lr is a setting of algorithm=anil or ",
    "meta-train algorithm.inner_lr=0.1": "algorithm.inner_lr is a setting of algorithm=anil or ",
    "meta-train algorithm=protonet inner_lr=0.1": "algorithm.inner_lr is a setting of algorithm=anil or ",
    "run backbone=resnet18 backbone.weights=w.pth": "weights w.pth does not exist, or is no file",
    "evaluate backbone.hidden=16": "is only for ckpt=null: a checkpoint has its own",
    "evaluate ckpt=null backbone.train=none": "train is a setting of what backbone=NAME chooses, which is not typed",
    "run stages=[meta-train] transfer.steps=5": "has no effect, because transfer is not in stages",
}

NEVER = {
    "meta-train model=autoencoder": "did you mean",
    "meta-train algorithm=maml algorithm.lr=0.01": "algorithm=",
    "pretrain seed=42,": "mismatched input",
}
"""What an answer must not say."""


@pytest.mark.parametrize("line", dict.fromkeys([*ANSWERS, *SENTENCES, *NEVER]))
def test_answer_says_what_to_type_and_why(mlx, stage, tmp_path, line):
    hints = ANSWERS.get(line, ())
    wanted = hints if isinstance(hints, tuple) else (hints,)
    answer = mlx(*line.split())
    assert (answer.code, answer.out) == (2, "") and not stage and not list(tmp_path.iterdir())
    offered = [part.partition("did you mean: ")[2] for part in answer.err.splitlines()]
    for hint in wanted:
        found = [text for text in offered if hint in text]
        assert len(found) >= wanted.count(hint), f"{hint}\n{answer.err}"
    assert SENTENCES.get(line, "") in answer.err
    assert line not in NEVER or NEVER[line] not in answer.err


def test_every_advice_of_the_table_is_one_that_some_command_can_use():
    composers = [Composer(name) for name in (*STAGES, "run")]
    for row in TABLE:
        for advice in row.here:
            assert any(_fitting(c, c.usual, "", advice) for c in composers), advice


def test_no_word_stands_in_two_rows_that_mean_different_things():
    words = [word for row in TABLE for word in row.words.split()]
    assert sorted({word for word in words if words.count(word) > 1}) == []
