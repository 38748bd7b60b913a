//! Forms of texts: in words for messages, as a pattern for the JSON schema, and as a test. That
//! pattern and test agree is checked over every broken graph by `tests/graph`.

use crate::quantity;

/// The form of a text.
#[derive(Debug)]
pub(crate) struct Form {
    /// The form in words, with an article: completes "is not ...".
    pub(crate) words: &'static str,
    /// A text of that form; empty where the form says it all.
    pub(crate) example: &'static str,
    /// The form as a regular expression.
    pub(crate) pattern: &'static str,
    /// Most characters.
    pub(crate) longest: usize,
    /// Whether a text that is not too long has the form.
    pub(crate) holds: fn(&str) -> bool,
}

/// Any text that says something. Kubernetes takes an environment variable of this size, and so
/// does a command line.
pub(crate) static ANY: Form = Form {
    words: "a text that is not empty",
    example: "",
    pattern: r"\S",
    longest: 32_768,
    holds: |text| text.chars().any(|char| !char.is_whitespace()),
};

/// Values of environment variables.
pub(crate) static VALUE: Form = Form {
    words: "one text without zero bytes",
    example: "",
    pattern: "^[^\\u0000]*$",
    longest: 32_768,
    holds: |text| !text.contains('\0'),
};

/// Names of graphs and components: what becomes a DNS label.
pub(crate) static NAME: Form = Form {
    words: "a name: letters, digits, - and _, a letter first, a letter or digit last, 48 characters at most",
    example: "vllm_worker",
    pattern: "^[A-Za-z]([A-Za-z0-9_-]*[A-Za-z0-9])?$",
    longest: 48,
    holds: |text| {
        let is_alphanumeric =
            |char: Option<char>| char.is_some_and(|it| it.is_ascii_alphanumeric());
        text.starts_with(|first: char| first.is_ascii_alphabetic())
            && is_alphanumeric(text.chars().last())
            && text
                .chars()
                .all(|char| char.is_ascii_alphanumeric() || "_-".contains(char))
    },
};

/// Namespaces in discovery.
pub(crate) static NAMESPACE: Form = Form {
    words: "a namespace: letters, digits, - and _",
    example: "llama",
    pattern: "^[A-Za-z0-9_-]+$",
    longest: 63,
    holds: |text| !text.is_empty() && text.chars().all(is_word),
};

/// Names of environment variables.
pub(crate) static VARIABLE: Form = Form {
    words: "the name of a variable: letters, digits and _, no digit first",
    example: "HF_TOKEN",
    pattern: "^[A-Za-z_][A-Za-z0-9_]*$",
    longest: 256,
    holds: is_variable,
};

/// Names of Kubernetes objects as the graph may give them: `_` is taken for `-`.
pub(crate) static SECRET: Form = Form {
    words: "the name of a Kubernetes object: letters, digits, -, _ and ., a letter or digit at both ends",
    example: "my-secret",
    pattern: "^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$",
    longest: 253,
    holds: |text| is_enclosed(text, "_.-"),
};

/// Keys of labels and taints.
pub(crate) static LABEL_KEY: Form = Form {
    words: "the key of a label: letters, digits, -, _ and ., after a prefix and / if it has one",
    example: "nvidia.com/gpu.product",
    pattern: "^([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$",
    longest: 317,
    holds: |text| match text.split_once('/') {
        Some((prefix, name)) => is_enclosed(prefix, ".-") && is_label(name),
        None => is_label(text),
    },
};

/// Values of labels and taints.
pub(crate) static LABEL_VALUE: Form = Form {
    words: "the value of a label: letters, digits, -, _ and ., a letter or digit at both ends, 63 characters at most",
    example: "leader",
    pattern: "^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$",
    longest: 63,
    holds: is_label,
};

/// Numbers of cores.
pub(crate) static CPU: Form = Form {
    words: "a number of cores above 0, in cores or thousandths",
    example: "500m or 2",
    pattern: r"^(?=.*[1-9])([0-9]+m|[0-9]+(\.[0-9]{1,3})?)$",
    longest: 12,
    holds: |text| quantity::Cpu::parse(text).is_some(),
};

/// Amounts of memory.
pub(crate) static MEMORY: Form = Form {
    words: "an amount of memory above 0: a number with Ki, Mi, Gi, Ti, k, M, G, T or nothing for bytes",
    example: "24Gi",
    pattern: r"^(?=.*[1-9])[0-9]+(\.[0-9]{1,3})?(Ki|Mi|Gi|Ti|k|M|G|T)?$",
    longest: 20,
    holds: |text| quantity::Memory::parse(text).is_some(),
};

