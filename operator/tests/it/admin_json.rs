//! What nodes and the operator say to each other is one JSON: the documents here are those that the node's own tests hold
//! its answers against.

use serde_json::Value;
use vivace_operator::admin::{Command, NodeStatus};

const STATUS: &str = include_str!("../../../node/server/testdata/admin/status.json");
const COMMANDS: &str = include_str!("../../../node/server/testdata/admin/commands.json");

/// Whether `whole` has all that `part` has; an absent value is a null.
fn has(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => part.iter().all(|(key, part)| match whole.get(key) {
            Some(whole) => has(whole, part),
            None => part.is_null(),
        }),
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(whole, part)| has(whole, part))
        }
        _ => whole == part,
    }
}

#[test]
fn every_word_of_a_nodes_status_is_understood() {
    let said: Value = serde_json::from_str(STATUS).unwrap();
    let status: NodeStatus = serde_json::from_str(STATUS).unwrap();
    let understood = serde_json::to_value(&status).unwrap();
    assert!(has(&understood, &said), "{understood:#}");
}

#[test]
fn every_command_is_said_as_nodes_understand_it() {
    let commands: Vec<Value> = serde_json::from_str(COMMANDS).unwrap();
    for said in commands {
        let command: Command = serde_json::from_value(said.clone()).unwrap();
        let again = serde_json::to_value(&command).unwrap();
        assert!(has(&again, &said), "{again:#}");
    }
}
