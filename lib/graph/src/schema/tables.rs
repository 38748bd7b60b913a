//! Every key of a graph file: its form, its words, an example.

use super::{Field, Kind, Object, form};

/// Components of one graph: far above what one Kubernetes object or one Slurm job takes.
pub(crate) const MAX_COMPONENTS: usize = 100;

/// Entries of a list or a mapping below a component.
const MAX_ENTRIES: usize = 200;

/// Most processes of one component.
const MAX_REPLICAS: i64 = 1_000;

/// Most nodes that one replica spans.
const MAX_NODES: i64 = 256;

/// The version that this program reads.
pub(crate) const VERSIONS: [&str; 2] = ["1.0", "1"];

/// Words for the part that a component plays.
pub(crate) const ROLES: &[(&str, &str)] = &[
    (
        "frontend",
        "takes requests of clients over HTTP; stops first",
    ),
    ("router", "says which worker gets a request"),
    ("planner", "scales the others"),
    ("worker", "serves an engine"),
    ("prefill", "a worker that computes prompts for others"),
    (
        "decode",
        "a worker that generates after others computed the prompt",
    ),
    ("batch", "works through a file once and ends"),
];

const TOLERATION_OPERATORS: &[(&str, &str)] = &[
    ("Equal", "the taint has this key and this value"),
    ("Exists", "the taint has this key"),
];

const TAINT_EFFECTS: &[(&str, &str)] = &[
    ("NoSchedule", "pods do not come"),
    ("PreferNoSchedule", "pods come if nothing else is free"),
    ("NoExecute", "pods do not come, and those that are there go"),
];

const fn field(name: &'static str, kind: Kind, example: &'static str, doc: &'static str) -> Field {
    Field {
        name,
        doc,
        kind,
        example,
        default: "",
        required: false,
    }
}

const fn required(field: Field) -> Field {
    Field {
        required: true,
        ..field
    }
}

const fn default(field: Field, default: &'static str) -> Field {
    Field { default, ..field }
}

const ENVIRONMENT: Kind = Kind::Map {
    keys: &form::VARIABLE,
    values: &Kind::Scalar(&form::VALUE),
};

const SECRETS: Kind = Kind::List {
    of: &Kind::Text(&form::SECRET),
    min: 0,
    max: MAX_ENTRIES,
};

/// The whole file.
pub(crate) static GRAPH: Object = Object {
    name: "graph",
    words: "a graph",
    doc: "One deployment: components that find each other by discovery.",
    takes_parameters: false,
    fields: &[
        required(field(
            "version",
            Kind::Version,
            "1.0",
            "Version of this file's form.",
        )),
        required(field(
            "name",
            Kind::Text(&form::NAME),
            "my-graph",
            "Name of the graph. On Kubernetes every object's name begins with it; `_` becomes `-` and capitals small letters.",
        )),
        field(
            "namespace",
            Kind::Text(&form::NAMESPACE),
            "llama",
            "Namespace of all components in discovery (`DYN_NAMESPACE`). Frontends then serve the models of that namespace alone.",
        ),
        field(
            "image",
            Kind::Text(&form::ANY),
            "registry.example/dynamo:1.0",
            "Container image of components that name none.",
        ),
        field(
            "environment",
            ENVIRONMENT,
            "{DYN_LOG: debug}",
            "Environment variables of every component; a component's own win.",
        ),
        field(
            "secrets",
            SECRETS,
            "[registry-keys]",
            "Secrets that are loaded whole into the environment of every component.",
        ),
        required(field(
            "components",
            Kind::List {
                of: &Kind::Object(&COMPONENT),
                min: 1,
                max: MAX_COMPONENTS,
            },
            "[{name: worker, cmd: [dynamo, mocker]}]",
            "What the graph is made of.",
        )),
    ],
};

