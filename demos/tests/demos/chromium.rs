//! A headless Chromium, by its
//! [DevTools protocol](https://chromedevtools.github.io/devtools-protocol/) over pipes.

use std::cell::{Cell, RefCell};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use data_encoding::BASE64;
use serde_json::{Value, json};

use crate::support::{TIMEOUT, TempDir, wait_until};

pub(crate) struct Chromium {
    child: Child,
    input: RefCell<ChildStdin>,
    messages: Receiver<Value>,
    last_id: Cell<u64>,
    /// Exceptions and errors of pages, such as violations of a policy.
    complaints: RefCell<Vec<String>>,
    _folder: TempDir,
}

/// A page that is shown.
pub(crate) struct Tab<'a> {
    chromium: &'a Chromium,
    target: String,
    session: String,
}

impl Chromium {
    #[track_caller]
    pub(crate) fn start() -> Chromium {
        let folder = TempDir::new();
        let mut command = Command::new("sh");
        // The browser reads messages from descriptor 3, and writes to 4.
        command.args(["-c", "exec chromium \"$@\" 3<&0 4>&1 0</dev/null 1>/dev/null", "chromium"]);
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]);
        command.args(["--no-first-run", "--disable-background-networking", "--disable-sync"]);
        command.args(["--disable-component-update", "--no-proxy-server", "--lang=en"]);
        // As if all certificates were signed by a trusted authority.
        command.arg("--ignore-certificate-errors");
        // A tab in the background is as fast as that in front.
        command.args(["--disable-background-timer-throttling", "--disable-renderer-backgrounding"]);
        command.arg("--remote-debugging-pipe");
        command.arg(format!("--user-data-dir={}", folder.path().display()));
        command.env("HOME", folder.path()).env("TMPDIR", folder.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let input = RefCell::new(child.stdin.take().unwrap());
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, messages) = channel();
        thread::spawn(move || {
            for message in output.split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&message).unwrap();
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let complaints = RefCell::default();
        Chromium { child, input, messages, last_id: Cell::new(0), complaints, _folder: folder }
    }

    /// Opens a tab, and waits until its page is loaded.
    #[track_caller]
    pub(crate) fn open(&self, url: &str) -> Tab<'_> {
        let target = self.call(None, "Target.createTarget", json!({"url": "about:blank"}));
        let target = target["targetId"].as_str().unwrap().to_owned();
        let attach = json!({"targetId": target, "flatten": true});
        let session = self.call(None, "Target.attachToTarget", attach);
        let session = session["sessionId"].as_str().unwrap().to_owned();
        let tab = Tab { chromium: self, target, session };
        for domain in ["Runtime.enable", "Log.enable", "Page.enable"] {
            tab.call(domain, json!({}));
        }
        // Each tab takes keys, not only the one in front.
        tab.call("Emulation.setFocusEmulationEnabled", json!({"enabled": true}));
        tab.go_to(url);
        tab
    }

    /// Calls a method, and returns its result.
    #[track_caller]
    fn call(&self, session: Option<&str>, method: &str, parameters: Value) -> Value {
        let id = self.last_id.get() + 1;
        self.last_id.set(id);
        let mut message = json!({"id": id, "method": method, "params": parameters});
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        self.input.borrow_mut().write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let answer = self.messages.recv_timeout(TIMEOUT).expect(method);
            if answer["id"] == id {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
            let entry = &answer["params"]["entry"];
            if answer["method"] == "Runtime.exceptionThrown" || is_complaint(entry) {
                self.complaints.borrow_mut().push(answer["params"].to_string());
            }
        }
    }

    /// What pages were denied, and exceptions of their scripts, since the last call.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.complaints.take()
    }

    /// Closes it. No page was denied anything, and no script has failed.
    #[track_caller]
    pub(crate) fn close(mut self) {
        self.call(None, "Browser.close", json!({}));
        self.child.wait().unwrap();
        assert_eq!(self.complaints(), [""; 0]);
    }
}

/// Whether it is an error in the log, other than that a connection was lost.
fn is_complaint(entry: &Value) -> bool {
    entry["level"] == "error" && entry["source"] != "network"
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Tab<'_> {
    #[track_caller]
    pub(crate) fn call(&self, method: &str, parameters: Value) -> Value {
        self.chromium.call(Some(&self.session), method, parameters)
    }

    #[track_caller]
    pub(crate) fn go_to(&self, url: &str) {
        let answer = self.call("Page.navigate", json!({"url": url}));
        assert!(answer["errorText"].is_null(), "{answer}");
        self.waits_for(&format!(
            "location.href === {} && document.readyState === 'complete'",
            json!(url)
        ));
    }

    /// The value of an expression of JavaScript.
    #[track_caller]
    pub(crate) fn eval(&self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "returnByValue": true});
        let answer = self.call("Runtime.evaluate", parameters);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    #[track_caller]
    pub(crate) fn waits_for(&self, expression: &str) {
        wait_until(expression, || self.eval(expression) == true);
    }

    /// Types a text where the focus is.
    #[track_caller]
    pub(crate) fn types(&self, text: &str) {
        self.call("Input.insertText", json!({"text": text}));
    }

    #[track_caller]
    pub(crate) fn presses(&self, key: &str, text: &str, code: u32) {
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let key = json!({
                "type": kind, "key": key, "code": key, "text": text, "windowsVirtualKeyCode": code,
            });
            self.call("Input.dispatchKeyEvent", key);
        }
    }

    #[track_caller]
    pub(crate) fn presses_enter(&self) {
        self.presses("Enter", "\r", 13);
    }

    #[track_caller]
    pub(crate) fn presses_tab(&self) {
        self.presses("Tab", "", 9);
    }

    /// Shows it at this size, as a phone does if `is_mobile`, and bright or dark.
    #[track_caller]
    pub(crate) fn is_shown(&self, [width, height]: [u32; 2], is_mobile: bool, scheme: &str) {
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_mobile});
        self.call("Emulation.setDeviceMetricsOverride", size);
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features}));
    }

    /// Writes a picture of it to a PNG file.
    #[track_caller]
    pub(crate) fn picture(&self, path: &Path) {
        let answer = self.call("Page.captureScreenshot", json!({"format": "png"}));
        let picture = BASE64.decode(answer["data"].as_str().unwrap().as_bytes()).unwrap();
        std::fs::write(path, picture).unwrap();
    }

    #[track_caller]
    pub(crate) fn close(self) {
        self.chromium.call(None, "Target.closeTarget", json!({"targetId": self.target}));
    }
}
