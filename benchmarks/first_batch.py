"""What `start_up.py` starts: it loads batches of a pretraining set, and waits for the end of its input.

python benchmarks/first_batch.py --data_path FOLDER [further flags of train_pretrain_mm.py]

It prints the seconds from the imports to the first batch and those in which a processor worked for it from the start,
and, after some batches more, the numbers of its loader processes.
"""

import multiprocessing
import sys
import time
from itertools import islice

from cromss.config import parse
from cromss.settings import MultiModalSettings
from cromss.start_up import fast_imports

with fast_imports():
    import lightning

    from cromss.training.pretraining import pretraining_data


def main() -> None:
    """Load, tell, and wait."""
    begun = time.perf_counter()
    data = pretraining_data(parse(MultiModalSettings))
    data.trainer = lightning.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    batches = iter(data.train_dataloader())
    next(batches)
    print(time.perf_counter() - begun, time.process_time(), flush=True)
    for _ in islice(batches, 50):
        pass
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
