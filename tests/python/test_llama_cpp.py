"""The llama.cpp component: a real model behind our frontend."""

import openai
from conftest import PATIENCE, ROOT

MODEL = ROOT / ".models/gemma-3-270m-q4_k_m.gguf"


def test_it_serves_a_model_at_the_endpoint_that_is_named(deployment):
    worker = deployment.start(
        *("-m", "dynamo.llama_cpp", "dyn://mine.backend.generate", "--model-path", str(MODEL)),
        *("--model-name", "gemma", "--threads", "1"),
    )
    frontend = deployment.start("-m", "dynamo.frontend", "--http-port", "0", "--namespace", "mine")
    client = openai.OpenAI(
        base_url=f"{frontend.line()}/v1", api_key="none", max_retries=0, timeout=PATIENCE
    )
    for _ in range(600):
        if client.models.list().data:
            break
        try:
            frontend.process.wait(0.1)
        except Exception:
            continue
    answer = client.completions.create(
        model="gemma", prompt="The capital of France is", max_tokens=4, temperature=0
    )
    assert answer.usage.completion_tokens == 4
    status, errors = worker.end()
    assert status == 0, errors
