//! The device library from C99, under valgrind, and from Python: its own examples against a broker.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use protocol::{ProtocolVersion, QoS};

use super::built::built;
use crate::broker_process::{Broker, Lines, wait_for_exit};
use crate::raw_client::RawClient;

const MANIFEST_DIR: &str = env!("CARGO_MANIFEST_DIR");

/// Where the libraries are.
fn libraries() -> PathBuf {
    built("postrider-device-sdk-c")
}

fn examples() -> PathBuf {
    Path::new(MANIFEST_DIR).join("device-sdk/c/examples")
}

/// Lets a device do what the examples do, as a dispatcher sees it.
fn dispatch(broker: &Broker, device: &str, mut command: Command) {
    let mut dispatcher = RawClient::connect(broker.address(), "dispatcher", ProtocolVersion::V5);
    dispatcher.subscribe(&format!("dev/{device}/telemetry/gps"), QoS::AtLeastOnce);
    dispatcher.subscribe(&format!("dev/{device}/event/done"), QoS::ExactlyOnce);
    let mut dispatcher = dispatcher.acknowledging();
    let queue = tempfile::tempdir().expect("a temporary directory");
    command.arg(broker.address().to_string()).arg(device).arg(queue.path());
    let mut child: Child = command.stdout(Stdio::piped()).spawn().expect("the example starts");
    let lines = Lines::of(child.stdout.take().expect("it is piped"));
    for i in 0..10 {
        let place = dispatcher.receive_publish();
        assert_eq!(place.topic, format!("dev/{device}/telemetry/gps"));
        let longitude = 24.94 + f64::from(i) * 0.001;
        assert_eq!(place.payload, format!(r#"{{"ts":{i},"lat":60.17,"lon":{longitude:.4}}}"#));
    }
    assert_eq!(lines.wait_for("10 positions").as_deref(), Some(" are with the broker"));
    let unlock = r#"{"id":"c-1","name":"unlock"}"#;
    dispatcher.publish_accepted(&format!("dev/{device}/cmd"), unlock);
    let done = dispatcher.receive_publish();
    assert_eq!((&*done.topic, &*done.payload), (&*format!("dev/{device}/event/done"), &b"{}"[..]));
    assert_eq!(lines.wait_for(&format!("dev/{device}/cmd: ")).as_deref(), Some(unlock));
    assert!(wait_for_exit(&mut child).success(), "the example fails");
}

#[test]
fn a_device_in_c_works_and_leaks_nothing() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let program = folder.path().join("gateway");
    let compiled = Command::new("cc")
        .args(["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I"])
        .arg(Path::new(MANIFEST_DIR).join("device-sdk/c/include"))
        .arg(examples().join("gateway.c"))
        .arg(libraries().join("libpostrider_device.a"))
        .args(["-lpthread", "-ldl", "-lm", "-o"])
        .arg(&program)
        .status()
        .expect("cc runs: scripts/test installs it");
    assert!(compiled.success(), "the example does not compile");
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--quiet", "--error-exitcode=9", "--leak-check=full"]);
    // The standard library keeps one block for the main thread: reachable, yet not by its beginning.
    valgrind.arg("--errors-for-leak-kinds=definite,indirect").arg(program);
    dispatch(&Broker::start(), "c-truck", valgrind);
}

#[test]
fn a_device_in_python_works() {
    let mut python = Command::new("python3");
    python.arg(examples().join("gateway.py")).arg(libraries().join("libpostrider_device.so"));
    dispatch(&Broker::start(), "python-truck", python);
}
