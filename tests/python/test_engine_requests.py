"""Requests in the words of each engine, and outputs in ours: pure functions, no engine."""

from types import SimpleNamespace

import pytest

from dynamo.engine.modes import Mode
from dynamo.engine.outputs import Pieces, output
from dynamo.engine.request import Request
from dynamo.engine.structured import Structured
from dynamo.sglang import mapping as sglang
from dynamo.trtllm import mapping as trtllm
from dynamo.vllm import mapping as vllm

#: As the extension gives it (`lib/bindings/python/src/tokens.rs`).
DICTIONARY = {
    "request_id": "r",
    "model": "m",
    "token_ids": [10, 11, 12, 13],
    "generated_tokens": 1,
    "stop_conditions": {
        "max_tokens": 7,
        "min_tokens": 2,
        "stop": None,
        "stop_token_ids": [5],
        "stop_token_ids_hidden": [5],
        "ignore_eos": False,
    },
    "sampling_options": {
        "n": 1,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": -1,
        "min_p": 0.1,
        "frequency_penalty": 0.25,
        "presence_penalty": 0.75,
        "repetition_penalty": 1.1,
        "seed": 41,
        "logit_bias": {"9": -1.5},
    },
    "output_options": {"logprobs": 2, "prompt_logprobs": None, "skip_special_tokens": None},
    "eos_token_ids": [2, 3],
    "annotations": [],
    "lora_name": None,
    "routing": {"dp_rank": 1, "priority": 3, "lora_name": None, "cache_namespace": "salt"},
}


def read(**changes):
    return Request.read({**DICTIONARY, **changes}, "r-0")


def guided(**forms):
    sampling = {**DICTIONARY["sampling_options"], "guided_decoding": forms}
    return read(sampling_options=sampling)


# --- reading


def test_a_request_is_read_whole():
    request = read()
    assert request.id == "r-0"
    assert request.token_ids == [10, 11, 12, 13]
    assert (request.max_tokens, request.min_tokens) == (7, 2)
    assert request.stop_token_ids == (5,)
    assert request.eos_token_ids == (2, 3)
    assert request.logit_bias == {9: -1.5}
    assert (request.dp_rank, request.priority, request.cache_salt) == (1, 3, "salt")


def test_an_answer_that_goes_on_elsewhere_draws_by_another_seed():
    assert read(generated_tokens=0).seed == 41
    assert read(generated_tokens=1).seed == 42
    assert read(sampling_options={"seed": 2**63 - 1}).seed == 0


def test_what_is_not_said_is_neutral():
    request = Request.read({"token_ids": [1]}, "r")
    assert (request.temperature, request.top_p, request.top_k) == (1.0, 1.0, -1)
    assert (request.max_tokens, request.seed, request.logprobs) == (None, None, None)
    nothing = dict.fromkeys(DICTIONARY["sampling_options"])
    assert read(sampling_options=nothing).repetition_penalty == 1.0


def test_ends_of_sequence_do_not_end_what_ignores_them():
    stop = {**DICTIONARY["stop_conditions"], "ignore_eos": True}
    request = read(stop_conditions=stop)
    assert request.ignore_eos
    assert request.eos_token_ids == ()
    assert request.stop_token_ids == (5,)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"token_ids": []}, "token_ids"),
        ({"sampling_options": {"n": 2}}, "one sequence"),
        ({"sampling_options": {"guided_decoding": {"regex": "a", "choice": ["b"]}}}, "one form"),
    ],
)
def test_requests_that_no_engine_serves_are_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        read(**changes)


def test_parameters_of_a_prefill_worker_are_found_where_either_form_has_them():
    assert read(disaggregated_params={"a": 1}).disaggregated_params == {"a": 1}
    prefill = {"disaggregated_params": {"b": 2}}
    assert read(prefill_result=prefill).disaggregated_params == {"b": 2}


@pytest.mark.parametrize(
    ("grammar", "is_lark"),
    [
        ('root ::= "a" | "b"', False),
        ('root::="a"', False),
        ('start: "a" | "b"', True),
        ('?start: sum\nsum: NUMBER "+" NUMBER', True),
        ('root ::= [a-z]: "x"', False),
    ],
)
def test_grammars_are_told_apart(grammar, is_lark):
    assert Structured("grammar", grammar).is_lark() is is_lark


