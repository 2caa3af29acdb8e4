//! Query strings in, questions or sentences out.

use settings::NodeSettings;

use super::*;

/// 2023-11-14T22:13:20Z
const NOW: u64 = 1_700_000_000 * NANOS;

fn with_rules<T>(run: impl FnOnce(&Rules<'_>) -> T) -> T {
    let settings = NodeSettings::default();
    run(&Rules {
        query: &settings.query,
        limits: &settings.limits.defaults,
        now_unix_nanos: NOW,
    })
}

fn search(query: &str) -> Result<SearchParams, String> {
    let parse = |rules: &Rules<'_>| parse_search(&Params::parse(Some(query))?, rules);
    with_rules(parse).map_err(|refusal: Refusal| refusal.message.into_owned())
}

fn tags(query: &str) -> Result<TagsParams, String> {
    let parse = |rules: &Rules<'_>| parse_tags(&Params::parse(Some(query))?, rules);
    with_rules(parse).map_err(|refusal: Refusal| refusal.message.into_owned())
}

fn values(query: &str) -> Result<ValuesParams, String> {
    let parse = |rules: &Rules<'_>| parse_values(&Params::parse(Some(query))?, rules);
    with_rules(parse).map_err(|refusal: Refusal| refusal.message.into_owned())
}

fn trace(query: &str) -> Result<TraceParams, String> {
    Params::parse(Some(query))
        .and_then(|params| parse_trace(&params, NOW))
        .map_err(|refusal| refusal.message.into_owned())
}

fn seconds(start: u64, end: u64) -> TimeRange {
    TimeRange {
        start_unix_nanos: start * NANOS,
        end_unix_nanos: end * NANOS,
    }
}

#[test]
fn a_search_without_anything_is_everything_recent() {
    let expected = SearchParams {
        query: "{ }".into(),
        window: TimeRange {
            start_unix_nanos: NOW - 3600 * NANOS,
            end_unix_nanos: u64::MAX,
        },
        limit: 20,
        spans_per_spanset: 3,
        after: None,
    };
    assert_eq!(search("").unwrap(), expected);
    assert_eq!(search("q=&tags=&limit=&spss=&start=&end=").unwrap(), expected);
}

#[test]
fn search_parameters_are_read() {
    let read = search("q=%7B+name%3D%22a+b%22%20%7D&limit=7&spss=0&start=1000&end=2000").unwrap();
    assert_eq!(read.query, "{ name=\"a b\" }");
    assert_eq!(
        (read.limit, read.spans_per_spanset, read.window),
        (7, 0, seconds(1000, 2000))
    );
    assert_eq!(
        search("since=30m").unwrap().window,
        seconds(1_700_000_000 - 1800, 1_700_000_000)
    );
}

#[test]
fn limits_at_the_limit_and_one_beside_it() {
    let limit = |text: &str| search(&format!("limit={text}")).map(|search| search.limit);
    assert_eq!(limit("1"), Ok(1));
    assert_eq!(limit("0"), Err("invalid limit: must be a positive number".into()));
    assert_eq!(limit("262143"), Ok(262_143));
    assert_eq!(limit("262144"), Ok(262_144));
    assert_eq!(limit("262145"), Ok(262_144), "clamped, as Tempo does");
    for bad in ["-1", "x", "1.5", "4294967296", "99999999999999999999"] {
        assert!(limit(bad).unwrap_err().starts_with("invalid limit: "), "{bad}");
    }
    let spss = |text: &str| search(&format!("spss={text}")).map(|search| search.spans_per_spanset);
    assert_eq!(spss("99"), Ok(99));
    assert_eq!(spss("100"), Ok(100));
    assert_eq!(spss("101"), Err("spans per span set exceeds 100. received 101".into()));
    assert!(spss("-1").unwrap_err().starts_with("invalid spss: "));
}

#[test]
fn windows_at_the_limit_and_one_beside_it() {
    let window = |start: &str, end: &str| search(&format!("start={start}&end={end}")).map(|search| search.window);
    assert_eq!(window("1", "2"), Ok(seconds(1, 2)));
    let before = |start, end| {
        Err(format!(
            "http parameter start must be before end. received start={start} end={end}"
        ))
    };
    assert_eq!(window("2", "2"), before(2, 2));
    assert_eq!(window("3", "2"), before(3, 2));
    let week = 168 * 3600;
    assert!(window("1000", &(1000 + week - 1).to_string()).is_ok());
    assert!(window("1000", &(1000 + week).to_string()).is_ok());
    assert_eq!(
        window("1000", &(1001 + week).to_string()),
        Err("range specified by start and end exceeds 168h0m0s. received start=1000 end=605801".into())
    );
    for (start, end) in [("1", ""), ("", "1")] {
        assert_eq!(
            window(start, end),
            Err("please provide both http parameters start and end".into())
        );
    }
    for bad in [
        "-1",
        "x",
        "1e9",
        "2023-01-01T00:00:00Z",
        "1700000000.5",
        "99999999999999999999",
    ] {
        assert!(window(bad, "2").unwrap_err().starts_with("invalid start: "), "{bad}");
        assert!(window("1", bad).unwrap_err().starts_with("invalid end: "), "{bad}");
    }
    assert!(
        window("18446744073", "18446744074")
            .unwrap_err()
            .starts_with("invalid end: ")
    );
    assert!(window("18446744072", "18446744073").is_ok());
    assert!(search("since=-1h").unwrap_err().starts_with("invalid since: "));
}

#[test]
fn unknown_parameters_are_passed_over() {
    fn same<T: PartialEq + std::fmt::Debug>(read: fn(&str) -> Result<T, String>, query: &str) {
        let plain = read(query);
        assert!(plain.is_ok(), "{plain:?}");
        for unknown in ["unheard=of", "unheard", "unheard=", "%C3%A4=%C3%A4", "Limit=x"] {
            assert_eq!(read(&format!("{unknown}&{query}")), plain, "{unknown} before");
            assert_eq!(read(&format!("{query}&{unknown}")), plain, "{unknown} behind");
        }
    }
    same(search, "q={}&limit=7");
    same(tags, "scope=span");
    same(values, "q={}");
    same(trace, "start=1&end=2");
    let twice = search("unheard=1&unheard=2");
    assert_eq!(twice, Err("invalid unheard: given twice".into()), "of any parameter");
}

#[test]
fn one_search_language_at_a_time() {
    assert_eq!(
        search("q={}&tags=a=b"),
        Err("invalid request: can't specify tags and q in the same query".into())
    );
    let long = |length: usize| search(&format!("q={}", "a".repeat(length))).map(|_| ());
    assert_eq!(long(131_071), Ok(()));
    assert_eq!(long(131_072), Ok(()));
    assert_eq!(
        long(131_073),
        Err("invalid q: query expression is 131073 bytes long, more than 131072".into())
    );
}

#[test]
fn tags_become_a_query_that_parses() {
    for (query, expected) in [
        ("tags=service.name%3Dcart", r#"{ ."service.name" =~ "(?i).*cart.*" }"#),
        (
            "tags=a%3Db%20c%3D%22d%20e%22",
            r#"{ ."a" =~ "(?i).*b.*" } && { ."c" =~ "(?i).*d e.*" }"#,
        ),
        (
            "tags=http.status_code%3D500",
            r#"{ ."http.status_code" =~ "(?i).*500.*" || ."http.status_code" = 500 }"#,
        ),
        (
            "tags=error%3Dtrue",
            r#"{ ."error" =~ "(?i).*true.*" || ."error" = true }"#,
        ),
        // A string ends with its line, a name does not.
        ("tags=a%3D%22b%5Cnc%22", r#"{ ."a" =~ "(?i).*b\nc.*" }"#),
        ("tags=name%3DGET%20%2Fa", r#"invalid"#),
        ("tags=name%3D%22GET%20%2Fa.b%22", r#"{ name =~ "(?i).*GET /a\\.b.*" }"#),
        (
            "tags=root.name%3Dx%20root.service.name%3Dy",
            r#"{ rootName =~ "(?i).*x.*" } && { rootServiceName =~ "(?i).*y.*" }"#,
        ),
        ("tags=status.code%3Derror", "{ status = error }"),
        (
            "tags=status.code%3D2",
            r#"{ ."status.code" =~ "(?i).*2.*" || ."status.code" = 2 }"#,
        ),
        (
            "minDuration=100ms&maxDuration=1.5s",
            "{ traceDuration >= 100000000ns } && { traceDuration <= 1500000000ns }",
        ),
        (
            "tags=a%3Db&minDuration=1us",
            r#"{ ."a" =~ "(?i).*b.*" } && { traceDuration >= 1000ns }"#,
        ),
        ("service.name=cart&limit=3", r#"{ ."service.name" =~ "(?i).*cart.*" }"#),
        ("tags=a%3D%22%5C%22%5C%5C%22", r#"{ ."a" =~ "(?i).*\"\\\\.*" }"#),
    ] {
        if expected == "invalid" {
            // `/a` alone would be a tag of its own.
            assert!(search(query).is_ok());
            continue;
        }
        let made = search(query).unwrap().query;
        assert_eq!(made, expected, "{query}");
        query::parse(&made).unwrap_or_else(|error| panic!("{made}: {error}"));
    }
}

#[test]
fn wrong_tags_and_durations_are_named() {
    for (query, message) in [
        ("tags=a%3D1%20a%3D2", "invalid tags: tag a has been set twice"),
        ("tags=%3D1", "invalid tags: a tag name is expected at pos 1"),
        ("tags=a%3Db%3Dc", "invalid tags: unexpected \"=\" at pos 4"),
        ("tags=a%3D%22b", "invalid tags: unterminated quoted value at pos 3"),
        ("tags=a%22b", "invalid tags: unexpected '\"' at pos 2"),
        (
            "minDuration=1",
            "invalid minDuration: \"1\" is not a duration such as 100ms or 1h30m",
        ),
        (
            "maxDuration=x",
            "invalid maxDuration: \"x\" is not a duration such as 100ms or 1h30m",
        ),
        (
            "minDuration=2s&maxDuration=1s",
            "invalid maxDuration: must be greater than minDuration",
        ),
    ] {
        assert_eq!(search(query).unwrap_err(), message, "{query}");
        if query.contains("Duration") {
            assert_eq!(search(&format!("q=%7B%7D&{query}")).unwrap_err(), message, "beside q");
        }
    }
    // As in Tempo, right durations beside a query are of no effect.
    assert_eq!(search("q=%7B%7D&minDuration=1s&maxDuration=2s"), search("q=%7B%7D"));
}

#[test]
fn hostile_query_strings_are_refused() {
    for (query, message) in [
        ("limit=%00", "invalid limit: NUL character"),
        ("limit=%zz", "invalid limit: invalid URL escape"),
        ("limit=%f", "invalid limit: invalid URL escape"),
        ("q=%ff", "invalid q: invalid URL escape"),
        ("%ff=1", "invalid URL escape in a parameter name"),
        ("start=1&start=2", "invalid start: given twice"),
    ] {
        assert_eq!(search(query).unwrap_err(), message);
    }
    let many = |count: usize| {
        (0..count)
            .map(|number| format!("p{number}=1"))
            .collect::<Vec<_>>()
            .join("&")
    };
    assert!(Params::parse(Some(&many(63))).is_ok());
    assert!(Params::parse(Some(&many(64))).is_ok());
    assert_eq!(
        Params::parse(Some(&many(65))).unwrap_err().message,
        "more than 64 parameters"
    );
    let answer = search(&format!("limit={}", "9".repeat(1 << 20))).unwrap_err();
    assert!(answer.len() < 200, "an error does not echo a megabyte");
    assert!(search("&&limit=1&&").is_ok());
}

#[test]
fn trace_parameters() {
    assert_eq!(
        trace(""),
        Ok(TraceParams {
            window: None,
            places: Places::All,
            pick: None,
        })
    );
    assert_eq!(trace("start=0&end=0").unwrap().window, None);
    assert_eq!(trace("start=5&end=6").unwrap().window, Some(seconds(5, 6)));
    // No range limit here: the window only tells where to look.
    assert!(trace("start=5&end=1700000000").is_ok());
    for (mode, places) in [
        ("all", Places::All),
        ("external", Places::All),
        ("ingesters", Places::Recent),
        ("recent", Places::Recent),
        ("blocks", Places::Blocks),
    ] {
        assert_eq!(trace(&format!("mode={mode}")).unwrap().places, places);
    }
    let id = "0af76519-16cd-43dd-8448-eb211c80319c";
    assert_eq!(
        trace(&format!("blockStart={id}&blockEnd=0af7651916cd43dd8448eb211c80319c")),
        trace("")
    );
    for name in ["blockStart", "blockEnd"] {
        for wrong in [
            "x",
            "0af7",
            "0af76519-16cd-43dd-8448-eb211c80319",
            "0af765191-6cd-43dd-8448-eb211c80319c",
        ] {
            let message = format!("invalid {name}: {wrong:?} is not a UUID");
            assert_eq!(trace(&format!("{name}={wrong}")), Err(message));
        }
    }
    for (wrong, name) in [
        ("keep_hierarchy=maybe", "keep_hierarchy"),
        ("match_depth=-2", "match_depth"),
        ("ancestor_depth=x", "ancestor_depth"),
        ("q=%7B%7D&ancestor_depth=-2", "ancestor_depth"),
    ] {
        let params = Params::parse(Some(wrong)).unwrap();
        let refused = with_rules(|rules| parse_pick(&params, rules)).unwrap_err();
        assert!(
            refused.message.starts_with(&format!("invalid {name}: ")),
            "{wrong}: {}",
            refused.message
        );
    }
    assert_eq!(trace("mode=x"), Err("invalid value for mode x".into()));
    assert_eq!(
        trace("start=6&end=5"),
        Err("http parameter start must be before end. received start=6 end=5".into())
    );
}

#[test]
fn tag_parameters() {
    assert_eq!(
        tags(""),
        Ok(TagsParams {
            scope: TagScope::All,
            query: String::new(),
            window: None,
            names_max: 10_000
        })
    );
    for (word, scope) in [
        ("none", TagScope::All),
        ("", TagScope::All),
        ("intrinsic", TagScope::Intrinsic),
        ("resource", TagScope::Only(model::Scope::Resource)),
        ("span", TagScope::Only(model::Scope::Span)),
        ("event", TagScope::Only(model::Scope::Event)),
        ("link", TagScope::Only(model::Scope::Link)),
        ("instrumentation", TagScope::Only(model::Scope::Instrumentation)),
    ] {
        assert_eq!(tags(&format!("scope={word}")).unwrap().scope, scope);
    }
    assert_eq!(tags("scope=x"), Err("invalid scope: x".into()));
    assert_eq!(
        tags("limit=5000&q=%7B%7D&start=1&end=2&maxStaleValues=3")
            .unwrap()
            .names_max,
        5000
    );
    assert_eq!(tags("limit=9999").unwrap().names_max, 9_999);
    assert_eq!(tags("limit=10001").unwrap().names_max, 10_000);
    assert_eq!(tags("limit=0").unwrap().names_max, 10_000);
    assert!(tags("limit=-1").is_err() && tags("maxStaleValues=x").is_err());
}

#[test]
fn value_parameters() {
    assert_eq!(
        values(""),
        Ok(ValuesParams {
            query: String::new(),
            window: None,
            values_max: NAMES_UNLIMITED
        })
    );
    assert_eq!(values("limit=5&q=%7B+.a%3D&start=1&end=2").unwrap().values_max, 5);
    assert_eq!(values("limit=0").unwrap().values_max, NAMES_UNLIMITED);
    assert!(values("limit=x").is_err());
}
