"""A real server that the test starts: FastAPI over loopback in front of a small transformers model
that really writes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import Body, FastAPI, HTTPException

from tests import toys
from tests.workers import free_port

TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}then"
"""Of the toy's chat: the words of the messages, and one that the answer goes on from."""


def application(network: Any, tokenizer: Any, name: str) -> FastAPI:
    app = FastAPI()

    @app.get("/v1/models")
    def models() -> Any:
        return {"object": "list", "data": [{"id": name, "object": "model", "max_model_len": 128}]}

    @app.post("/v1/chat/completions")
    def complete(body: dict[str, Any] = Body()) -> Any:  # noqa: B008
        if "response_format" in body:
            raise HTTPException(400, "response_format: this server knows no structured output")
        text = tokenizer.apply_chat_template(
            body["messages"], tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        if ids.shape[1] + body["max_tokens"] > 128:
            raise HTTPException(
                400,
                f"maximum context length is 128 tokens, got {ids.shape[1]} and "
                f"{body['max_tokens']}",
            )
        written = network.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=body["max_tokens"],
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        tokens = written.sequences[0, ids.shape[1] :].tolist()
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": "stop" if tokens[-1] == 2 else "length",
        }
        choice["message"] = {
            "role": "assistant",
            "content": tokenizer.decode(tokens, skip_special_tokens=True),
        }
        if body.get("logprobs"):
            steps = [logits[0].log_softmax(0) for logits in written.logits]
            choice["logprobs"] = {
                "content": [
                    _token(*pair, body["top_logprobs"]) for pair in zip(tokens, steps, strict=True)
                ]
            }
        usage = {
            "prompt_tokens": ids.shape[1],
            "completion_tokens": len(tokens),
            "total_tokens": ids.shape[1] + len(tokens),
        }
        return {"object": "chat.completion", "model": name, "choices": [choice], "usage": usage}

    def _token(token: int, step: torch.Tensor, top: int) -> dict[str, Any]:
        values, ids = step.topk(top)
        return {
            "token": tokenizer.decode([token]),
            "logprob": float(step[token]),
            "top_logprobs": [
                {"token": tokenizer.decode([other]), "logprob": value}
                for other, value in zip(ids.tolist(), values.tolist(), strict=True)
            ],
        }

    return app


def saved(folder: Path) -> Path:
    """The folder, with a language model in it that reads 128 tokens, prompt and answer together."""
    toys.tiny_network().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def tokenizer() -> Any:
    made = toys.tokenizer()
    made.chat_template = TEMPLATE
    return made


@contextlib.contextmanager
def serving(network: Any) -> Iterator[str]:
    """Serves the network as the model `toy`; gives the address."""
    port = free_port()
    config = uvicorn.Config(
        application(network, tokenizer(), "toy"), "127.0.0.1", port, log_level="warning"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        thread.join()
