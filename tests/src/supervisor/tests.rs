use super::*;
use crate::eventually::eventually;

const LONG: Duration = Duration::from_secs(10);

fn shell(script: &str) -> Program {
    Program {
        name: "a script".to_owned(),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec![("GREETING".to_owned(), "habari".to_owned())],
        folder: None,
        ask: Signal::Term,
        grace: Duration::from_secs(5),
    }
}

/// A folder that the program under test must remove.
fn folder() -> PathBuf {
    TemporaryFolder::new().unwrap().hand_over()
}

fn runs(pid: u32) -> bool {
    // A zombie has ended, although its entry is still there.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn output_environment_and_exit_code_come_through() {
    let program = Supervised::start(&shell("echo \"$GREETING\"; echo oops >&2; printf '\\377\\n'; exit 7")).unwrap();
    assert_eq!(program.exited(LONG).await.unwrap(), 7);
    assert_eq!(timeout(LONG, program.output().line("habari")).await.unwrap(), "habari");
    timeout(LONG, program.output().line("oops")).await.unwrap();
    assert!(program.signal(Signal::Term).is_err());
}

#[tokio::test]
async fn a_missing_program_says_so() {
    let mut program = shell("");
    program.command = vec!["/no/such/program".to_owned()];
    let program = Supervised::start(&program).unwrap();
    assert_eq!(program.exited(LONG).await.unwrap(), 127);
    timeout(LONG, program.output().line("not found")).await.unwrap();
}

#[tokio::test]
async fn the_process_id_is_the_programs_own() {
    let program = Supervised::start(&shell("echo me $$; exec sleep 60")).unwrap();
    let line = timeout(LONG, program.output().line("me ")).await.unwrap();
    assert_eq!(line, format!("me {}", program.pid()));
    program.signal(Signal::Kill).unwrap();
    assert_eq!(program.exited(LONG).await.unwrap(), 128 + 9);
}

#[tokio::test]
async fn dropping_ends_a_frozen_program_and_removes_its_folder() {
    let folder = folder();
    let mut script = shell("echo ready; exec sleep 60");
    script.folder = Some(folder.clone());
    let program = Supervised::start(&script).unwrap();
    timeout(LONG, program.output().line("ready")).await.unwrap();
    program.signal(Signal::Stop).unwrap();
    let pid = program.pid();
    drop(program);
    eventually(LONG, "the process is gone", || async { !runs(pid) }).await;
    eventually(LONG, "the folder is gone", || async { !folder.exists() }).await;
}

#[tokio::test]
async fn a_program_that_will_not_stop_is_killed() {
    let mut script = shell("trap '' TERM; echo ready; while :; do sleep 0.1; done");
    script.grace = Duration::from_secs(1);
    let program = Supervised::start(&script).unwrap();
    timeout(LONG, program.output().line("ready")).await.unwrap();
    let pid = program.pid();
    drop(program);
    eventually(LONG, "the process is gone", || async { !runs(pid) }).await;
}

#[tokio::test]
async fn a_folder_can_be_handed_on() {
    let folder = folder();
    let mut script = shell("exec sleep 60");
    script.folder = Some(folder.clone());
    let first = Supervised::start(&script).unwrap();
    first.signal(Signal::Kill).unwrap();
    first.exited(LONG).await.unwrap();
    let second = Supervised::start(&script).unwrap();
    let mut exit = first.exit.clone();
    exit.borrow_and_update();
    first.keep_folder();
    // The first supervisor has ended when its thread has dropped the channel.
    assert!(timeout(LONG, exit.changed()).await.unwrap().is_err());
    assert!(folder.exists());
    drop(second);
    eventually(LONG, "the folder is gone", || async { !folder.exists() }).await;
}

#[tokio::test]
async fn a_temporary_folder_goes_with_its_value() {
    let folder = TemporaryFolder::new().unwrap();
    let path = folder.path().to_owned();
    std::fs::write(path.join("a"), "b").unwrap();
    drop(folder);
    eventually(LONG, "the folder is gone", || async { !path.exists() }).await;
}

#[tokio::test]
async fn nothing_survives_the_sigkill_of_its_starter() {
    if let Ok(folder) = std::env::var("GRIOT_TEST_FOLDER") {
        return start_a_program_and_wait_for_the_kill(folder.into()).await;
    }
    let folder = folder();
    // This same test, in a process of its own that can be killed.
    let mut starter = Command::new(std::env::current_exe().unwrap())
        .args(["supervisor::tests::nothing_survives_the_sigkill_of_its_starter", "--exact", "--nocapture"])
        .env("GRIOT_TEST_FOLDER", &folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(starter.stdout.take().unwrap()).lines();
    let pid = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("pid ")?.parse().ok()).unwrap();
    assert!(runs(pid) && folder.exists());
    starter.kill().unwrap();
    starter.wait().unwrap();
    eventually(LONG, "the program is gone", || async { !runs(pid) }).await;
    eventually(LONG, "the folder is gone", || async { !folder.exists() }).await;
}

async fn start_a_program_and_wait_for_the_kill(folder: PathBuf) {
    let mut script = shell("exec sleep 60");
    script.folder = Some(folder);
    let program = Supervised::start(&script).unwrap();
    println!("\npid {}", program.pid());
    std::future::pending::<()>().await;
}
