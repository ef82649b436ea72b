"""Words that users of other programs type, and the equivalent here: one table for all error messages.

A row is used if its word is not a setting of the command. Of its advice, the first that is a setting of the command is
given. `{}` stands for the value that was typed.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """Words with the same meaning.

    Attributes:
        words: as they are typed, in lower case, with _ for -, separated by blanks; "precision=16" is only for that
            value.
        here: the equivalents here, best first; a whole command begins with "mlx".
        why: a remark for the user, or "".
    """

    words: str
    here: tuple[str, ...]
    why: str = ""


_STEPS = "training is measured in optimizer steps"
_GPU = "16-bit floats need a GPU; runtime.precision=bf16-mixed does not"
_LATEST = "a run id, or latest, stands for its best checkpoint"

TABLE = (
    Row("lr learning_rate outer_lr meta_lr base_lr", ("optimizer.lr={}",)),
    Row("inner_lr fast_lr adapt_lr adaptation_lr task_lr update_lr alpha", ("algorithm.inner_lr={}",)),
    Row(
        "inner_steps num_inner_steps adapt_steps adaptation_steps num_adaptation_steps update_steps num_updates",
        ("algorithm.inner_steps={}",),
    ),
    Row("optim opt", ("optimizer={}",)),
    Row("sched lr_scheduler lr_scheduler_type schedule", ("scheduler={}",)),
    Row("wd", ("optimizer.weight_decay={}",)),
    Row(
        "epoch epochs num_epochs n_epochs max_epochs num_train_epochs",
        ("steps=N", "episodes=N"),
        f"{_STEPS}, an evaluation in episodes",
    ),
    Row(
        "steps num_steps n_steps max_steps total_steps train_steps iterations num_iterations iters max_iter max_iters"
        " max_train_steps num_batches",
        ("steps={}", "episodes={}"),
        f"{_STEPS}, an evaluation in episodes",
    ),
    Row(
        "episodes num_episodes n_episodes test_episodes eval_episodes num_test_episodes num_test_tasks",
        ("episodes={}", "val_episodes={}"),
    ),
    Row(
        "batch bs batch_size train_batch_size per_device_train_batch_size meta_batch meta_batch_size meta_bsz num_tasks"
        " n_tasks tasks_per_batch",
        ("batch_size={}", "tasks={}", "episodes={}"),
    ),
    Row("ways n_way n_ways num_way num_ways k_way nway", ("way={}",)),
    Row("shots k_shot k_shots n_shot n_shots num_shot num_shots kshot", ("shot={}",)),
    Row("queries n_query n_queries num_query num_queries k_query query_shots test_shots num_test_shots", ("query={}",)),
    Row("gpu=true gpus=true cuda=true use_gpu use_cuda device=cuda device=gpu accelerator=cuda", ("runtime=gpu",)),
    Row("gpu=false gpus=0 cuda=false no_cuda cpu use_cpu device=cpu", ("runtime=cpu",)),
    Row("gpu gpu_id gpu_ids cuda device_id", ("runtime=gpu runtime.devices=[{}]",)),
    Row("device=cuda:0", ("runtime=gpu runtime.devices=[0]",)),
    Row("device accelerator", ("runtime.accelerator={}",)),
    Row("gpus num_gpus n_gpus nproc_per_node", ("runtime=gpu",), "a run computes on one device"),
    Row("fp16 amp half mixed_precision precision=16 precision=fp16", ("runtime.precision=16-mixed",), _GPU),
    Row("bf16 precision=bf16 precision=bfloat16 mixed_precision=bf16", ("runtime.precision=bf16-mixed",)),
    Row("fp32 precision=32 dtype=float32", ("runtime.precision=32-true",)),
    Row("fp64 double precision=64 dtype=float64", ("runtime.precision=64-true",)),
    Row("precision dtype", ("runtime.precision={}",)),
    Row(
        "workers num_workers n_workers dataloader_num_workers jobs n_jobs num_threads n_threads cpus",
        ("runtime.threads={}",),
        "data is loaded during training, without workers; runtime.threads sets the threads that compute",
    ),
    Row("compile torch_compile jit", ("runtime.task_compile={}",)),
    Row("dataset data_set datasets dataset_name", ("data={}",)),
    Row("root data_dir data_root data_path dataset_path datadir data_folder", ("data.root={}", "mlx data make {}")),
    Row("image_size img_size im_size resolution", ("data.size={}",)),
    Row("network net arch architecture backbone_name encoder feature_extractor model model_name", ("backbone={}",)),
    Row(
        "freeze freeze_backbone freeze_encoder frozen", ("backbone.train=none",), "or last:N, norm, a pattern of names"
    ),
    Row("learner algo algorithm_name meta_algorithm meta_learner method", ("algorithm={}",)),
    Row("hidden_size hidden_dim hid_dim width channels filters num_filters n_filters", ("backbone.hidden={}",)),
    Row("n_layers num_layers depth", ("backbone.layers={}",)),
    Row(
        "ckpt=best checkpoint=best ckpt_path=best init_from=best load=best",
        ("ckpt=latest", "init_from=latest"),
        _LATEST,
    ),
    Row("ckpt=last checkpoint=last ckpt_path=last init_from=last", ("ckpt=latest", "init_from=latest"), _LATEST),
    Row(
        "ckpt ckpt_path checkpoint checkpoint_path init init_from init_checkpoint load load_from load_weights"
        " model_path model_name_or_path pretrained restore",
        ("ckpt={}", "init_from={}", "backbone.weights={}"),
    ),
    Row("weights", ("backbone.weights={}", "ckpt={}", "init_from={}")),
    Row("resume resume_from resume_from_checkpoint continue", ("mlx resume RUN",), "mlx runs lists the runs"),
    Row(
        "output output_dir outdir out_dir save_dir save_path log_dir logdir logging_dir results_dir result_dir work_dir"
        " default_root_dir o",
        ("runs_dir={}",),
    ),
    Row("name run_name run_id exp_name experiment_name tag project", ("mlx runs",), "a run is named by its start time"),
    Row("random_seed manual_seed rng_seed rng", ("seed={}",)),
    Row("eval_every val_every eval_steps eval_interval val_interval val_check_interval", ("every.evaluate={}",)),
    Row("log_every log_steps log_interval logging_steps log_every_n_steps print_every", ("every.log={}",)),
    Row("save_every save_steps save_interval checkpoint_every", ("every.save={}",)),
    Row("save_total_limit save_top_k max_to_keep", ("keep={}",)),
    Row("early_stopping early_stopping_patience", ("patience={}",)),
    Row("config cfg config_file config_name recipe experiment exp", ("mlx run experiment={}",)),
    Row("wandb use_wandb weights_and_biases", ("tracker=[wandb]",)),
    Row("mlflow use_mlflow", ("tracker=[mlflow]",)),
    Row("tensorboard use_tensorboard tb", ("tracker=[tensorboard]",)),
    Row("logger loggers report_to trackers tracking", ("tracker=[{}]",)),
    Row(
        "v vv verbose debug log_level",
        ("mlx show latest",),
        "it names the run's folder, where mlx.log has more",
    ),
    Row("q quiet silent no_progress_bar", ("2> mlx.err",), "progress goes to stderr, the result to stdout"),
    Row("dry_run dryrun fast_dev_run", ("mlx validate COMMAND",)),
    Row("sweep grid hparams_search", ("-m KEY=A,B",), "-m runs every combination of comma-separated values"),
)


def row_of(word: str, value: str) -> Row | None:
    """Return the row of a word, one for its value before any other, or None."""
    return row_of_value(word, value) or _ROWS.get(_normal(word))


def row_of_value(word: str, value: str) -> Row | None:
    """Return the row of a word with exactly this value, or None."""
    return _ROWS.get(f"{_normal(word)}={value.lower()}")


def _normal(word: str) -> str:
    return word.lower().replace("-", "_")


_ROWS = {word: row for row in TABLE for word in row.words.split()}
