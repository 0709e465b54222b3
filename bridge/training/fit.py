"""Lightning trains a network. Runs in the training process only.

Enters: `Examples` and a `Network`. Leaves: the trained network and its metrics; on the way a
progress record after each epoch, and each second within long ones.
"""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import lightning
import torch

from bridge.errors import InvalidTrainingRequestError
from bridge.training.architectures import Network
from bridge.training.devices import leave, place
from bridge.training.examples import Examples
from bridge.training.feed import Feed, batches_an_epoch
from bridge.training.hyperparameters import Hyperparameters
from bridge.training.judging import judge
from bridge.training.learner import Learner
from bridge.training.losses import make_loss
from bridge.training.slicer import Slicer, Slices, Writer
from bridge.training.streams import Inputs
from bridge.training.watcher import Progress, Watcher

_TELL_EVERY_S = 60.0
_JUDGING_ROWS = 1024
_JUDGING_BYTES = 64 * 1024 * 1024  # of inputs; what a network makes of them is many times as much


def fit(
    network: Network,
    examples: Examples,
    parameters: Hyperparameters,
    slices: Slices,
    report: Callable[[Progress], None],
) -> dict[str, float]:
    """Train `network` in place; afterwards it is on the CPU, in eval mode.

    Args:
        network: untrained, its weights already drawn from the seed.
        examples: rows to train on and to judge by.
        parameters: how.
        slices: where to begin, when to save and stop, and where.
        report: takes `{epoch, epochs, step, steps, loss, metric, value, samples_per_s,
            time_left_s, curve}`; `metric` and `value` are None until validation rows were judged.
            `{stage}` where judging takes long.

    Returns:
        Metrics on the validation rows: `loss`, and `accuracy` or `rmse`, `mae` and `r2`;
        `epochs`, how many were trained; and `training_s`, in how many seconds. Of several processes
        the first alone judges: others have only the last.

    Raises:
        SliceEnded: it is not trained yet.
        TrainingFailedError: the loss became NaN or infinite, or it takes too long.
        InvalidTrainingRequestError: the hyperparameters do not suit the data or this machine.
        CheckpointError: the slice is over, and its checkpoint cannot be written.
    """
    if slices.finished and slices.resume is not None:
        ended = torch.load(slices.resume, weights_only=True)
        network.load_state_dict(ended["network"])
    else:
        ended = _train(network, examples, parameters, slices, report)
        leave()  # what comes now, each does alone
        if place()[0] == 0:
            slices.save(network, ended)
    if place()[0] > 0:  # the first of several judges
        return {"training_s": ended["training_s"]}
    network.to(_device()).eval()
    found = torch.cat(list(_told(answers(network, examples.validation.inputs), report)))
    network.cpu()
    metrics = judge(network.task, found, torch.from_numpy(examples.validation.targets))
    return {**metrics, "epochs": ended["epochs"], "training_s": ended["training_s"]}


def _train(
    network: Network,
    examples: Examples,
    parameters: Hyperparameters,
    slices: Slices,
    report: Callable[[Progress], None],
) -> dict[str, Any]:
    lightning.seed_everything(parameters.seed, workers=True, verbose=False)
    rows = len(examples.train.inputs)
    size = parameters.batch_size_for(rows)
    here = place()
    steps = (
        math.ceil(batches_an_epoch(rows, size, here[1]) / parameters.accumulate) * parameters.epochs
    )
    loss = make_loss(network.task, examples.train.targets, examples.labels, parameters)
    module = Learner(network, parameters, loss, steps, examples.outputs)
    watcher, writer = Watcher(parameters, rows, slices.limit_s, report), Writer()
    trainer = lightning.Trainer(
        accelerator="auto",
        max_epochs=parameters.epochs,
        **_trainer_options(parameters),
        callbacks=[watcher, Slicer(slices, writer)],
        plugins=[writer],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=slices.folder,
    )
    trainer.fit(
        module,
        Feed(examples.train, size, parameters.seed, here),
        Feed(examples.validation, judging_rows(examples.validation.inputs, size // here[1])),
        ckpt_path=slices.resume,
        weights_only=True,
    )
    if watcher.best is not None:
        network.load_state_dict(watcher.best)
    return {
        "epochs": trainer.current_epoch,
        "step": trainer.global_step,
        "training_s": round(watcher.trained_s, 3),
    }


def _trainer_options(parameters: Hyperparameters) -> dict[str, Any]:
    """What Lightning's trainer is told of the hyperparameters.

    Raises:
        InvalidTrainingRequestError: this machine cannot do it.
    """
    if parameters.precision == "16-mixed" and not torch.cuda.is_available():
        raise InvalidTrainingRequestError(
            'hyperparameters.precision "16-mixed" needs a CUDA GPU, and this training worker has '
            'none; use "bf16-mixed" or "32"'
        )
    return {
        "devices": parameters.devices,
        "num_nodes": parameters.num_nodes,
        "strategy": "auto" if parameters.world == 1 else "ddp",
        "precision": parameters.precision,
        "accumulate_grad_batches": parameters.accumulate,
        "gradient_clip_val": parameters.clip,
    }


def judging_rows(inputs: Inputs, trained: int = 1) -> int:
    """How many rows are judged at once: 1,024, or fewer where they are large.

    Args:
        inputs: at least one row.
        trained: so many rows at once are known to fit, as they are trained on.
    """
    row_bytes = inputs[:1].nbytes
    return min(_JUDGING_ROWS, max(1, trained, _JUDGING_BYTES // row_bytes))


def answers(network: Network, inputs: Inputs) -> Iterator[torch.Tensor]:
    """What callers will get for raw rows, a piece at a time.

    They are computed where the network is, and come on the CPU.
    """
    size, device = judging_rows(inputs), next(network.parameters()).device
    with torch.inference_mode():
        for start in range(0, len(inputs), size):
            rows = torch.from_numpy(inputs[start : start + size])
            yield network.answer(rows.to(device)).cpu()


def _told(
    pieces: Iterator[torch.Tensor], report: Callable[[Progress], None]
) -> Iterator[torch.Tensor]:
    """The same; that they come is reported now and then: who says nothing for long is killed."""
    said = time.monotonic()
    for piece in pieces:
        if time.monotonic() > said + _TELL_EVERY_S:
            said = time.monotonic()
            report({"stage": "judging"})
        yield piece


def _device() -> torch.device:
    """Where this process has trained, or would have."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # Convolutions round less then: what is judged is what is exported.
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda")
