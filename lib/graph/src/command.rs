//! From a component to the words that start it. Nothing else makes them, so that every target
//! starts the same program.

use crate::graph::{Component, ParameterValue};

/// Port of an HTTP frontend that names none.
pub const DEFAULT_HTTP_PORT: u16 = 8_000;

/// Flags that name the port of a frontend.
const PORTS: [&str; 2] = ["http_port", "port"];

/// One word of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// A text as it is.
    Text(String),
    /// Which of the nodes the process is on: the target says.
    NodeRank,
    /// Where the leader of the nodes is, with its port: the target says.
    LeaderAddress,
    /// A file that lies beside the graph file: the target says where it is.
    File(String),
    /// The port of a frontend's first replica, where replicas share a machine: each further one
    /// listens one higher.
    HttpPort(u16),
}

/// Which of a replica's processes a command starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// The only one.
    Only,
    /// The first of several.
    Leader,
    /// Another one of several.
    Follower,
}

/// Whether replicas have addresses of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hosts {
    /// As pods have.
    Own,
    /// They may run on one machine, where no two can listen on one port.
    Shared,
}

/// The command of a process.
pub fn command(component: &Component, node: Node, hosts: Hosts) -> Vec<Word> {
    let mut words: Vec<Word> = component.cmd.iter().cloned().map(Word::Text).collect();
    let mut say = |text: String| words.push(Word::Text(text));
    match (&component.input, node) {
        (input, Node::Follower) if input.is_some() || takes_forms(component) => {
            say("in=none".to_owned());
        }
        (Some(input), _) => say(format!("in={input}")),
        (None, _) => {}
    }
    if let Some(output) = &component.output {
        say(format!("out={output}"));
    }
    let shares_port = shares_port(component, hosts);
    for parameter in &component.parameters {
        let name = parameter.name.replace('_', "-");
        match &parameter.value {
            ParameterValue::Switch(true) => words.push(Word::Text(format!("--{name}"))),
            ParameterValue::Switch(false) => words.push(Word::Text(format!("--no-{name}"))),
            ParameterValue::Text(_) if shares_port && PORTS.contains(&parameter.name.as_str()) => {
                push_flag(&mut words, &name, Word::HttpPort(http_port(component)));
            }
            ParameterValue::Text(text) | ParameterValue::Json(text) => {
                push_flag(&mut words, &name, value(component, text));
            }
            ParameterValue::List(texts) if parameter.repeats => {
                for text in texts {
                    push_flag(&mut words, &name, value(component, text));
                }
            }
            ParameterValue::List(texts) => {
                words.push(Word::Text(format!("--{name}")));
                words.extend(texts.iter().map(|text| value(component, text)));
            }
        }
    }
    if shares_port && named_port(component).is_none() {
        push_flag(
            &mut words,
            "http-port",
            Word::HttpPort(http_port(component)),
        );
    }
    push_nodes(&mut words, component, node);
    if component.verbosity > 0 {
        words.push(Word::Text(format!(
            "-{}",
            "v".repeat(component.verbosity.into())
        )));
    }
    words
}

/// Whether the program knows `in=` and `out=`.
fn takes_forms(component: &Component) -> bool {
    matches!(component.own_command(), Some("serve" | "run"))
}

/// The command as text, with what `of` makes of each word.
pub fn written(words: &[Word], of: impl FnMut(&Word) -> String) -> Vec<String> {
    words.iter().map(of).collect()
}

/// The port that a frontend's first replica listens on.
pub fn http_port(component: &Component) -> u16 {
    let variable = component
        .variable("DYN_HTTP_PORT")
        .and_then(|it| it.as_plain());
    let named = named_port(component).or(variable);
    named
        .and_then(|text| text.parse().ok())
        .unwrap_or(DEFAULT_HTTP_PORT)
}

/// The port that a flag names.
pub(crate) fn named_port(component: &Component) -> Option<&str> {
    PORTS.iter().find_map(|name| component.parameter(name))
}

/// Whether replicas of a frontend would listen on one port. Port 0 is a free one for everybody.
fn shares_port(component: &Component, hosts: Hosts) -> bool {
    let is_several = hosts == Hosts::Shared && component.replicas > 1;
    is_several && component.role.is_frontend() && http_port(component) > 0
}

/// Adds a flag with its value, as one word where the value looks like a flag itself.
fn push_flag(words: &mut Vec<Word>, name: &str, value: Word) {
    match value {
        Word::Text(text) if text.starts_with('-') => {
            words.push(Word::Text(format!("--{name}={text}")));
        }
        value => words.extend([Word::Text(format!("--{name}")), value]),
    }
}

fn value(component: &Component, text: &str) -> Word {
    match component.files.iter().any(|file| file == text) {
        true => Word::File(text.to_owned()),
        false => Word::Text(text.to_owned()),
    }
}

