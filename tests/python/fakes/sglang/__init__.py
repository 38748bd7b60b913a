"""Stands in for SGLang: the surface of it that `dynamo.sglang` uses, as its documentation and
sources of 0.5 have it, and nothing more. What it answers has the recorded shapes of that version.

`Engine` gives the prompt back, token by token. What it was asked is written as JSON lines to the
file that `FAKE_ENGINE_LOG` names.
"""

import asyncio
import json
import os
import signal
from types import SimpleNamespace


def _log(what, **more):
    path = os.environ.get("FAKE_ENGINE_LOG")
    if path:
        with open(path, "a") as log:
            log.write(json.dumps({"what": what, **more}) + "\n")


class _SignalHandler:
    """What SGLang does with SIGTERM unless it is given another class: it ends the process."""

    def __init__(self, manager):
        del manager

    def sigterm_handler(self, signum=None, frame=None):
        os._exit(9)

    def running_phase_sigquit_handler(self, signum=None, frame=None):
        os._exit(9)


class _TokenizerManager:
    signal_handler_class = _SignalHandler

    def __init__(self):
        self.aborted = set()
        self.event_loop = None

    def auto_create_handle_loop(self):
        if self.event_loop is None:
            self.event_loop = asyncio.get_running_loop()
            handler = self.signal_handler_class(self)
            self.event_loop.add_signal_handler(signal.SIGTERM, handler.sigterm_handler)

    def abort_request(self, rid="", abort_all=False):
        _log("abort", rid=rid)
        # The scheduler aborts by the beginning of an id.
        self.aborted.add(rid)

    def is_aborted(self, rid):
        return any(rid.startswith(it) for it in self.aborted)

    async def load_lora_adapter(self, obj, _):
        _log("load_lora", name=obj.lora_name, path=obj.lora_path)
        return SimpleNamespace(success=True, error_message=None)

    async def unload_lora_adapter(self, obj, _):
        _log("unload_lora", name=obj.lora_name)
        return SimpleNamespace(success=True, error_message=None)


class Engine:
    def __init__(self, **kwargs):
        self.server_args = kwargs["server_args"]
        if self.server_args.model_path.endswith("broken"):
            raise RuntimeError("not enough memory; lower --mem-fraction-static")
        # As the real one does: it takes the process's signals.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.tokenizer_manager = _TokenizerManager()
        self.port_args = SimpleNamespace(metrics_ipc_name=None)
        info = {"max_total_num_tokens": 6_400, "max_req_input_len": 1_000}
        self._scheduler_init_result = SimpleNamespace(scheduler_infos=[info])
        _log("start", args=vars(self.server_args))

    async def async_generate(
        self,
        prompt=None,
        sampling_params=None,
        input_ids=None,
        image_data=None,
        return_logprob=False,
        logprob_start_len=None,
        top_logprobs_num=None,
        lora_path=None,
        stream=False,
        bootstrap_host=None,
        bootstrap_port=None,
        bootstrap_room=None,
        routed_dp_rank=None,
        external_trace_header=None,
        rid=None,
        priority=None,
    ):
        asked = dict(locals())
        asked.pop("self")
        _log("generate", **asked)
        assert stream
        self.tokenizer_manager.auto_create_handle_loop()
        if sampling_params.get("json_schema") == "no schema":
            raise ValueError("Invalid json_schema: no schema")
        return self._stream(input_ids, sampling_params, return_logprob, top_logprobs_num, rid)

    async def _stream(self, input_ids, params, return_logprob, top, rid):
        most = params.get("max_new_tokens", 16)
        tokens = [input_ids[at % len(input_ids)] for at in range(most)]
        for at, token in enumerate(tokens):
            await asyncio.sleep(0.002)
            aborted = rid is not None and self.tokenizer_manager.is_aborted(rid)
            ends = at + 1 == most
            reason = {"type": "length", "length": most} if ends else None
            if aborted:
                reason = {"type": "abort", "message": "Abort in waiting queue"}
            meta = {
                "id": rid,
                "finish_reason": reason,
                "prompt_tokens": len(input_ids),
                "completion_tokens": at + 1,
                "cached_tokens": 3,
            }
            if return_logprob:
                meta["output_token_logprobs"] = [(-0.25, token, None)]
                meta["output_top_logprobs"] = [[(-0.25, token, None), (-1.5, 7, None)][:top]]
            yield {"text": "", "output_ids": [token], "meta_info": meta}
            if aborted:
                return

    def shutdown(self):
        _log("shutdown")
