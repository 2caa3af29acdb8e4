//! Answers in the making in, messages out.

use super::*;

fn values(values: &[Static]) -> ValuesAnswer {
    ValuesAnswer {
        values: values.to_vec(),
        ..ValuesAnswer::default()
    }
}

#[test]
fn a_value_is_said_once() {
    let mut said = Values::second();
    let mut say = |answer| -> Vec<String> {
        let message = said.next(answer).remove(0);
        message
            .tag_values
            .into_iter()
            .map(|value| format!("{} {}", value.r#type, value.value))
            .collect()
    };
    assert_eq!(say(values(&[Static::str("1")])), ["string 1"]);
    // The number is another value than the text.
    assert_eq!(say(values(&[Static::Int(1), Static::str("1")])), ["int 1"]);
    assert!(say(values(&[Static::Int(1), Static::str("1")])).is_empty());
}

#[test]
fn a_name_is_said_once_per_scope_and_intrinsics_at_the_end() {
    let names = |names: &[&str]| TagsAnswer {
        scopes: vec![
            (Scope::Span, names.iter().map(|name| (*name).to_owned()).collect()),
            (Scope::Resource, vec!["a".to_owned()]),
        ],
        ..TagsAnswer::default()
    };
    let mut said = Names::second(true);
    let scopes = |messages: Vec<tempopb::SearchTagsV2Response>| -> Vec<String> {
        let scopes = messages.into_iter().flat_map(|message| message.scopes);
        scopes
            .map(|scope| match scope.name.as_str() {
                "intrinsic" => scope.name,
                name => format!("{name} {}", scope.tags.join(" ")),
            })
            .collect()
    };
    assert_eq!(scopes(said.next(names(&["a"]))), ["span a", "resource a"]);
    assert_eq!(scopes(said.next(names(&["a", "b"]))), ["span b"]);
    assert_eq!(scopes(said.last(names(&["a", "b", "c"]))), ["span c", "intrinsic"]);
    let mut first = Names::first(false);
    assert_eq!(first.next(names(&["a"]))[0].tag_names, ["a"]);
}