fn push_nodes(words: &mut Vec<Word>, component: &Component, node: Node) {
    let rank = match node {
        Node::Only => return,
        Node::Leader => Word::Text("0".to_owned()),
        Node::Follower => Word::NodeRank,
    };
    let count = component.nodes.count.to_string();
    push_flag(words, "num-nodes", Word::Text(count));
    push_flag(words, "node-rank", rank);
    push_flag(words, "leader-addr", Word::LeaderAddress);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AnyFlags, parse};

    const EXAMPLE: &str = include_str!("../tests/data/my-graph-config.yaml");

    fn lines(text: &str, node: Node, hosts: Hosts) -> String {
        let graph = parse("graph.yaml", text, &AnyFlags).unwrap();
        let lines = graph.components.iter().map(|component| {
            let words = command(component, node, hosts);
            let words = written(&words, |word| match word {
                Word::Text(text) => text.clone(),
                Word::NodeRank => "<rank>".to_owned(),
                Word::LeaderAddress => "<leader>".to_owned(),
                Word::File(file) => format!("<{file}>"),
                Word::HttpPort(port) => format!("<{port} and up>"),
            });
            words.join(" ")
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_example_becomes_these_commands() {
        insta::assert_snapshot!(lines(EXAMPLE, Node::Only, Hosts::Own), @r"
        dynamo serve in=http out=dyn --port 8080
        dynamo serve in=dyn://llama3-8b.backend.generate out=vllm --model-path meta-llama/Meta-Llama-3-8B-Instruct --tensor-parallel-size 2 --context-length 8192 --base-gpu-id 0 --extra-engine-args <vllm_config.json>
        dynamo serve in=dyn://qwen3-32b.backend.generate out=sglang --model-path /data/models/Qwen/Qwen3-32B --tensor-parallel-size 4 --router-mode kv
        dynamo serve in=batch:/data/prompts.jsonl out=mistralrs --model-path Qwen/Qwen3-4B -vv
        dynamo serve in=dyn://deepseek-70b.backend.generate out=trtllm --model-path deepseek-ai/DeepSeek-R1-Distill-Llama-70B --tensor-parallel-size 16 --extra-engine-args <trtllm_config.yaml>
        ");
        let followers = lines(EXAMPLE, Node::Follower, Hosts::Shared);
        insta::assert_snapshot!(followers, @r"
        dynamo serve in=none out=dyn --port <8080 and up> --num-nodes 1 --node-rank <rank> --leader-addr <leader>
        dynamo serve in=none out=vllm --model-path meta-llama/Meta-Llama-3-8B-Instruct --tensor-parallel-size 2 --context-length 8192 --base-gpu-id 0 --extra-engine-args <vllm_config.json> --num-nodes 1 --node-rank <rank> --leader-addr <leader>
        dynamo serve in=none out=sglang --model-path /data/models/Qwen/Qwen3-32B --tensor-parallel-size 4 --router-mode kv --num-nodes 2 --node-rank <rank> --leader-addr <leader>
        dynamo serve in=none out=mistralrs --model-path Qwen/Qwen3-4B --num-nodes 1 --node-rank <rank> --leader-addr <leader> -vv
        dynamo serve in=none out=trtllm --model-path deepseek-ai/DeepSeek-R1-Distill-Llama-70B --tensor-parallel-size 16 --extra-engine-args <trtllm_config.yaml> --num-nodes 2 --node-rank <rank> --leader-addr <leader>
        ");
    }

    #[test]
    fn flags_of_every_type_are_written() {
        let text = "\
version: 1
name: g
components:
- name: w
  cmd: [python3, -m, dynamo.vllm]
  run_config: {enable-prefix-caching: true, parameters: {disable_log_stats: false}}
  files: [templates/chat.jinja]
  parameters:
    custom_jinja_template: templates/chat.jinja
    served_model_name: [a, \"b c\"]
    kv_transfer_config: {kv_connector: Nixl, ranks: [0, 1.5], quoted: \"1\", on: true}
    gpu_memory_utilization: 0.90
    seed: -1
    no_values: []
    port: 1
- name: f
  cmd: [dynamo, frontend]
  replicas: 2
- name: p
  cmd: [dynamo, frontend]
  replicas: 2
  parameters: {port: 9000}
- name: free
  cmd: [dynamo, frontend]
  replicas: 2
  parameters: {http_port: 0}
";
        insta::assert_snapshot!(lines(text, Node::Only, Hosts::Shared), @r#"
        python3 -m dynamo.vllm --enable-prefix-caching --no-disable-log-stats --custom-jinja-template <templates/chat.jinja> --served-model-name a b c --kv-transfer-config {"kv_connector":"Nixl","ranks":[0,1.5],"quoted":"1","on":true} --gpu-memory-utilization 0.90 --seed=-1 --no-values --port 1
        dynamo frontend --http-port <8000 and up>
        dynamo frontend --port <9000 and up>
        dynamo frontend --http-port 0
        "#);
        let leader = lines(text, Node::Leader, Hosts::Own);
        insta::assert_snapshot!(leader.lines().next().unwrap(), @r#"python3 -m dynamo.vllm --enable-prefix-caching --no-disable-log-stats --custom-jinja-template <templates/chat.jinja> --served-model-name a b c --kv-transfer-config {"kv_connector":"Nixl","ranks":[0,1.5],"quoted":"1","on":true} --gpu-memory-utilization 0.90 --seed=-1 --no-values --port 1 --num-nodes 1 --node-rank 0 --leader-addr <leader>"#);
    }
}
