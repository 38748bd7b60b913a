"""What stands for SGLang: its documented interface, and an engine that gives prompts back."""

import asyncio


class Engine:
    """Gives the prompt back, token by token; each result holds all tokens so far."""

    def __init__(self, server_args):
        assert server_args.skip_tokenizer_init
        self.server_args = server_args
        print(f"engine of {server_args.model_path} with tp {server_args.tp_size}", flush=True)

    async def async_generate(self, input_ids, sampling_params, stream, **bootstrap):
        assert stream
        return self._results(input_ids, sampling_params, bootstrap)

    async def _results(self, input_ids, sampling_params, bootstrap):
        most = sampling_params["max_new_tokens"]
        try:
            for count in range(1, min(most, len(input_ids)) + 1):
                await asyncio.sleep(0)
                is_last = count == min(most, len(input_ids))
                yield {
                    "output_ids": input_ids[:count],
                    "meta_info": {
                        "finish_reason": {"type": "length"} if is_last else None,
                        "bootstrap": bootstrap,
                    },
                }
        except BaseException as error:
            print(f"cancelled by {type(error).__name__}", flush=True)
            raise
