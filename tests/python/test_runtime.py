"""Workers and clients in Python: what handlers get and give, and how answers end."""

import json
import signal

import pytest

#: Serves a handler of the test's as `dyn://test.worker.generate`, and says so.
WORKER = """
import asyncio, sys
from dynamo.runtime import *

{handler}

@dynamo_worker()
async def worker(runtime):
    endpoint = runtime.endpoint("test.worker.generate")
    serving = asyncio.ensure_future(endpoint.serve_endpoint(handle))
    while endpoint.connection_id() is None:
        await asyncio.sleep(0.01)
    print("serves", flush=True)
    await serving

{policy}
asyncio.run(worker())
"""

#: Asks with a JSON request; prints each item as JSON, and the error that ends them.
CLIENT = """
import asyncio, json, sys
from dynamo.runtime import *

@dynamo_worker()
async def main(runtime):
    client = await runtime.endpoint("test.worker.generate").client()
    await client.wait_for_instances(30)
    try:
        async for item in await client.generate(json.loads(sys.argv[1]), annotated=False):
            print(json.dumps(item), flush=True)
    except DynamoException as error:
        print(json.dumps({"error": type(error).__name__, "code": error.code, "says": str(error)}))

asyncio.run(main())
"""


def serve(deployment, handler, policy="", name="worker.py", **more):
    worker = deployment.script(WORKER.format(handler=handler, policy=policy), name=name, **more)
    assert worker.line() == "serves"
    return worker


def ask(deployment, request):
    output = deployment.ask(CLIENT, json.dumps(request))
    return [json.loads(line) for line in output.splitlines()]


VALUES = [
    None,
    True,
    False,
    0,
    -1,
    127,
    128,
    -32,
    -33,
    65_536,
    2**63 - 1,
    -(2**63),
    2**64 - 1,
    1.5,
    "",
    "ä" * 40,
    "x" * 70_000,
    [],
    [1] * 20,
    [[[]]],
    {},
    {"a": {"b": [1, None, "c"]}, "": 2},
    {str(number): number for number in range(100)},
]

ECHO = """
async def handle(request):
    for item in request:
        yield item
"""


def test_values_come_as_they_were_sent(deployment):
    serve(deployment, ECHO)
    assert ask(deployment, VALUES) == VALUES


def test_the_same_under_uvloop(deployment):
    pytest.importorskip("uvloop")
    serve(deployment, ECHO, policy="import uvloop; uvloop.install()")
    assert ask(deployment, VALUES) == VALUES


def test_more_items_than_fit_come_all_and_in_order(deployment):
    serve(
        deployment,
        """
async def handle(request):
    for number in range(request):
        yield number
""",
    )
    assert ask(deployment, 20_000) == list(range(20_000))


@pytest.mark.parametrize(
    ("handler", "code", "says"),
    [
        ("async def handle(request):\n    yield 1\n    raise KeyError('x')", "engine_failed", "raised KeyError"),
        ("async def handle(request):\n    yield 1\n    yield object()", "engine_failed", "type object cannot be sent"),
        ("async def handle(request):\n    yield 1\n    yield {1: 2}", "engine_failed", "text as keys"),
        ("async def handle(request):\n    yield 1\n    yield 2**70", "engine_failed", "64 bits"),
        ("async def handle(request):\n    yield 1\n    raise InvalidArgument('no')", "invalid_request", "no"),
        ("async def handle(request):\n    yield 1\n    raise WorkerUnavailable('full')", "no_capacity", "full"),
    ],
)
def test_a_handler_that_fails_ends_its_answer_with_one_error(deployment, handler, code, says):
    serve(deployment, handler)
    first, error = ask(deployment, "x")
    assert first == 1
    assert error["code"] == code
    assert says in error["says"]


def test_a_handler_may_return_one_value(deployment):
    serve(deployment, "async def handle(request):\n    return {'got': request}")
    assert ask(deployment, 5) == [{"got": 5}]


def test_pydantic_models_are_checked(deployment):
    serve(
        deployment,
        """
from pydantic import BaseModel

class Request(BaseModel):
    name: str

class Response(BaseModel):
    greeting: str

@dynamo_endpoint(Request, Response)
async def handle(request: Request):
    yield Response(greeting=f"hello {request.name}")
    yield {"greeting": "again"}
""",
    )
    assert ask(deployment, {"name": "you"}) == [{"greeting": "hello you"}, {"greeting": "again"}]
    (error,) = ask(deployment, {"nom": "you"})
    assert error["code"] == "invalid_request"
    assert "name" in error["says"]


