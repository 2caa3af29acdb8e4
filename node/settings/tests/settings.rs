//! The settings file as its users meet it: text in, settings or one line per problem out.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use settings::{ByteSize, NodeSettings, Period, SettingsError, load, parse};

const EXAMPLE: &str = include_str!("../example.yaml");

/// The lines a person would see.
fn problems(text: &str) -> String {
    match parse(text) {
        Ok(_) => "valid".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_example_is_the_defaults() {
    assert_eq!(parse(EXAMPLE).unwrap(), NodeSettings::default());
}

#[test]
fn the_example_names_every_field() {
    // Optional fields are commented out in the example; everything else must stand there with its default.
    for line in NodeSettings::default().to_yaml().lines() {
        let key = line.trim().split(':').next().unwrap();
        assert!(EXAMPLE.contains(&format!("{key}:")), "example.yaml lacks {key}");
    }
}

#[test]
fn an_empty_file_is_the_defaults() {
    for text in ["", "\n", "# nothing\n", "{}", "---\n"] {
        assert_eq!(parse(text).unwrap(), NodeSettings::default(), "{text:?}");
    }
}

#[test]
fn the_defaults_are_valid() {
    NodeSettings::default().validate().unwrap();
}

#[test]
fn printed_settings_read_back_equal() {
    let text = "
node: {cluster: prod-1, data_dir: /var/lib/vivace}
storage: {type: S3, prefix: a/b, s3: {bucket: traces, endpoint: 'https://s3.local:9000', region: eu-1}}
limits: {tenants: {'1234': {retention: 3d, ingest_rate: 1MB}, 'a!b': {attribute_oversize: reject}}}
query: {threads: 3}
memory: {heads: 1GiB}
";
    let settings = parse(text).unwrap();
    assert_eq!(parse(&settings.to_yaml()).unwrap(), settings, "{}", settings.to_yaml());
    assert_eq!(
        parse(&NodeSettings::default().to_yaml()).unwrap(),
        NodeSettings::default()
    );
}

#[test]
fn a_tenant_has_the_defaults_except_what_it_overrides() {
    let limits = parse("limits: {defaults: {search_limit_max: 7}, tenants: {acme: {retention: 3d, ingest_rate: 1MB}}}")
        .unwrap()
        .limits;
    assert_eq!(limits.of("acme").retention, Period::days(3));
    assert_eq!(limits.of("acme").search_limit_max, 7);
    assert_eq!(limits.of("other").retention, Period::days(14));
    let other = limits.of("other");
    assert_eq!(other.ingest_rate_where(true), Some(ByteSize::mb(30)));
    assert_eq!(other.ingest_rate_where(false), None);
    assert_eq!(limits.of("acme").ingest_rate_where(false), Some(ByteSize::mb(1)));
}

#[test]
fn what_cannot_be_read_names_the_field() {
    for (text, start) in [
        (
            "flush: {tail_size: 1MiB}",
            "flush.tail_size: unknown field `tail_size`, expected one of tail_bytes, tail_age at line 1",
        ),
        ("nonsense: 1", "nonsense: unknown field"),
        (
            "limits: {tenants: {acme: {retention: 14}}}",
            "limits.tenants.acme.retention: ",
        ),
        ("flush: {tail_bytes: 64}", "flush.tail_bytes: "),
        ("shards: {count: many}", "shards.count: "),
        ("shards: {count: -1}", "shards.count: "),
        ("listen: {http: localhost}", "listen.http: "),
        ("storage: {type: s3}", "storage.type: "),
        ("flush: 3", "flush: "),
        ("- a", ""),
        ("flush: {tail_age: 1m, tail_age: 2m}", "flush"),
        ("{", ""),
        ("a: 1\n---\nb: 2", ""),
    ] {
        let message = problems(text);
        assert!(
            message.starts_with(start) && message != "valid",
            "{text:?} gave {message:?}"
        );
        assert_eq!(message.lines().count(), 1, "{text:?} gave {message:?}");
    }
}

#[test]
fn a_bare_number_is_explained() {
    let message = problems("flush: {tail_bytes: 64}");
    assert!(message.contains("\"64\" has no unit: write \"64MiB\""), "{message}");
}

#[test]
fn all_problems_are_reported_at_once() {
    let text = "
node: {cluster: 'Prod!'}
listen: {http: 127.0.0.1:4317}
shards: {count: 3}
limits: {tenants: {'a/b': {retention: 1s}}}
retention: {delete_grace: 1s}
";
    assert_eq!(
        problems(text),
        "\
node.cluster: must be 1 to 63 of a-z, 0-9 and -
listen.http: 127.0.0.1:4317 is also listen.otlp_grpc: each needs its own port
limits.tenants.a/b: not a tenant id: 1 to 150 of A-Z a-z 0-9 ! _ . * ' ( ) -, and not . or ..
limits.tenants.a/b.retention: 1s is too small: at least 1h
shards.count: must be a power of two from 1 to 1024
retention.delete_grace: 1s is too small: at least 1m"
            .replace(
                "1s is too small: at least 1m",
                "must not be below the longest query, 1m"
            )
    );
}

#[test]
fn each_section_says_what_is_wrong_with_its_shape() {
    let text = "
flush: {tail_size: 1MiB}
nonsense: 1
shards: {count: many}
listen: {http: 127.0.0.1:1}
limits: {tenants: {acme: {retention: 14}}}
wal: 3
log: {format: xml, level: 7}
";
    let said = problems(text);
    let fields: Vec<_> = said.lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(
        fields,
        [
            "flush.tail_size",
            "nonsense",
            "shards.count",
            "limits.tenants.acme.retention",
            "wal",
            "log.format"
        ],
        "{said}"
    );
    assert!(said.contains("nonsense: unknown field `nonsense`"), "{said}");
}

#[test]
fn a_fault_of_the_text_is_said_once() {
    for text in [
        "flush: {tail_age: 1m}\nshards: {count: 2}\nwal: {",
        "flush: {tail_age: 1m}\nshards: {count: 2}\nflush: {tail_age: 2m}",
        "- flush",
        "3",
    ] {
        assert_eq!(problems(text).lines().count(), 1, "{text:?}: {}", problems(text));
    }
}

#[test]
fn a_wrong_file_is_read_for_a_bounded_number_of_sections() {
    for (sections, expected) in [(31, 31), (32, 32), (33, 32), (1_000, 32)] {
        let text: String = (0..sections).map(|number| format!("s{number}: 1\n")).collect();
        assert_eq!(problems(&text).lines().count(), expected, "{sections}");
    }
    for (bytes, expected) in [((1 << 20) - 1, 2), (1 << 20, 2), ((1 << 20) + 1, 1)] {
        let wrong = "flush: 1\nwal: 1\n";
        let text = format!("{wrong}{}", "\n".repeat(bytes - wrong.len()));
        assert_eq!(problems(&text).lines().count(), expected, "{bytes}");
    }
}

#[test]
fn ports_conflict_only_where_they_would() {
    for (text, expected) in [
        ("listen: {otlp_grpc: 127.0.0.1:1, otlp_http: 127.0.0.1:1}", false),
        ("listen: {otlp_grpc: 0.0.0.0:1, otlp_http: 127.0.0.1:1}", false),
        ("listen: {otlp_grpc: 127.0.0.2:1, otlp_http: 127.0.0.1:1}", true),
        (
            "listen: {otlp_grpc: 127.0.0.1:0, otlp_http: 127.0.0.1:0, http: 127.0.0.1:0}",
            true,
        ),
        ("listen: {otlp_grpc: '[::]:1', otlp_http: 127.0.0.1:1}", false),
    ] {
        assert_eq!(parse(text).is_ok(), expected, "{text}");
    }
}

#[test]
fn storage_sections_must_fit_the_type() {
    for (text, expected) in [
        ("storage: {type: S3}", "storage.s3: is missing, but storage.type is S3"),
        ("storage: {type: S3, s3: {}}", "storage.s3.bucket: is missing"),
        (
            "storage: {s3: {bucket: b}}",
            "storage.s3: must be absent, because storage.type is Filesystem",
        ),
        (
            "storage: {type: S3, s3: {bucket: b, endpoint: 'http://x'}}",
            "storage.s3.endpoint: begins with http:, which needs allow_http: true beside it",
        ),
        (
            "storage: {type: S3, s3: {bucket: b, endpoint: 'http://x', allow_http: true}}",
            "valid",
        ),
        (
            "storage: {type: S3, s3: {bucket: b, access_key_id_file: /k}}",
            "storage.s3: access_key_id_file and secret_access_key_file go together: name both or neither",
        ),
        ("storage: {type: GCS, gcs: {}}", "storage.gcs.bucket: is missing"),
        (
            "storage: {type: Azure, azure: {account: a}}",
            "storage.azure.container: is missing",
        ),
        (
            "storage: {type: S3, s3: {bucket: a/b, region: 'eu/1', endpoint: 'https://'}}",
            "storage.s3.bucket: is no name: 1 to 255 letters, digits and ._-\n\
             storage.s3.region: is no region: 1 to 63 letters, digits and ._-\n\
             storage.s3.endpoint: must be a URL such as https://minio:9000",
        ),
        (
            "storage: {type: GCS, gcs: {bucket: 'a b'}}",
            "storage.gcs.bucket: is no name: 1 to 255 letters, digits and ._-",
        ),
        (
            "storage: {type: Azure, azure: {account: a/b, container: '$web'}}",
            "storage.azure.account: is no name: 1 to 255 letters, digits and ._-",
        ),
        ("storage: {prefix: a/b-c_d.e}", "valid"),
        (
            "storage: {prefix: /a}",
            "storage.prefix: use letters, digits and ._- between single slashes, without one at either end",
        ),
        (
            "storage: {prefix: a/../b}",
            "storage.prefix: use letters, digits and ._- between single slashes, without one at either end",
        ),
    ] {
        assert_eq!(problems(text), expected, "{text}");
    }
}

#[test]
fn an_endpoint_is_a_url() {
    for (endpoint, expected) in [
        ("https://minio:9000", true),
        ("https://minio:9000/", true),
        ("https://[::1]:9000/path", true),
        ("https://[::1]", true),
        ("https://10.0.0.1", true),
        ("https://", false),
        ("https:///path", false),
        ("https://minio:", false),
        ("https://minio:0", false),
        ("https://minio:65536", false),
        ("https://a b", false),
        ("https://user@minio", false),
        ("https://minio/a?b", false),
        ("https://[::1", false),
        ("minio:9000", false),
    ] {
        let text = format!("storage: {{type: S3, s3: {{bucket: b, endpoint: '{endpoint}'}}}}");
        assert_eq!(parse(&text).is_ok(), expected, "{endpoint}: {}", problems(&text));
    }
}

#[test]
fn a_log_level_is_one_of_five_or_directives() {
    for (level, expected) in [
        ("info", "valid"),
        ("WARN", "valid"),
        ("off", "valid"),
        ("'info,shard=debug'", "valid"),
        (
            "foo",
            "log.level: \"foo\" is not a level: use error, warn, info, debug or trace",
        ),
        ("''", "log.level: is missing: use error, warn, info, debug or trace"),
    ] {
        assert_eq!(problems(&format!("log: {{level: {level}}}")), expected);
    }
}

#[test]
fn bounds_hold_at_the_limit_and_one_beside_it() {
    for (text, expected) in [
        ("listen: {connections_max: 1}", true),
        ("listen: {connections_max: 0}", false),
        ("listen: {connections_max: 100000}", true),
        ("listen: {connections_max: 100001}", false),
        ("tenancy: {tenants_auto_max: 10000}", true),
        ("tenancy: {tenants_auto_max: 10001}", false),
        ("shards: {count: 1024}", true),
        ("shards: {count: 2048}", false),
        ("shards: {count: 0}", false),
        (
            "wal: {segment_bytes: 8MiB, quota_bytes: 64MiB}\nflush: {tail_bytes: 32MiB}",
            true,
        ),
        (
            "wal: {segment_bytes: 8MiB, quota_bytes: 65535KiB}\nflush: {tail_bytes: 1MiB}",
            false,
        ),
        (
            "wal: {segment_bytes: 8MiB, quota_bytes: 64MiB}\nflush: {tail_bytes: 32769KiB}",
            false,
        ),
        ("wal: {segment_bytes: 8191KiB}", false),
        ("wal: {segment_bytes: 8196KiB}", true),
        ("wal: {segment_bytes: 8193KiB}", false),
        ("wal: {scrub_interval: 0s}", true),
        ("wal: {scrub_interval: 999ms}", false),
        ("wal: {scrub_interval: 1s}", true),
        ("wal: {scrub_rate: 65535B}", false),
        ("wal: {scrub_rate: 64KiB}", true),
        ("replication: {batch_bytes: 4MiB}", true),
        ("replication: {batch_bytes: 4097KiB}", false),
        ("limits: {defaults: {retention: 1h}}", true),
        ("limits: {defaults: {retention: 59m}}", false),
        ("limits: {defaults: {ingest_rate: 0B}}", false),
        ("limits: {defaults: {queries_concurrent_max: 0}}", false),
        ("memory: {in_flight: 32MiB}", true),
        ("memory: {in_flight: 31MiB}", false),
    ] {
        assert_eq!(parse(text).is_ok(), expected, "{text}: {}", problems(text));
    }
}

#[test]
fn secret_files_must_exist_and_be_private() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    let file = folder.path().join("node.yaml");
    let text = format!(
        "storage: {{type: S3, s3: {{bucket: b, access_key_id_file: '{0}', secret_access_key_file: '{0}'}}}}",
        key.display()
    );
    fs::write(&file, text).unwrap();
    let lines = || match load(&file) {
        Ok(_) => vec![],
        Err(error) => error.to_string().lines().map(str::to_owned).collect::<Vec<_>>(),
    };

    let missing = lines();
    assert_eq!(missing.len(), 2, "{missing:?}");
    assert!(missing[0].starts_with("storage.s3.access_key_id_file: ") && missing[0].contains("No such file"));

    fs::write(&key, "").unwrap();
    assert!(lines()[0].ends_with("is empty"), "{:?}", lines());

    fs::write(&key, "secret").unwrap();
    for (mode, expected) in [(0o600, true), (0o640, true), (0o644, false), (0o604, false)] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(lines().is_empty(), expected, "{mode:o}: {:?}", lines());
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = load(std::path::Path::new("/nowhere/node.yaml")).unwrap_err();
    assert!(matches!(error, SettingsError::Read { .. }));
    assert!(
        error.to_string().starts_with("cannot read /nowhere/node.yaml: "),
        "{error}"
    );
}