# --- vLLM


def test_vllm_gets_all_that_was_asked_for():
    params = vllm.sampling_params(read(), Mode.AGGREGATED)
    assert params == {
        "n": 1,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": -1,
        "min_p": 0.1,
        "frequency_penalty": 0.25,
        "presence_penalty": 0.75,
        "repetition_penalty": 1.1,
        "seed": 42,
        "max_tokens": 7,
        "min_tokens": 2,
        "ignore_eos": False,
        "stop_token_ids": [5, 2, 3],
        "logprobs": 2,
        "detokenize": False,
        "logit_bias": {9: -1.5},
    }
    assert vllm.prompt(read()) == {"prompt_token_ids": [10, 11, 12, 13], "cache_salt": "salt"}
    assert vllm.priority(read()) == -3


def test_vllm_hands_over_from_prefill_to_decode():
    asked = vllm.sampling_params(read(), Mode.PREFILL)
    assert (asked["max_tokens"], asked["min_tokens"], asked["logprobs"]) == (1, 0, None)
    assert asked["extra_args"]["kv_transfer_params"]["do_remote_decode"] is True
    given = {"do_remote_prefill": True, "remote_block_ids": [[1, 2]], "remote_engine_id": "e"}
    result = vllm_result([10], finish_reason="length", kv_transfer_params=given)
    item = vllm.to_output(result, read(), is_first=True)
    handed = item["disaggregated_params"]
    asked = vllm.sampling_params(read(disaggregated_params=handed), Mode.DECODE)
    assert asked["extra_args"] == {"kv_transfer_params": given}
    assert "extra_args" not in vllm.sampling_params(read(), Mode.DECODE)


def test_vllm_hands_over_nothing_where_workers_share_a_store():
    result = vllm_result([10], finish_reason="length")
    item = vllm.to_output(result, read(), True, Mode.PREFILL)
    handed = item["disaggregated_params"]
    assert handed == {"kv_transfer_params": {}}
    assert "extra_args" not in vllm.sampling_params(
        read(disaggregated_params=handed), Mode.DECODE
    )
    assert "disaggregated_params" not in vllm.to_output(result, read(), True, Mode.DECODE)


def vllm_result(tokens, **more):
    choice = SimpleNamespace(
        token_ids=tokens,
        logprobs=more.get("logprobs"),
        finish_reason=more.get("finish_reason"),
        stop_reason=more.get("stop_reason"),
    )
    return SimpleNamespace(
        outputs=[choice], num_cached_tokens=6, kv_transfer_params=more.get("kv_transfer_params")
    )


def test_outputs_of_vllm():
    first = vllm.to_output(vllm_result([8]), read(), is_first=True)
    assert first == {
        "token_ids": [8],
        "completion_usage": {"prompt_tokens_details": {"cached_tokens": 6}},
    }
    later = vllm.to_output(vllm_result([8, 9]), read(), is_first=False)
    assert later == {"token_ids": [8, 9]}


@pytest.mark.parametrize(
    ("result", "ends"),
    [
        ({"finish_reason": "length"}, {"finish_reason": "length"}),
        ({"finish_reason": "stop"}, {"finish_reason": "stop"}),
        ({"finish_reason": "stop", "stop_reason": 5}, {"finish_reason": "stop", "stop_reason": 5}),
        # An end of sequence that vLLM was told to stop at is no stop token of the client's.
        ({"finish_reason": "stop", "stop_reason": 3}, {"finish_reason": "stop"}),
        ({"finish_reason": "abort"}, {"finish_reason": "cancelled"}),
        (
            {"finish_reason": "repetition"},
            {"finish_reason": "error: it ended with repetition"},
        ),
    ],
)
def test_ends_of_answers(result, ends):
    item = vllm.to_output(vllm_result([8], **result), read(), is_first=False)
    assert item == {"token_ids": [8], **ends}


def entry(logprob, rank):
    return SimpleNamespace(logprob=logprob, rank=rank, decoded_token=None)