def test_a_caller_that_goes_away_cancels_the_handler(deployment):
    worker = serve(
        deployment,
        """
async def handle(request, context):
    try:
        number = 0
        while True:
            yield number
            number += 1
            await asyncio.sleep(0.005)
    finally:
        print("ended", context.is_stopped(), flush=True)
""",
    )
    deployment.ask(
        """
import asyncio
from dynamo.runtime import *

@dynamo_worker()
async def main(runtime):
    client = await runtime.endpoint("test.worker.generate").client()
    await client.wait_for_instances(30)
    async for item in await client.generate("x", annotated=False):
        if item == 3:
            break

asyncio.run(main())
"""
    )
    assert worker.line() == "ended True"


def test_a_context_that_is_stopped_ends_the_answer(deployment):
    worker = serve(
        deployment,
        """
async def handle(request, context):
    yield context.id()
    await context.async_killed_or_stopped()
    print("stopped", flush=True)
""",
    )
    output = deployment.ask(
        """
import asyncio
from dynamo.runtime import *

@dynamo_worker()
async def main(runtime):
    client = await runtime.endpoint("test.worker.generate").client()
    await client.wait_for_instances(30)
    context = Context("my-id")
    async for item in await client.generate("x", context=context):
        print(item.data())
        context.stop_generating()
    print("over")

asyncio.run(main())
"""
    )
    assert output.splitlines() == ["my-id", "over"]
    assert worker.line() == "stopped"


SLOW = """
import os

async def handle(request):
    for number in range(20):
        yield [os.getpid(), number]
        await asyncio.sleep(0.05)
"""


def test_a_worker_that_is_asked_to_end_finishes_first(deployment):
    worker = serve(deployment, SLOW)
    client = deployment.script(CLIENT, '"x"', name="client.py")
    client.line()
    status, errors = worker.end(signal.SIGTERM)
    assert status == 0, errors
    rest, errors = client.process.communicate(timeout=60)
    assert [json.loads(line)[1] for line in rest.splitlines()] == list(range(1, 20)), errors


def test_a_call_goes_to_another_worker_while_one_stands_still(deployment):
    """One whose event loop is blocked takes nothing: within the dispatch deadline others are asked."""
    blocked = serve(
        deployment,
        """
import time

async def handle(request):
    yield "blocked"
    print("blocks", flush=True)
    time.sleep(3_600)
""",
        name="blocked.py",
    )
    assert ask_one(deployment) == "blocked"
    assert blocked.line() == "blocks"
    # Its connection lives: heartbeats are not the event loop's.
    serve(deployment, "async def handle(request):\n    yield 'well'", name="well.py")
    assert {ask_one(deployment) for _ in range(2)} == {"well"}


def test_who_blocks_the_event_loop_is_told(deployment):
    worker = serve(
        deployment,
        """
import time

def compute():
    time.sleep(4)

async def handle(request):
    compute()
    yield "done"
""",
    )
    assert ask_one(deployment) == "done"
    status, errors = worker.end()
    assert status == 0
    (line,) = [line for line in errors.splitlines() if "stands still" in line]
    assert "compute" in line and "handle" in line and "worker.py" in line
    assert "goes on" in errors


def ask_one(deployment):
    return deployment.ask(
        """
import asyncio
from dynamo.runtime import *

@dynamo_worker()
async def main(runtime):
    client = await runtime.endpoint("test.worker.generate").client()
    await client.wait_for_instances(30)
    async def first():
        async for item in await client.generate("x", annotated=False):
            return item
    try:
        print(await asyncio.wait_for(first(), 40))
    except TimeoutError:
        print("nothing")

asyncio.run(main())
"""
    ).strip()


def test_names_that_are_none_are_refused(deployment):
    output = deployment.ask(
        """
import asyncio
from dynamo.runtime import *

@dynamo_worker()
async def main(runtime):
    for wrong in [lambda: runtime.namespace("a b"),
                  lambda: runtime.endpoint("a.b.c.d"),
                  lambda: runtime.namespace("a").component("b/c")]:
        try:
            wrong()
        except ValueError as error:
            print(error)

asyncio.run(main())
"""
    )
    assert len(output.splitlines()) == 3


def test_options_that_are_none_are_refused(deployment):
    output = deployment.ask(
        """
import asyncio
from dynamo.runtime import *

async def main():
    loop = asyncio.get_running_loop()
    for wrong in [["--discovery-backend", "paper"], ["--request-plan", "tcp"]]:
        try:
            DistributedRuntime(loop, arguments=wrong)
        except ValueError as error:
            print(" ".join(str(error).split()))

asyncio.run(main())
"""
    )
    first, second = output.splitlines()
    assert "paper" in first and "etcd" in first
    assert "--request-plane" in second
