//! Templates as Hugging Face renders them, and those that raise, loop or overflow.

use super::*;
use serde_json::json;

fn render_with(
    template: &str,
    messages: &Value,
    tools: Option<&Value>,
    kwargs: &Value,
) -> Result<String, TemplateError> {
    let tokens = SpecialTokens::from([("bos_token".to_owned(), "<s>".to_owned())]);
    ChatTemplate::new(template, tokens)?.render(&RenderInput {
        messages,
        tools,
        add_generation_prompt: false,
        continue_final_message: false,
        kwargs: kwargs.as_object().unwrap(),
        now: Duration::from_secs(1_700_000_000),
    })
}

fn render(template: &str, messages: &Value) -> Result<String, TemplateError> {
    render_with(template, messages, None, &json!({}))
}

/// Renders a template that looks at no messages.
fn text(template: &str) -> String {
    render(template, &json!([])).unwrap()
}

#[test]
fn blocks_leave_no_lines_behind() {
    assert_eq!(text("a\n  {% if true %}\nb\n  {% endif %}\nc\n"), "a\nb\nc");
}

#[test]
fn values_print_as_in_python() {
    let expected = "True None 1.0 ['a', 1, {'b': False}]";
    assert_eq!(
        text("{{ true }} {{ none }} {{ 1.0 }} {{ ['a', 1, {'b': false}] }}"),
        expected
    );
    assert_eq!(
        text("{{ missing }}|{{ 'x' ~ none }}|{{ (1, 'a') }}"),
        "|xNone|(1, 'a')"
    );
}

#[test]
fn python_methods_work() {
    let cases = [
        (
            "{{ 'xxaxx'.strip('x') }}{{ ' b '.lstrip() }}{{ 'c\\n\\n'.rstrip('\\n') }}",
            "ab c",
        ),
        (
            "{{ 'a-b-c'.split('-') | join(',') }} {{ 'a-b-c'.split('-', 1)[-1] }}",
            "a,b,c b-c",
        ),
        (
            "{{ 'a-b-c'.rsplit('-', 1)[0] }} {{ 'abc'.startswith(('x', 'ab')) }}",
            "a-b True",
        ),
        ("{{ 'abc'.removeprefix('a').removesuffix('c') }}", "b"),
        (
            "{{ 'k=v=w'.partition('=')[2] }} {{ 'k=v=w'.rpartition('=')[0] }}",
            "v=w k=v",
        ),
        (
            "{{ 'hello'.index('l') }} {{ ['a', 'b'].index('b') }} {{ '-7'.zfill(4) }}",
            "2 1 -007",
        ),
        (
            "{{ {'a': 1}.get('b', 2) }}{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}",
            "2a1",
        ),
        (
            "{% for k, v in {'b': 1, 'a': 2} | items %}{{ k }}{% endfor %}",
            "ba",
        ),
        (
            "{% for k, v in {'b': 1, 'a': 2} | dictsort %}{{ k }}{% endfor %}",
            "ab",
        ),
        (
            "{{ [1, 2, 3][::-1] }} {{ [1, 2, 3][1:] }} {{ 'abc'[::-1] }}",
            "[3, 2, 1] [2, 3] cba",
        ),
        (
            "{{ 'ab'.upper() }}{{ 'Ab c'.title() }}{{ 'aXb'.replace('X', '') }}",
            "ABAb Cab",
        ),
    ];
    for (template, expected) in cases {
        assert_eq!(text(template), expected, "{template}");
    }
}

#[test]
fn tests_hold_as_in_jinja2() {
    let template = "{{ x is defined }} {{ none is none }} {{ {} is mapping }} {{ 'a' is iterable }} \
        {{ 'a' is sequence }} {{ [] is sequence }} {{ 'a' is string }} {{ 1 is string }} {{ 1 is number }} \
        {{ true is boolean }} {{ 'a' in {'a': 1} }} {{ {} is sequence }} {{ 1 is sequence }} {{ none is iterable }} {{ [] is iterable }}";
    let expected = "False True True True True True True False True True True True False False True";
    assert_eq!(text(template), expected);
}

