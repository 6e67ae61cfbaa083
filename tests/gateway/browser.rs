//! Chromium without a window, told what to do over a pair of pipes (the DevTools protocol).

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

/// For so long nothing may be heard of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for what `find` finds, however the page comes to have it.
const UNTIL: &str = "const until = find => new Promise(done => {
    const watch = new MutationObserver(() => look());
    const look = () => { const found = find(); if (found) { watch.disconnect(); done(found); } };
    watch.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
    look();
});";

/// One page of a browser of its own.
pub struct Page {
    browser: Child,
    commands: ChildStdin,
    messages: Receiver<Value>,
    session: Value,
    last: u64,
    /// What the browser told without being asked.
    events: VecDeque<Value>,
    /// All of that.
    seen: Vec<Value>,
    _profile: TempDir,
}

impl Page {
    pub fn open() -> Self {
        let program = std::env::var("HSM_TEST_CHROMIUM").unwrap_or_else(|_| "chromium-headless-shell".into());
        let profile = tempfile::tempdir().unwrap();
        // It reads from the file descriptor 3 and writes to 4.
        let mut browser = Command::new("sh")
            .args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null", "sh", &program])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(["--remote-debugging-pipe", "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage"])
            // Its sandbox is not for root, and the pages are ours.
            .args(["--no-sandbox", "--ignore-certificate-errors"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        let (commands, answers) = (browser.stdin.take().unwrap(), browser.stdout.take().unwrap());
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            for message in BufReader::new(answers).split(0).map_while(Result::ok) {
                if sender.send(serde_json::from_slice(&message).expect("JSON")).is_err() {
                    return;
                }
            }
        });
        let mut page = Self {
            browser,
            commands,
            messages,
            session: Value::Null,
            last: 0,
            events: VecDeque::new(),
            seen: Vec::new(),
            _profile: profile,
        };
        let target = page.call("Target.createTarget", &json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        page.session = page.call("Target.attachToTarget", &attach)["sessionId"].clone();
        for domain in ["Page", "Network", "Runtime", "Log"] {
            page.call(&format!("{domain}.enable"), &json!({}));
        }
        page
    }

    fn next(&self) -> Value {
        self.messages.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            panic!("chromium says nothing: install chromium-headless-shell (e2e/setup.sh does)")
        })
    }

    /// One command and its result.
    pub fn call(&mut self, method: &str, params: &Value) -> Value {
        self.last += 1;
        let mut command = json!({ "id": self.last, "method": method, "params": params });
        if !self.session.is_null() {
            command["sessionId"] = self.session.clone();
        }
        let written = write!(self.commands, "{command}\0").and_then(|()| self.commands.flush());
        written.expect("chromium runs: e2e/setup.sh installs it");
        loop {
            let mut message = self.next();
            if message["id"] == self.last {
                assert_eq!(message.get("error"), None, "{command}");
                return message["result"].take();
            }
            self.events.push_back(message.clone());
            self.seen.push(message);
        }
    }

    /// Goes somewhere and waits until everything is there.
    pub fn visit(&mut self, url: &str) {
        self.events.clear();
        let gone = self.call("Page.navigate", &json!({ "url": url }));
        assert_eq!(gone.get("errorText"), None, "{url}");
        loop {
            let event = self.events.pop_front().unwrap_or_else(|| {
                let event = self.next();
                self.seen.push(event.clone());
                event
            });
            if event["method"] == "Page.loadEventFired" {
                return;
            }
        }
    }

    /// Runs the inside of an asynchronous function, which has `until`, in the page; what it returns.
    pub fn run(&mut self, script: &str) -> Value {
        let expression = format!("(async () => {{ {UNTIL}\n{script} }})()");
        let ask = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let mut answer = self.call("Runtime.evaluate", &ask);
        assert_eq!(answer.get("exceptionDetails"), None, "{script}");
        answer["result"]["value"].take()
    }

    /// Types into what has the focus.
    pub fn type_text(&mut self, text: &str) {
        self.call("Input.insertText", &json!({ "text": text }));
    }

    /// What was asked of anybody.
    pub fn requests(&self) -> Vec<String> {
        let asked = self.seen.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        asked.map(|event| event["params"]["request"]["url"].as_str().unwrap().to_owned()).collect()
    }

    /// What the console shows as an error or a warning, and what came to nothing.
    pub fn complaints(&self) -> Vec<String> {
        let is = |event: &&Value| {
            let params = &event["params"];
            match event["method"].as_str().unwrap_or_default() {
                "Runtime.exceptionThrown" | "Network.loadingFailed" => true,
                "Log.entryAdded" => {
                    ["error", "warning"].iter().any(|level| params["entry"]["level"] == *level)
                }
                "Runtime.consoleAPICalled" => ["error", "warning"].iter().any(|kind| params["type"] == *kind),
                _ => false,
            }
        };
        self.seen.iter().filter(is).map(Value::to_string).collect()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.session = Value::Null;
        let bye = write!(self.commands, "{}\0", json!({ "id": 0, "method": "Browser.close" }));
        if bye.is_ok() && self.commands.flush().is_ok() {
            // What has the profile open is gone before the profile is.
            while self.messages.recv_timeout(PATIENCE).is_ok() {}
        }
        drop(self.browser.wait());
    }
}
