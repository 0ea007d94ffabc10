"""Steered generation by another project, in that project's environment: what benchmarks/steering.py
compares with. Imports nothing of Latentflow.

Reads one line of JSON (what is to be done), then writes the processor seconds of a batch for every line.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time

import torch
import transformers


def main() -> None:
    given = json.loads(sys.stdin.readline())
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(given["model"]).eval()
    vector, layer = torch.tensor(given["vector"]), given["layer"]
    if given["peer"] == "repeng":
        from repeng import ControlModel

        model = ControlModel(model, [layer])
        model.set_raw_control({layer: vector})
        applied = contextlib.nullcontext
    else:
        from steering_vectors import SteeringVector

        steering = SteeringVector({layer: vector})

        def applied():
            return steering.apply(model)

    tokens = torch.tensor(given["prompts"])
    n = given["tokens"]

    def seconds() -> float:
        begun = time.process_time()
        with torch.no_grad(), applied():
            written = model.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=n,
                min_new_tokens=n,
                do_sample=True,
                top_k=0,
                pad_token_id=0,
            )
        assert written.shape[1] == tokens.shape[1] + n
        return time.process_time() - begun

    print(seconds(), flush=True)
    for _ in sys.stdin:
        print(seconds(), flush=True)


if __name__ == "__main__":
    main()