#[test]
fn namespaces_loops_and_macros_work() {
    let template = "{%- macro twice(x, times=2) -%}{{ x * times }}{%- endmacro -%}\
        {%- set ns = namespace(n=0) -%}\
        {%- for i in range(10) -%}{%- if i == 3 -%}{%- continue -%}{%- endif -%}\
        {%- if i == 5 -%}{%- break -%}{%- endif -%}{%- set ns.n = ns.n + i -%}\
        {%- if loop.previtem is defined -%}{{ loop.previtem }}{%- endif -%}{%- endfor -%}\
        ={{ ns.n }}{{ twice('a') }}{{ twice('b', times=3) }}";
    assert_eq!(text(template), "013=7aabbb");
}

#[test]
fn recursive_macros_are_bounded() {
    let template = "{% macro f(x) %}{{ f(x + 1) }}{% endmacro %}{{ f(0) }}";
    assert!(matches!(
        render(template, &json!([])),
        Err(TemplateError::Failed { .. })
    ));
    let schema = "{% macro f(s) %}{{ s.t }}{% if s.of %}<{{ f(s.of) }}>{% endif %}{% endmacro %}{{ f(messages[0]) }}";
    let nested = json!([{"t": "a", "of": {"t": "b", "of": {"t": "c"}}}]);
    assert_eq!(render(schema, &nested).unwrap(), "a<b<c>>");
}

#[test]
fn what_a_template_raises_comes_through() {
    let template =
        "{% for m in messages %}{{ raise_exception('roles must ' + m.role) }}{% endfor %}";
    let outcome = render(template, &json!([{"role": "alternate"}]));
    assert_eq!(
        outcome,
        Err(TemplateError::Raised {
            message: "roles must alternate".to_owned()
        })
    );
    let inside = "{% macro f() %}{{ raise_exception('no') }}{% endmacro %}{{ f() }}";
    assert_eq!(
        render(inside, &json!([])),
        Err(TemplateError::Raised {
            message: "no".to_owned()
        })
    );
}

#[test]
fn a_template_that_does_not_end_is_ended() {
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}\
        {% set x = 1 %}{% endfor %}{% endfor %}{% endfor %}";
    let error = render(endless, &json!([])).unwrap_err();
    assert_eq!(
        error,
        TemplateError::TooManySteps {
            steps: ChatTemplate::MAX_STEPS
        }
    );
}

#[test]
fn a_prompt_that_is_too_large_is_refused() {
    let content = "x".repeat(1 << 20);
    let template = "{% for i in range(65) %}{{ messages[0].content }}{% endfor %}";
    let error = render(template, &json!([{"content": content}])).unwrap_err();
    assert_eq!(
        error,
        TemplateError::TooLarge {
            limit: ChatTemplate::MAX_OUTPUT_BYTES
        }
    );
}

#[test]
fn malformed_templates_are_refused_when_compiled() {
    let error = ChatTemplate::new("{% if %}", SpecialTokens::new()).unwrap_err();
    assert!(matches!(error, TemplateError::Malformed { .. }), "{error}");
}