def test_log_probabilities_of_vllm():
    # The drawn token was the fourth: it comes first, and is none of the two that were asked for.
    places = [{8: entry(-3.0, 4), 6: entry(-0.5, 1), 7: entry(-1.0, 2)}]
    item = vllm.to_output(vllm_result([8], logprobs=places), read(), is_first=False)
    assert item["log_probs"] == [-3.0]
    assert item["top_logprobs"] == [
        [
            {"token_id": 6, "logprob": -0.5, "rank": 1},
            {"token_id": 7, "logprob": -1.0, "rank": 2},
        ]
    ]
    alone = read(output_options={"logprobs": 0})
    item = vllm.to_output(vllm_result([8], logprobs=places), alone, is_first=False)
    assert (item["log_probs"], item["top_logprobs"]) == ([-3.0], [[]])


@pytest.mark.parametrize(
    ("forms", "params"),
    [
        ({"json": '{"type": "object"}'}, {"json": '{"type": "object"}'}),
        ({"json": {"type": "object"}}, {"json": '{"type": "object"}'}),
        ({"json_object": True}, {"json_object": True}),
        ({"regex": "a+"}, {"regex": "a+"}),
        ({"choice": ["a", "b"]}, {"choice": ["a", "b"]}),
        ({"grammar": 'start: "a"'}, {"grammar": 'start: "a"'}),
    ],
)
def test_forms_of_answers_for_vllm(forms, params):
    assert vllm.structured_params(guided(**forms).structured) == params


def test_white_space_is_as_a_vllm_worker_was_started():
    none = guided(json="{}", whitespace_pattern="").structured
    assert vllm.structured_params(none, no_whitespace=True) == {"json": "{}"}
    with pytest.raises(ValueError, match="--structured-outputs-config"):
        vllm.structured_params(none)


# --- SGLang


def test_sglang_gets_all_that_was_asked_for():
    asked = sglang.arguments(read(lora_name="adapter"))
    assert asked == {
        "input_ids": [10, 11, 12, 13],
        "sampling_params": {
            "n": 1,
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": -1,
            "min_p": 0.1,
            "frequency_penalty": 0.25,
            "presence_penalty": 0.75,
            "repetition_penalty": 1.1,
            "min_new_tokens": 2,
            "ignore_eos": False,
            "skip_special_tokens": False,
            "max_new_tokens": 7,
            "stop_token_ids": [5, 2, 3],
            "sampling_seed": 42,
            "logit_bias": {"9": -1.5},
        },
        "stream": True,
        "rid": "r-0",
        "return_logprob": True,
        "top_logprobs_num": 2,
        "logprob_start_len": -1,
        "lora_path": "adapter",
    }


def sglang_result(tokens, reason=None, **meta):
    return {"text": "", "output_ids": tokens, "meta_info": {"finish_reason": reason, **meta}}


@pytest.mark.parametrize("incremental", [True, False])
def test_outputs_of_sglang_are_what_is_new(incremental):
    outputs = sglang.Outputs(read(), incremental)
    whole = [[6], [6, 7, 8], [6, 7, 8]]
    new = [[6], [7, 8], []]
    logprobs = [(-0.1, 6, None), (-0.2, 7, None), (-0.3, 8, None)]
    tops = [[(-0.1, 6, None), (-9.0, 1, None)]] * 3
    got = []
    for number, tokens in enumerate(new if incremental else whole):
        reason = {"type": "stop", "matched": 5} if number == 2 else None
        known = len(whole[number])
        first = known - len(new[number]) if incremental else 0
        got.append(
            outputs.of(
                sglang_result(
                    tokens,
                    reason,
                    cached_tokens=4,
                    output_token_logprobs=logprobs[first:known],
                    output_top_logprobs=tops[first:known],
                )
            )
        )
    assert [item["token_ids"] for item in got] == new
    assert [item["log_probs"] for item in got] == [[-0.1], [-0.2, -0.3], []]
    assert got[1]["top_logprobs"][0][1] == {"token_id": 1, "logprob": -9.0, "rank": 2}
    assert got[0]["completion_usage"] == {"prompt_tokens_details": {"cached_tokens": 4}}
    assert "completion_usage" not in got[1]
    assert (got[2]["finish_reason"], got[2]["stop_reason"]) == ("stop", 5)


