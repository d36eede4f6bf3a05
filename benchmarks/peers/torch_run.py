"""Hugging Face transformers and Accelerate: the loop of their examples, batches of like lengths.

`python -m benchmarks.peers.torch_run JOB SEED PRECISION [LOGITS]`. Each batch is padded to its own longest example,
since PyTorch compiles no shape.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import accelerate
import numpy as np
import torch
import transformers

from benchmarks.peers.job import Job, Split
from tfdist.bench.turns import Ended, Turns

PRECISIONS = {"float32": "no", "bfloat16": "bf16"}
NO_DECAY = ("bias", "LayerNorm.weight")


def build(job: Job) -> torch.nn.Module:
    """Builds BERT with the pretrained weights and a head."""
    head = "TokenClassification" if job.settings["per_token"] else "SequenceClassification"
    model = getattr(transformers, f"BertFor{head}").from_pretrained(
        job.settings["model"],
        num_labels=job.settings["num_labels"],
        hidden_dropout_prob=job.settings["dropout"],
        attention_probs_dropout_prob=job.settings["dropout"],
    )
    if job.head is not None:
        with torch.no_grad():
            model.classifier.weight.copy_(torch.from_numpy(job.head.T))
    return model


def create_optimizer(job: Job, model: torch.nn.Module) -> tuple[torch.optim.Optimizer, Any]:
    """Returns AdamW and its schedule; epsilon is that of Keras."""
    named = list(model.named_parameters())
    plain = [value for name, value in named if any(part in name for part in NO_DECAY)]
    decayed = [value for name, value in named if not any(part in name for part in NO_DECAY)]
    groups = [
        {"params": decayed, "weight_decay": job.settings["weight_decay"]},
        {"params": plain, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=job.settings["learning_rate"], eps=1e-7)
    steps = job.settings["warmup_steps"], job.settings["num_steps"]
    return optimizer, transformers.get_linear_schedule_with_warmup(optimizer, *steps)


class Examples(torch.utils.data.Dataset):
    """The batches of one epoch, each padded to its longest example."""

    def __init__(self, job: Job, split: Split, seed: int, epoch: int) -> None:
        self.split, self.per_token = split, job.settings["per_token"]
        self.plan = [rows for rows, _ in job.batches(seed, epoch)]

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        rows = self.plan[number]
        length = int(self.split.lengths[rows].max())
        ids, mask = self.split.padded(rows, length)
        labels = self.split.targets(rows, length, self.per_token)
        # The loss leaves out labels of -100.
        labels = np.where(labels < 0, -100, labels)
        return {
            "input_ids": torch.from_numpy(ids).long(),
            "attention_mask": torch.from_numpy(mask).long(),
            "labels": torch.from_numpy(labels).long(),
        }


def train(job: Job, seed: int, precision: str, turns: Turns) -> torch.nn.Module:
    """Trains all epochs, or until there are no more turns."""
    accelerator = accelerate.Accelerator(
        mixed_precision=PRECISIONS[precision], cpu=not torch.cuda.is_available()
    )
    model = build(job)
    optimizer, schedule = create_optimizer(job, model)
    model, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
    model.train()
    try:
        for batch in _batches(job, seed):
            turns.begin_step()
            batch = {name: value.to(accelerator.device) for name, value in batch.items()}
            loss = model(**batch).loss
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), job.settings["global_clipnorm"])
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            value = loss.item()  # waits for the step
            turns.end_step(*batch["input_ids"].shape, value)
        turns.flush()
    except Ended:
        pass
    return model


def _batches(job: Job, seed: int) -> Iterator[dict[str, torch.Tensor]]:
    split = job.split("train")
    for epoch in range(job.settings["epochs"]):
        yield from torch.utils.data.DataLoader(Examples(job, split, seed, epoch), batch_size=None)


def main() -> None:
    folder, seed, precision, *logits = sys.argv[1:]
    turns, job = Turns(), Job.load(folder)
    transformers.set_seed(int(seed))
    versions = {"torch": torch, "transformers": transformers, "accelerate": accelerate}
    turns.info = {name: module.__version__ for name, module in versions.items()}
    turns.info["threads"] = torch.get_num_threads()
    model = train(job, int(seed), precision, turns)
    if logits:
        model.eval()
        test, found = job.split("test"), {}
        for rows, length in job.test_batches(test):
            ids, mask = (torch.from_numpy(array).long() for array in test.padded(rows, length))
            with torch.no_grad():
                values = model(input_ids=ids, attention_mask=mask).logits.float().numpy()
            for row, one in zip(rows, values, strict=True):
                found[int(row)] = one[: test.lengths[row]] if job.settings["per_token"] else one
        job.save_logits(logits[0], found)
    turns.done()


if __name__ == "__main__":
    main()
