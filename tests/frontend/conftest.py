"""Where the server is, and as whom to ask it."""

import os

import openai
import pytest


def pytest_addoption(parser):
    for name, variable, text in [
        ("--base-url", "DYN_TEST_BASE_URL", "base URL of the server, with /v1"),
        ("--model", "DYN_TEST_MODEL", "model to ask; the first one listed by default"),
        ("--api-key", "DYN_TEST_API_KEY", "key to send, if the server asks for one"),
    ]:
        parser.addoption(name, default=os.environ.get(variable), help=text)


@pytest.fixture(scope="session")
def api_key(request):
    return request.config.getoption("--api-key")


@pytest.fixture(scope="session")
def client(request, api_key):
    base_url = request.config.getoption("--base-url")
    if not base_url:
        pytest.skip("no server: give --base-url or DYN_TEST_BASE_URL")
    # Without retries: an error is to be seen, not waited for.
    return openai.OpenAI(base_url=base_url, api_key=api_key or "none", max_retries=0, timeout=120)


@pytest.fixture(scope="session")
def model(request, client):
    return request.config.getoption("--model") or client.models.list().data[0].id