def test_what_sglang_refuses_and_what_fails_it_are_told_apart():
    def of(reason):
        return sglang.Outputs(read(), True).of(sglang_result([], reason))

    refused = {"type": "abort", "message": "too long", "status_code": 400, "err_type": "BadRequest"}
    with pytest.raises(ValueError, match="too long"):
        of(refused)
    failed = {"type": "abort", "message": "out of memory", "status_code": 500}
    with pytest.raises(RuntimeError, match="out of memory"):
        of(failed)
    assert of({"type": "abort", "message": "Aborted"})["finish_reason"] == "cancelled"


@pytest.mark.parametrize(
    ("forms", "params"),
    [
        ({"json": '{"a": 1}'}, {"json_schema": '{"a": 1}'}),
        ({"json_object": True}, {"json_schema": '{"type": "object"}'}),
        ({"regex": "a+"}, {"regex": "a+"}),
        ({"choice": ["a.b", "c"]}, {"regex": "(a\\.b)|(c)"}),
        ({"grammar": 'root ::= "a"'}, {"ebnf": 'root ::= "a"'}),
    ],
)
def test_forms_of_answers_for_sglang(forms, params):
    assert sglang.structured_params(guided(**forms).structured) == params


@pytest.mark.parametrize(
    ("engine", "forms", "says"),
    [
        (sglang.structured_params, {"grammar": 'start: "a"'}, "EBNF"),
        (vllm.structured_params, {"json": "{}", "whitespace_pattern": " ?"}, "whitespace_pattern"),
        (sglang.structured_params, {"json": "{}", "whitespace_pattern": ""}, "whitespace_pattern"),
        (trtllm.guided_params, {"grammar": 'start: "a"'}, "EBNF"),
        (trtllm.guided_params, {"json": "{}", "whitespace_pattern": ""}, "whitespace_pattern"),
    ],
)
def test_forms_that_an_engine_lacks_are_refused_and_not_left_out(engine, forms, says):
    with pytest.raises(ValueError, match=says):
        engine(guided(**forms).structured)


def test_the_meeting_place_of_sglang_workers_is_the_routers_or_the_prefill_workers():
    place = {"bootstrap_host": "h", "bootstrap_port": 9, "bootstrap_room": 7}
    assert sglang.meeting(read(bootstrap_info={**place, "handoff_id": "x"})) == place
    assert sglang.meeting(read(disaggregated_params=place)) == place
    assert sglang.meeting(read()) is None


# --- TensorRT-LLM


def test_trtllm_gets_all_that_was_asked_for():
    sampling = {**DICTIONARY["sampling_options"], "logit_bias": None}
    params = trtllm.sampling_params(read(sampling_options=sampling), Mode.AGGREGATED)
    assert params == {
        "n": 1,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 0,
        "min_p": 0.1,
        "frequency_penalty": 0.25,
        "presence_penalty": 0.75,
        "repetition_penalty": 1.1,
        "seed": 42,
        "max_tokens": 7,
        "min_tokens": 2,
        "ignore_eos": False,
        "stop_token_ids": [5, 2, 3],
        "include_stop_str_in_output": True,
        "detokenize": False,
        "logprobs": 2,
    }
    with pytest.raises(ValueError, match="logit_bias"):
        trtllm.sampling_params(read(), Mode.AGGREGATED)


def test_greedy_for_trtllm_is_the_most_likely_token():
    request = read(sampling_options={"temperature": 0.0, "top_p": 0.5, "top_k": 40})
    params = trtllm.sampling_params(request, Mode.AGGREGATED)
    assert (params["temperature"], params["top_k"], params["top_p"]) == (None, 1, None)


def trtllm_result(tokens, **more):
    choice = SimpleNamespace(
        token_ids=tokens,
        logprobs=more.get("logprobs", []),
        finish_reason=more.get("finish_reason"),
        stop_reason=more.get("stop_reason"),
        disaggregated_params=more.get("disaggregated_params"),
    )
    return SimpleNamespace(outputs=[choice], cached_tokens=2)