/// One component.
pub(crate) static COMPONENT: Object = Object {
    name: "component",
    words: "a component",
    doc: "One program with its flags, run in any number of replicas.",
    takes_parameters: false,
    fields: &[
        required(field(
            "name",
            Kind::Text(&form::NAME),
            "vllm_worker",
            "Name of the component, unlike those of the others.",
        )),
        field(
            "image",
            Kind::Text(&form::ANY),
            "registry.example/vllm:1.0",
            "Container image. Text that is no image, such as `...`, is carried along as a placeholder.",
        ),
        default(
            field(
                "cmd",
                Kind::List {
                    of: &Kind::Text(&form::ANY),
                    min: 1,
                    max: MAX_ENTRIES,
                },
                "[dynamo, serve]",
                "The program and its first words.",
            ),
            "[dynamo, serve]",
        ),
        field(
            "role",
            Kind::Choice(ROLES),
            "worker",
            "The part it plays, which decides how it is watched and when it stops. Not given, `run_config.input` and `cmd` tell: `http` is a frontend, `batch:` is batch, `dynamo router` is a router, and so on; the rest are workers.",
        ),
        field(
            "run_config",
            Kind::Object(&RUN_CONFIG),
            "{input: http, output: dyn}",
            "What it connects, and its flags.",
        ),
        field(
            "parameters",
            Kind::Object(&PARAMETERS),
            "{model_path: /models/llama}",
            "Flags of the program: `model_path: X` becomes `--model-path X`, `true` and `false` become `--name` and `--no-name`, a list becomes `--name a b`, a mapping JSON; options of this project's own programs are repeated, `--name a --name b`.",
        ),
        default(
            field(
                "replicas",
                Kind::Integer {
                    min: 0,
                    max: MAX_REPLICAS,
                },
                "2",
                "How many of it run.",
            ),
            "1",
        ),
        field(
            "resources",
            Kind::Object(&RESOURCES),
            "{gpu: 2, memory: 24Gi}",
            "What one process of it needs: for several nodes, on each of them.",
        ),
        field(
            "environment",
            ENVIRONMENT,
            "{HF_TOKEN: \"${{ secrets.HF_TOKEN }}\"}",
            "Environment variables. `${{ secrets.KEY }}` is key KEY of the Secret `<graph>-secrets`; elsewhere than on Kubernetes it is the variable KEY of whoever deploys, or of `--secrets-file`.",
        ),
        field(
            "secrets",
            SECRETS,
            "[my-secret]",
            "Secrets whose keys all become environment variables.",
        ),
        field(
            "files",
            Kind::List {
                of: &Kind::Text(&form::ANY),
                min: 0,
                max: MAX_ENTRIES,
            },
            "[vllm_config.json]",
            "Files beside this one that the component reads. They are carried along, and parameters that name them point to where they are. The file of `extra_engine_args` needs no mention.",
        ),
        field(
            "node_selector",
            Kind::Map {
                keys: &form::LABEL_KEY,
                values: &Kind::Scalar(&form::LABEL_VALUE),
            },
            "{role: leader}",
            "Kubernetes: labels that a node must have.",
        ),
        field(
            "tolerations",
            Kind::List {
                of: &Kind::Object(&TOLERATION),
                min: 0,
                max: MAX_ENTRIES,
            },
            "[{key: nvidia.com/gpu, operator: Exists}]",
            "Kubernetes: taints of nodes that its pods bear.",
        ),
        field(
            "volumes",
            Kind::List {
                of: &Kind::Object(&VOLUME),
                min: 0,
                max: MAX_ENTRIES,
            },
            "[{claim: models, mount_path: /data/models}]",
            "Kubernetes: volumes that its pods see. Elsewhere the paths have to be there.",
        ),
    ],
};

/// What a component connects.
pub(crate) static RUN_CONFIG: Object = Object {
    name: "run_config",
    words: "run_config",
    doc: "Every key but `input`, `output` and `parameters` is a flag of the program, here, under `parameters` or under the component's `parameters`, wherever it reads best. A flag that is given twice must have one value.",
    takes_parameters: true,
    fields: &[
        field(
            "input",
            Kind::Text(&form::INPUT),
            "dyn://llama.backend.generate",
            "Where requests come from: `in=...` of `dynamo serve`.",
        ),
        field(
            "output",
            Kind::Text(&form::OUTPUT),
            "vllm",
            "What answers them: `out=...` of `dynamo serve`.",
        ),
        field(
            "parameters",
            Kind::Object(&PARAMETERS),
            "{model_path: /models/llama}",
            "Flags of the program.",
        ),
    ],
};

