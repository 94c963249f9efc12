//! What `deploy/` holds: YAML that parses, objects that fit together, and flags that there are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use serde_json::Value;

use crate::harness::Folder;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

fn text(name: &str) -> String {
    std::fs::read_to_string(deploy().join(name)).unwrap()
}

/// The documents of a YAML file.
fn documents(name: &str) -> Vec<Value> {
    let text = text(name);
    let documents = serde_norway::Deserializer::from_str(&text);
    documents.map(|one| Value::deserialize(one).unwrap_or_else(|error| panic!("{name}: {error}"))).collect()
}

#[test]
fn every_flag_in_it_is_one_of_serve() {
    let help = Folder::empty().run(&["serve", "--help"]).stdout;
    let known: BTreeSet<&str> = help
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .filter(|word| word.starts_with("--"))
        .collect();
    let mut flags = Vec::new();
    let unit = text("acdit-world.service");
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    flags.extend(start.split(' ').filter(|word| word.starts_with("--")).map(str::to_owned));
    let strings = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    let compose = documents("compose.yaml").remove(0);
    flags.extend(strings(&compose["services"]["world"]["command"]));
    for object in
        documents("kubernetes/acdit-world.yaml").iter().filter(|object| object["kind"] == "StatefulSet")
    {
        flags.extend(strings(&object["spec"]["template"]["spec"]["containers"][0]["args"]));
    }
    let flags: BTreeSet<_> = flags
        .iter()
        .filter_map(|word| word.split('=').next())
        .filter(|word| word.starts_with("--"))
        .collect();
    assert!(flags.len() >= 4 && flags.is_subset(&known), "{:?}", flags.difference(&known));

    // Settings in the environment of an image and of the service
    let settings = text("Dockerfile") + &unit.replace("Environment=", "Environment= ");
    let variables =
        settings.split_whitespace().filter_map(|word| word.strip_prefix("ACDIT_")?.split_once('='));
    let mut set = 0;
    for (name, _) in variables {
        let flag =
            format!("--{}", name.strip_prefix("SERVE_").unwrap_or(name).to_lowercase().replace('_', "-"));
        assert!(known.contains(flag.as_str()), "{name}");
        set += 1;
    }
    assert!(set >= 9, "{set}");
}

#[test]
fn the_objects_fit_together() {
    let objects = documents("kubernetes/acdit-world.yaml");
    let of_kind =
        |kind: &str| -> Vec<&Value> { objects.iter().filter(|object| object["kind"] == kind).collect() };
    for object in &objects {
        for field in ["/apiVersion", "/kind", "/metadata/name", "/spec"] {
            assert!(object.pointer(field).is_some_and(|value| !value.is_null()), "{field} of {object}");
        }
    }
    let [set] = of_kind("StatefulSet")[..] else { panic!("one StatefulSet") };
    let (labels, pod) = (&set["spec"]["template"]["metadata"]["labels"], &set["spec"]["template"]["spec"]);
    let container = &pod["containers"][0];
    assert_eq!(&set["spec"]["selector"]["matchLabels"], labels);
    for (kind, selector) in [
        ("Service", "/spec/selector"),
        ("PodDisruptionBudget", "/spec/selector/matchLabels"),
        ("NetworkPolicy", "/spec/podSelector/matchLabels"),
    ] {
        assert!(of_kind(kind).iter().all(|object| object.pointer(selector) == Some(labels)), "{kind}");
    }
    let names = |list: &Value| -> BTreeSet<String> {
        list.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    let ports = names(&container["ports"]);
    let services = of_kind("Service");
    assert!(services.iter().any(|service| service["metadata"]["name"] == set["spec"]["serviceName"]));
    for service in services {
        assert!(ports.contains(service["spec"]["ports"][0]["targetPort"].as_str().unwrap()), "{service}");
    }
    assert_eq!(names(&container["volumeMounts"]), names(&pod["volumes"]));
    let claimed = &pod["volumes"][0]["persistentVolumeClaim"]["claimName"];
    assert_eq!(&of_kind("PersistentVolumeClaim")[0]["metadata"]["name"], claimed);
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        assert!(ports.contains(container[probe]["httpGet"]["port"].as_str().unwrap()), "{probe}");
    }
    // The server takes ten seconds at most, after the balancer's five.
    let pause: u64 =
        container["lifecycle"]["preStop"]["exec"]["command"][1].as_str().unwrap().parse().unwrap();
    assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() > pause + 10);

    let compose = documents("compose.yaml").remove(0);
    let more = documents("compose.cuda.yaml").remove(0);
    for (name, service) in more["services"].as_object().unwrap() {
        let target = format!(" AS {}\n", service["build"]["target"].as_str().unwrap());
        assert!(!compose["services"][name].is_null() && text("Dockerfile").contains(&target), "{name}");
    }
    for (name, service) in compose["services"].as_object().unwrap() {
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let source = volume.as_str().unwrap().split(':').next().unwrap();
            let declared = source.starts_with('.') || compose["volumes"].get(source).is_some();
            assert!(declared, "{name}: {source}");
        }
    }
    for name in ["prometheus/scrape.yaml", "prometheus/alerts.yaml"] {
        assert!(documents(name)[0].is_object(), "{name}");
    }
}