#[test]
fn json_is_written_as_python_writes_it() {
    let messages = json!([{"z": "é<\"", "a": [1, 2.5, null, true]}]);
    let cases = [
        (
            "{{ messages[0] | tojson }}",
            r#"{"z": "é<\"", "a": [1, 2.5, null, true]}"#,
        ),
        (
            "{{ messages[0].a | tojson(indent=2) }}",
            "[\n  1,\n  2.5,\n  null,\n  true\n]",
        ),
        (
            "{{ {'a': 1} | tojson(separators=(',', ':')) }}",
            r#"{"a":1}"#,
        ),
        ("{{ 'é' | tojson(ensure_ascii=True) }}", r#""\u00e9""#),
        (
            "{{ messages[0] | tojson(sort_keys=True) }}",
            r#"{"a": [1, 2.5, null, true], "z": "é<\""}"#,
        ),
    ];
    for (template, expected) in cases {
        assert_eq!(render(template, &messages).unwrap(), expected, "{template}");
    }
}

#[test]
fn the_date_is_the_one_given() {
    assert_eq!(
        text("{{ strftime_now('%d %b %Y %H:%M') }}"),
        "14 Nov 2023 22:13"
    );
}

#[test]
fn generation_marks_leave_their_content() {
    assert_eq!(
        text("a\n{% generation %}\nb{%- endgeneration -%}  c"),
        "a\nbc"
    );
}

#[test]
fn kwargs_are_variables_and_replace_no_messages() {
    let template = "{{ bos_token }}{{ thinking }}{{ messages | length }}{{ tools is defined }}{{ tools is none }}";
    let kwargs = json!({"thinking": true, "messages": [1, 2, 3], "bos_token": "B"});
    let rendered = render_with(template, &json!([{"role": "user"}]), None, &kwargs).unwrap();
    assert_eq!(rendered, "BTrue1TrueTrue");
}

#[test]
fn developer_is_system_where_the_template_does_not_know_it() {
    let messages = json!([{"role": "developer", "content": "d"}]);
    let plain = "{% for m in messages %}{{ m.role }}:{{ m.content }}{% endfor %}";
    assert_eq!(render(plain, &messages).unwrap(), "system:d");
    let knowing = format!("{{% if 'developer' in [] %}}{{% endif %}}{plain}");
    assert_eq!(render(&knowing, &messages).unwrap(), "developer:d");
    let mentioning = format!("Made by a developer.{plain}");
    assert_eq!(
        render(&mentioning, &messages).unwrap(),
        "Made by a developer.system:d"
    );
}

#[test]
fn text_parts_are_joined_for_templates_that_want_text() {
    let parts = json!([{"role": "user", "content": [
        {"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}]);
    let joins = "{% for m in messages %}{{ '[' + m.content + ']' }}{% endfor %}";
    assert_eq!(render(joins, &parts).unwrap(), "[one\ntwo]");
    let prints = "{% for m in messages %}[{{ m.content }}]{% endfor %}";
    assert_eq!(render(prints, &parts).unwrap(), "[one\ntwo]");
    let iterates = "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}\
        {% for p in m.content %}<{{ p.text }}>{% endfor %}{% endif %}{% endfor %}";
    assert_eq!(render(iterates, &parts).unwrap(), "<one><two>");
}

#[test]
fn parts_are_joined_for_the_roles_whose_parts_a_template_does_not_write_whole() {
    let template = "{% for m in messages %}{{ m.role }}:\
        {% if m.content is string %}{{ m.content }}\
        {% elif m.role == 'system' %}{{ m.content[0].text }}\
        {% else %}{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endif %};{% endfor %}";
    let parts = json!([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]);
    for (role, expected) in [
        ("user", "user:<one><two>;"),
        ("assistant", "assistant:<one><two>;"),
        ("tool", "tool:<one><two>;"),
        ("system", "system:one\ntwo;"),
        ("developer", "system:one\ntwo;"),
        ("narrator", "narrator:one\ntwo;"),
    ] {
        let messages = json!([{"role": role, "content": parts}]);
        assert_eq!(render(template, &messages).unwrap(), expected);
    }
}

#[test]
fn a_refusal_is_text_to_every_template() {
    let joins = "{% for m in messages %}{{ '[' + m.content + ']' }}{% endfor %}";
    let iterates = "{% for m in messages %}{% if m.content is string %}[{{ m.content }}]{% else %}\
        {% for p in m.content %}{% if p.type == 'text' %}[{{ p.text }}]{% endif %}{% endfor %}\
        {% endif %}{% endfor %}";
    for content in [
        json!({"role": "assistant", "content": null, "refusal": "no"}),
        json!({"role": "assistant", "refusal": "no"}),
        json!({"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}),
    ] {
        for template in [joins, iterates] {
            assert_eq!(render(template, &json!([content])).unwrap(), "[no]");
        }
    }
    let both = json!([{"role": "assistant", "content": "said", "refusal": "no"}]);
    assert_eq!(render(joins, &both).unwrap(), "[said]");
}

#[test]
fn a_list_of_no_calls_is_no_list() {
    let template = "{{ 'tool_calls' in messages[0] }}{{ messages[0].keys() | list }}";
    for calls in [json!([]), Value::Null] {
        let message = json!({"role": "assistant", "tool_calls": calls, "content": "a"});
        assert_eq!(
            render(template, &json!([message])).unwrap(),
            "False['role', 'content']"
        );
    }
}

#[test]
fn without_a_template_the_texts_stand_one_a_line() {
    let messages = json!([
        {"role": "developer", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]},
        {"role": "assistant", "content": null, "tool_calls": []},
        {"role": "assistant", "refusal": "d"},
    ]);
    assert_eq!(raw_text(&messages), "a\nb\nc\nd");
}

#[test]
fn tool_arguments_come_in_the_form_that_the_template_wants() {
    let messages = json!([{"role": "assistant", "content": null, "tool_calls": [
        {"type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}]}]);
    let open = "{% for m in messages %}{% for c in m.tool_calls %}";
    let close = "{% endfor %}{% endfor %}";
    let dumps = format!("{open}{{{{ c.function.arguments | tojson }}}}{close}");
    assert_eq!(render(&dumps, &messages).unwrap(), "{\"a\": 1}");
    let needs_text = format!("{{{{ messages[0].content + messages[1].content }}}}{dumps}");
    assert!(
        render(&needs_text, &json!([{"content": ""}, messages[0]]))
            .unwrap()
            .ends_with("{\"a\": 1}")
    );
    let writes = format!("{open}{{{{ '' + c.function.arguments }}}}{close}");
    assert_eq!(render(&writes, &messages).unwrap(), "{\"a\":1}");
}

#[test]
fn arguments_as_objects_become_text_where_the_template_joins_texts() {
    let messages = json!([{"role": "assistant", "content": null, "tool_calls": [
        {"type": "function", "function": {"name": "f", "arguments": {"a": [1, "é"]}}}]}]);
    let writes = "{% for m in messages %}{% for c in m.tool_calls %}\
        {{ '' + c.function.arguments }}{% endfor %}{% endfor %}";
    assert_eq!(render(writes, &messages).unwrap(), "{\"a\": [1, \"é\"]}");
}

#[test]
fn null_content_is_empty_text_where_the_template_fails_on_it() {
    let messages = json!([{"role": "assistant", "content": null}]);
    assert_eq!(
        render("{{ 'a' + messages[0].content }}", &messages).unwrap(),
        "a"
    );
    let asks = "{% if messages[0].content is none %}none{% endif %}";
    assert_eq!(render(asks, &messages).unwrap(), "none");
}

#[test]
fn tools_choose_their_template() {
    let templates = [("default", "plain"), ("tool_use", "tools")];
    let templates = templates.map(|(name, source)| (name.to_owned(), source.to_owned()));
    let template = ChatTemplate::named(templates, SpecialTokens::new()).unwrap();
    let input = RenderInput {
        messages: &json!([]),
        tools: None,
        add_generation_prompt: false,
        continue_final_message: false,
        kwargs: &Map::new(),
        now: Duration::ZERO,
    };
    assert_eq!(template.render(&input).unwrap(), "plain");
    let tools = json!([]);
    assert_eq!(
        template
            .render(&RenderInput {
                tools: Some(&tools),
                ..input
            })
            .unwrap(),
        "tools"
    );
    let several = [
        ("a".to_owned(), String::new()),
        ("b".to_owned(), String::new()),
    ];
    let error = ChatTemplate::named(several, SpecialTokens::new()).unwrap_err();
    assert_eq!(error, TemplateError::NoDefault);
}

#[test]
fn the_last_message_can_stay_open() {
    let template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>\n{% endfor %}";
    let trimming = template.replace("m.content", "m.content | trim");
    let messages =
        json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "so far "}]);
    let open = |template: &str, messages: &Value| {
        ChatTemplate::new(template, SpecialTokens::new())
            .unwrap()
            .render(&RenderInput {
                messages,
                tools: None,
                add_generation_prompt: false,
                continue_final_message: true,
                kwargs: &Map::new(),
                now: Duration::ZERO,
            })
    };
    assert_eq!(
        open(template, &messages).unwrap(),
        "<user>q</s>\n<assistant>so far "
    );
    assert_eq!(
        open(&trimming, &messages).unwrap(),
        "<user>q</s>\n<assistant>so far"
    );
    assert!(matches!(
        open("", &messages),
        Err(TemplateError::CannotContinue { .. })
    ));
    assert!(matches!(
        open(template, &json!([])),
        Err(TemplateError::CannotContinue { .. })
    ));
}
