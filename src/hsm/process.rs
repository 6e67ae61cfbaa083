//! Starts processes and reaps them.

use std::{
    process::{Command, ExitStatus},
    sync::mpsc,
    time::Duration,
};

use tokio::sync::{oneshot, watch};

/// A process; killed when `kill` is dropped.
pub(super) struct Process {
    pub pid: u32,
    pub kill: mpsc::Sender<std::convert::Infallible>,
    pub exited: watch::Receiver<Option<ExitStatus>>,
}

/// What the thread gets: a program to start and where to say what came of it.
type Order = (Command, oneshot::Sender<std::io::Result<Process>>);

/// A thread that starts processes, waits for them and reaps them. One that lives as long as they do: a process
/// that asked to die with its parent dies with the *thread* that started it.
pub(super) struct Spawner(mpsc::Sender<Order>);

impl Spawner {
    pub fn start() -> Self {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::Builder::new()
            .name("token-host".into())
            .spawn(move || {
                for (mut command, answer) in inbox {
                    let spawned = command.spawn();
                    // It holds the child's end of the socket.
                    drop(command);
                    let mut child = match spawned {
                        Ok(child) => child,
                        Err(error) => {
                            let _ = answer.send(Err(error));
                            continue;
                        }
                    };
                    let (kill, killed) = mpsc::channel();
                    let exited = watch::Sender::new(None);
                    let process = Process { pid: child.id(), kill, exited: exited.subscribe() };
                    // Whoever does not wait for it any more drops it, and so kills it.
                    let _ = answer.send(Ok(process));
                    let status = loop {
                        match killed.recv_timeout(Duration::from_millis(100)) {
                            Ok(never) => match never {},
                            Err(mpsc::RecvTimeoutError::Timeout) => match child.try_wait() {
                                Ok(None) => {}
                                Ok(Some(status)) => break status,
                                Err(_) => break ExitStatus::default(),
                            },
                            Err(mpsc::RecvTimeoutError::Disconnected) => {
                                let _ = child.kill();
                                break child.wait().unwrap_or_default();
                            }
                        }
                    };
                    exited.send_replace(Some(status));
                }
            })
            .expect("a thread can be started");
        Self(orders)
    }

    pub async fn spawn(&self, command: Command) -> std::io::Result<Process> {
        let (answer, process) = oneshot::channel();
        let gone = || std::io::Error::other("the thread that starts processes is gone");
        self.0.send((command, answer)).map_err(|_| gone())?;
        process.await.map_err(|_| gone())?
    }
}
