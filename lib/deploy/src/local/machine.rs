//! What there is on this machine: GPUs and programs.

use dynamo_graph::local::plan::PlannedProcess;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Most GPUs that are looked for.
const MAX_GPUS: usize = 1_024;

/// The GPUs that processes may have: as many as `given` says, else those that the caller's
/// `CUDA_VISIBLE_DEVICES` names, else those whose devices are there.
pub fn gpus_of_this_machine(given: Option<u32>, visible: Option<&str>) -> Vec<String> {
    match (given, visible) {
        (Some(count), _) => (0..count).map(|gpu| gpu.to_string()).collect(),
        (None, Some(visible)) => {
            let names = visible
                .split(',')
                .map(str::trim)
                .filter(|name| !name.is_empty());
            names.map(str::to_owned).collect()
        }
        (None, None) => devices(Path::new("/dev")),
    }
}

/// `nvidia0`, `nvidia1`, ... in a folder of devices.
fn devices(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| {
        entry
            .file_name()
            .to_str()?
            .strip_prefix("nvidia")?
            .parse::<u32>()
            .ok()
    });
    let mut numbers: Vec<u32> = numbers.take(MAX_GPUS).collect();
    numbers.sort_unstable();
    numbers.iter().map(u32::to_string).collect()
}

/// Programs that are not there, each with the component that needs it. Those that a component's
/// own `PATH` would find are not looked for.
pub fn missing_programs(
    processes: &[PlannedProcess],
    path: Option<&str>,
    folder: &Path,
) -> Vec<String> {
    let mut missing = Vec::new();
    for process in processes {
        let Some(program) = process.argv.first() else {
            continue;
        };
        let has_own_path = process.environment.iter().any(|(name, _)| name == "PATH");
        let is_there = match program.contains('/') {
            true => is_program(&folder.join(program)),
            false => has_own_path || is_on_path(program, path.unwrap_or_default()),
        };
        let message = format!(
            "{}: the program {program} is not there; install it, or name another under cmd",
            process.component
        );
        if !is_there && !missing.contains(&message) {
            missing.push(message);
        }
    }
    missing
}

fn is_on_path(program: &str, path: &str) -> bool {
    path.split(':')
        .filter(|folder| !folder.is_empty())
        .any(|folder| is_program(&Path::new(folder).join(program)))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_counted_given_or_visible() {
        let place = tempfile::tempdir().unwrap();
        for name in ["nvidia1", "nvidia0", "nvidiactl", "nvidia-uvm", "nvidia10"] {
            fs::write(place.path().join(name), "").unwrap();
        }
        assert_eq!(devices(place.path()), ["0", "1", "10"]);
        assert_eq!(gpus_of_this_machine(Some(2), Some("5")), ["0", "1"]);
        assert_eq!(gpus_of_this_machine(None, Some("5, 7,")), ["5", "7"]);
    }
}