/// Flags, of which some have a meaning here.
pub(crate) static PARAMETERS: Object = Object {
    name: "parameters",
    words: "parameters",
    doc: "Flags of the program by name. Any name is taken; those of this project's own programs are checked. These have a meaning of their own:",
    takes_parameters: true,
    fields: &[
        field(
            "verbosity",
            Kind::Integer { min: 0, max: 2 },
            "2",
            "How much is logged: 1 becomes `-v` (debug), 2 becomes `-vv` (trace).",
        ),
        field(
            "num_nodes",
            Kind::Integer {
                min: 1,
                max: MAX_NODES,
            },
            "2",
            "Nodes that one replica spans. From 2 on, each replica is a leader, which has the component's input, and followers with `in=none`; all get `--num-nodes`, `--node-rank` and `--leader-addr`.",
        ),
        field(
            "node_rank",
            Kind::Integer {
                min: 0,
                max: MAX_NODES - 1,
            },
            "0",
            "Which of the nodes this is. Ranks are given by the target, so that 0 or nothing stands here.",
        ),
        field(
            "leader_addr",
            Kind::Text(&form::ADDRESS),
            "\"127.0.0.1:9876\"",
            "Address of the leader. The target puts the host where the leader runs; the port counts.",
        ),
        field(
            "extra_engine_args",
            Kind::Text(&form::ANY),
            "vllm_config.json",
            "File with further arguments of the engine. It is carried along if it lies beside this one.",
        ),
    ],
};

/// What a process needs.
pub(crate) static RESOURCES: Object = Object {
    name: "resources",
    words: "resources",
    doc: "What one process needs: on several nodes, each.",
    takes_parameters: false,
    fields: &[
        field(
            "cpu",
            Kind::Scalar(&form::CPU),
            "500m",
            "Processor cores. Kubernetes: requested, not limited. Slurm: rounded up to whole cores.",
        ),
        field(
            "memory",
            Kind::Scalar(&form::MEMORY),
            "2Gi",
            "Memory. Kubernetes: requested and limited.",
        ),
        field(
            "gpu",
            Kind::Integer { min: 0, max: 1_024 },
            "2",
            "NVIDIA GPUs. Nothing gives a process more or fewer.",
        ),
    ],
};

/// A taint that pods bear.
pub(crate) static TOLERATION: Object = Object {
    name: "toleration",
    words: "a toleration",
    doc: "As in a Kubernetes pod.",
    takes_parameters: false,
    fields: &[
        field(
            "key",
            Kind::Text(&form::LABEL_KEY),
            "nvidia.com/gpu",
            "Key of the taint. Not given, every taint.",
        ),
        default(
            field(
                "operator",
                Kind::Choice(TOLERATION_OPERATORS),
                "Exists",
                "How the taint is compared.",
            ),
            "Equal",
        ),
        field(
            "value",
            Kind::Scalar(&form::LABEL_VALUE),
            "\"present\"",
            "Value of the taint.",
        ),
        field(
            "effect",
            Kind::Choice(TAINT_EFFECTS),
            "NoSchedule",
            "Effect that is borne. Not given, all of them.",
        ),
    ],
};

/// A volume that pods see.
pub(crate) static VOLUME: Object = Object {
    name: "volume",
    words: "a volume",
    doc: "A PersistentVolumeClaim that is there already.",
    takes_parameters: false,
    fields: &[
        required(field(
            "claim",
            Kind::Text(&form::SECRET),
            "models",
            "Name of the PersistentVolumeClaim.",
        )),
        required(field(
            "mount_path",
            Kind::Text(&form::PATH),
            "/data/models",
            "Where the pod sees it.",
        )),
    ],
};

/// Every object, in the order of the reference.
pub(crate) const OBJECTS: [&Object; 7] = [
    &GRAPH,
    &COMPONENT,
    &RUN_CONFIG,
    &PARAMETERS,
    &RESOURCES,
    &TOLERATION,
    &VOLUME,
];
