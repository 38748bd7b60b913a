"""What a worker's own code adds to traces and metrics."""

import http.server
import json
import threading
import urllib.request

import pytest

WORKER = """
import asyncio, json, sys
from dynamo.runtime import *

async def handle(request, context):
    with context.start_span("look up", {{"blocks": 7, "warm": True}}) as span:
        assert context.current_span().span_id == span.span_id
        headers, recording = context.trace_headers(), span.is_recording()
        span.set_attribute("ratio", 0.5)
        span.add_event("found", {{"where": "host"}})
        with context.start_span("inner") as inner:
            inner.set_status("ok")
    try:
        with context.start_span("fails"):
            raise KeyError("nothing there")
    except KeyError:
        pass
    assert context.current_span().span_id == context.span_id
    yield [recording, span.trace_id, context.trace_id, headers.get("traceparent", "")]

@dynamo_worker()
async def worker(runtime):
    endpoint = runtime.endpoint("test.spans.generate")
    serving = asyncio.ensure_future(endpoint.serve_endpoint(handle, {more}))
    client = await endpoint.client()
    await client.wait_for_instances(30)
    async for item in await client.generate({{}}, annotated=False):
        print(json.dumps(item), flush=True)
    {then}

asyncio.run(worker())
"""


@pytest.fixture
def collector():
    """Bodies that an OTLP collector gets."""
    bodies = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.bodies = bodies
    yield server
    server.shutdown()
    server.server_close()


def fields(message):
    """The fields of a protobuf message, by number."""
    found, at = {}, 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            value = varint()
        else:
            length = 8 if key & 7 == 1 else varint()
            value = message[at : at + length]
            at += length
        found.setdefault(key >> 3, []).append(value)
    return found


def spans(bodies):
    """Spans of export requests, by name."""
    found = {}
    for body in bodies:
        for resource in fields(body)[1]:
            for scope in fields(resource)[2]:
                for span in map(fields, fields(scope).get(2, [])):
                    found[span[5][0].decode()] = span
    return found


def test_spans_of_a_handler_are_exported_below_its_request(deployment, collector):
    port = collector.server_address[1]
    worker = deployment.script(
        WORKER.format(more="", then="pass"),
        OTEL_EXPORT_ENABLED="true",
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}",
    )
    recording, own, of_context, header = json.loads(worker.line())
    assert recording and own == of_context
    assert worker.process.wait(60) == 0, worker.end()
    found = spans(collector.bodies)
    outer, inner, fails, request = (
        found[name] for name in ["look up", "inner", "fails", "request_plane"]
    )
    assert outer[1] == inner[1] == request[1] == [bytes.fromhex(own)]
    assert outer[4] == fails[4] == request[2]
    assert inner[4] == outer[2]
    assert header.split("-")[2] == outer[2][0].hex()
    attributes = {fields(pair)[1][0].decode(): fields(pair)[2][0] for pair in outer[9]}
    assert set(attributes) == {"blocks", "warm", "ratio"}
    assert fields(attributes["blocks"])[3] == [7]
    (event,) = map(fields, outer[11])
    assert event[2] == [b"found"]
    assert fields(inner[15][0])[3] == [1]
    failed = fields(fails[15][0])
    assert failed[3] == [2] and b"KeyError" in failed[2][0]


def test_without_an_exporter_spans_do_nothing(deployment):
    worker = deployment.script(WORKER.format(more="", then="pass"))
    recording, *_ = json.loads(worker.line())
    assert not recording
    assert worker.process.wait(60) == 0


def test_labels_stand_on_the_endpoints_series(deployment):
    then = "print('done', flush=True); await serving"
    labels = "metrics_labels=[('team', 'a'), ('model_version', '7')]"
    worker = deployment.script(WORKER.format(more=labels, then=then), DYN_SYSTEM_PORT="0")
    worker.line()
    assert worker.line() == "done"
    # The port is in the log.
    port = next(
        line.rsplit(":", 1)[1].strip() for line in worker.process.stderr if "status server" in line
    )
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    series = [line for line in text.splitlines() if line.startswith("dynamo_component_requests_")]
    assert series and all('model_version="7"' in line and 'team="a"' in line for line in series)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([("dynamo_endpoint", "x")], "the series' own already"),
        ([("9", "x")], "is no name"),
        ([("a", "x"), ("a", "y")], "given twice"),
        ([(f"a{number}", "x") for number in range(17)], "may have 16 labels"),
    ],
)
def test_labels_that_clash_are_refused(deployment, labels, says):
    said = deployment.ask(
        f"""
        import asyncio
        from dynamo.runtime import *

        async def handle(request):
            yield request

        @dynamo_worker()
        async def worker(runtime):
            endpoint = runtime.endpoint("test.spans.generate")
            try:
                await endpoint.serve_endpoint(handle, metrics_labels={labels!r})
            except ValueError as error:
                print(error)

        asyncio.run(worker())
        """
    )
    assert says in said