def test_outputs_of_trtllm_are_what_is_new():
    outputs = trtllm.Outputs(read(), Mode.AGGREGATED)
    places = [{token: entry(-0.5, 1), 1: entry(-2.0, 2), 2: entry(-3.0, 3)} for token in (6, 7, 8)]
    got = [
        outputs.of(trtllm_result([6], logprobs=places[:1])),
        outputs.of(trtllm_result([6, 7, 8], logprobs=places, finish_reason="length")),
    ]
    assert [item["token_ids"] for item in got] == [[6], [7, 8]]
    assert got[1]["log_probs"] == [-0.5, -0.5]
    assert [top["token_id"] for top in got[1]["top_logprobs"][0]] == [7, 1]
    assert got[1]["finish_reason"] == "length"


def test_trtllm_hands_over_from_prefill_to_decode():
    params = SimpleNamespace(
        request_type="context_only",
        first_gen_tokens=[6],
        ctx_request_id=77,
        opaque_state=b"\x00\xff",
        draft_tokens=None,
        multimodal_hashes=object(),
    )
    result = trtllm_result([6], finish_reason="length", disaggregated_params=params)
    item = trtllm.Outputs(read(), Mode.PREFILL).of(result)
    handed = item["disaggregated_params"]
    assert handed == {
        "request_type": "context_only",
        "first_gen_tokens": [6],
        "ctx_request_id": 77,
        "opaque_state": "base64:AP8=",
    }
    assert trtllm.disaggregated(read(disaggregated_params=handed), Mode.DECODE) == {
        "request_type": "generation_only",
        "first_gen_tokens": [6],
        "ctx_request_id": 77,
        "opaque_state": b"\x00\xff",
    }
    assert trtllm.disaggregated(read(), Mode.PREFILL) == {"request_type": "context_only"}
    with pytest.raises(RuntimeError, match="prefill worker"):
        trtllm.disaggregated(read(), Mode.DECODE)


def stored(hashes, tokens, parent=None, **more):
    blocks = [
        {
            "type": "stored_block",
            "block_hash": block,
            "tokens": [{"token_id": token, "token_extra_id": 0} for token in ids],
        }
        for block, ids in zip(hashes, tokens, strict=True)
    ]
    return {
        "event_id": 1,
        "data": {"type": "stored", "parent_hash": parent, "blocks": blocks},
        **more,
    }


def test_events_of_trtllm():
    events = trtllm.Events(2)
    assert events.of({"event_id": 0, "data": {"type": "created"}}) == (0, [])
    rank, published = events.of(stored([11, 12, 13], [[1, 2], [3, 4], [5]], 9, attention_dp_rank=1))
    assert rank == 1
    assert published == [
        {
            "type": "stored",
            "token_ids": [1, 2, 3, 4],
            "num_block_tokens": [2, 2],
            "block_hashes": [11, 12],
            "parent_hash": 9,
        }
    ]
    # The block that was not full is not known to anybody.
    gone = {"event_id": 2, "data": {"type": "removed", "block_hashes": [13, 12]}}
    assert events.of(gone) == (0, [{"type": "removed", "block_hashes": [12]}])
    assert events.of({"event_id": 3, "data": {"type": "updated"}}) == (0, [])


def test_events_of_trtllm_are_those_of_the_largest_window():
    events = trtllm.Events(1)
    for window in (512, 4_096):
        events.of({"event_id": 0, "window_size": window, "data": {"type": "created"}})
    assert events.of(stored([1], [[5]], window_size=512)) == (0, [])
    assert events.of(stored([1], [[5]], window_size=4_096))[1][0]["block_hashes"] == [1]


# --- outputs


def test_pieces_of_what_grows():
    pieces = Pieces()
    assert [list(pieces.new(it)) for it in ([], [1], [1, 2, 3], [1, 2, 3])] == [[], [1], [2, 3], []]


def test_an_output_that_has_not_ended_has_no_reason():
    assert output([1], finish_reason="not_finished") == {"token_ids": [1]}