/// Where requests come from.
pub(crate) static INPUT: Form = Form {
    words: "one of http, grpc, none, batch:FILE.jsonl, dyn://NAMESPACE.COMPONENT.ENDPOINT (text and stdin are for terminals)",
    example: "",
    pattern: r"^(http|grpc|none|batch:.+|dyn://[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){0,2})$",
    longest: 4_096,
    holds: |text| {
        matches!(text, "http" | "grpc" | "none")
            || text
                .strip_prefix("batch:")
                .is_some_and(|file| !file.is_empty())
            || text.strip_prefix("dyn://").is_some_and(is_endpoint)
    },
};

/// What answers requests.
pub(crate) static OUTPUT: Form = Form {
    words: "dyn, auto, dyn://NAMESPACE.COMPONENT.ENDPOINT, http://HOST:PORT or the name of an engine",
    example: "vllm",
    pattern: r"^([A-Za-z][A-Za-z0-9_-]*|dyn://[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){0,2}|https?://[^\s]+)$",
    longest: 4_096,
    holds: |text| {
        if let Some(endpoint) = text.strip_prefix("dyn://") {
            return is_endpoint(endpoint);
        }
        let server = text
            .strip_prefix("http://")
            .or_else(|| text.strip_prefix("https://"));
        match server {
            Some(server) => !server.is_empty() && !server.contains(char::is_whitespace),
            None => {
                text.starts_with(|first: char| first.is_ascii_alphabetic())
                    && text.chars().all(is_word)
            }
        }
    },
};

/// A host and a port.
pub(crate) static ADDRESS: Form = Form {
    words: "an address HOST:PORT with a port from 1 to 65535",
    example: "10.0.0.1:9876",
    pattern: r"^[^\s/]+:0*([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$",
    longest: 260,
    holds: |text| split_address(text).is_some(),
};

/// An absolute path.
pub(crate) static PATH: Form = Form {
    words: "an absolute path without a colon",
    example: "/data/models",
    pattern: "^/[^:]*$",
    longest: 4_096,
    holds: |text| text.starts_with('/') && !text.contains([':', '\n']),
};

/// Names of parameters.
pub(crate) static PARAMETER: Form = Form {
    words: "the name of a flag: letters, digits, -, _ and ., a letter first",
    example: "model_path",
    pattern: "^[A-Za-z][A-Za-z0-9_.-]*$",
    longest: 128,
    holds: |text| {
        text.starts_with(|first: char| first.is_ascii_alphabetic())
            && text.chars().all(|char| is_word(char) || char == '.')
    },
};

// === impl Form ===

impl Form {
    /// Whether a text has the form.
    pub(crate) fn is(&self, text: &str) -> bool {
        text.chars().count() <= self.longest && (self.holds)(text)
    }

    /// The form in words, with an example.
    pub(crate) fn expected(&self) -> String {
        match self.example {
            "" => self.words.to_owned(),
            example => format!("{}, such as {example}", self.words),
        }
    }
}

/// Host and port of an address.
pub(crate) fn split_address(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let is_host =
        !host.is_empty() && !host.contains(|char: char| char.is_whitespace() || char == '/');
    let digits = !port.is_empty() && port.chars().all(|char| char.is_ascii_digit());
    let port = port
        .parse::<u16>()
        .ok()
        .filter(|port| digits && *port > 0)?;
    is_host.then_some((host, port))
}

/// Whether a text can name a variable.
pub(crate) fn is_variable(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && text
            .chars()
            .all(|char| char.is_ascii_alphanumeric() || char == '_')
}

fn is_word(char: char) -> bool {
    char.is_ascii_alphanumeric() || "_-".contains(char)
}

fn is_endpoint(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    parts.len() <= 3
        && parts
            .iter()
            .all(|part| !part.is_empty() && part.chars().all(is_word))
}

fn is_label(text: &str) -> bool {
    text.len() <= 63 && is_enclosed(text, "_.-")
}

/// Letters and digits at both ends, and between them some others.
fn is_enclosed(text: &str, others: &str) -> bool {
    let is_end = |char: Option<char>| char.is_some_and(|it| it.is_ascii_alphanumeric());
    let mut chars = text.chars();
    is_end(text.chars().next())
        && is_end(text.chars().last())
        && chars.all(|char| char.is_ascii_alphanumeric() || others.contains(char))
}
