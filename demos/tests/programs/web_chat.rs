//! `web_chat` in a browser, beside `nc`.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::demos::chromium::{Chromium, Tab};
use crate::demos::web_chat::{GREETING, start, start_at};
use crate::harness::{Test, tests};
use crate::support::clients::tcp;
use crate::support::process::{Process, Server};
use crate::support::{TIMEOUT, wait_until};

pub(crate) const TESTS: &[Test] = tests![
    a_page_connects_again_by_itself: ["chromium"],
    a_page_shows_each_event_once_and_in_order: ["chromium"],
    hostile_names_and_texts_stay_text: ["chromium", "nc"],
    the_page_fits_a_phone_and_a_keyboard_and_a_screen_reader: ["chromium"],
    two_tabs_and_nc_read_each_other_in_one_order: ["chromium", "nc"],
];

fn url(server: &Server) -> String {
    format!("http://{}/", server.address())
}

/// A tab that has joined under this name, by keyboard.
#[track_caller]
fn join<'a>(chromium: &'a Chromium, server: &Server, name: &str) -> Tab<'a> {
    join_at(chromium, &url(server), name)
}

#[track_caller]
pub(crate) fn join_at<'a>(chromium: &'a Chromium, url: &str, name: &str) -> Tab<'a> {
    let tab = chromium.open(url);
    tab.waits_for("document.activeElement.id === 'name'");
    tab.types(name);
    tab.presses_enter();
    tab.waits_for("document.activeElement.id === 'line'");
    tab.waits_for("document.querySelector('#people .you') !== null");
    tab
}

#[track_caller]
pub(crate) fn say(tab: &Tab<'_>, text: &str) {
    tab.types(text);
    tab.presses_enter();
}

fn nc(server: &Server) -> Process {
    let mut command = Command::new("nc");
    command.arg("-N").args(server.host_and_port());
    Process::spawn(command)
}

/// The entries of a tab's log that are lines, as `name: text`.
#[track_caller]
pub(crate) fn lines(tab: &Tab<'_>) -> Vec<String> {
    let lines = "[...document.querySelectorAll('#log li:not(.quiet)')].map((entry) => \
                 entry.querySelector('.name').textContent + ': ' + \
                 entry.querySelector('.said').lastChild.textContent)";
    serde_json::from_value(tab.eval(lines)).unwrap()
}

#[track_caller]
fn shows_lines(tab: &Tab<'_>, expected: &[&str]) {
    wait_for(expected, || lines(tab));
}

#[track_caller]
fn people(tab: &Tab<'_>) -> Vec<String> {
    let people = "[...document.querySelectorAll('#people li')].map((one) => one.textContent)";
    serde_json::from_value(tab.eval(people)).unwrap()
}

#[track_caller]
fn shows_people(tab: &Tab<'_>, expected: &[&str]) {
    wait_for(expected, || people(tab));
}

/// Waits until a page shows this; fails with what it shows.
#[track_caller]
fn wait_for(expected: &[&str], shown: impl Fn() -> Vec<String>) {
    let deadline = Instant::now() + TIMEOUT;
    while shown() != expected {
        if Instant::now() > deadline {
            assert_eq!(shown(), expected);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn two_tabs_and_nc_read_each_other_in_one_order() {
    const LINES: usize = 20;
    let chromium = Chromium::start();
    for mixin in ["threading", "fibers"] {
        let server = start(&["--mixin", mixin, "--silence", "3"]);
        let mut nc = nc(&server);
        // It says nothing, and no browser was here.
        assert_eq!(nc.line(), GREETING);
        let ada = join(&chromium, &server, "Ada");
        let ben = join(&chromium, &server, "Ben");
        assert_eq!(nc.line(), "Client joined Ada\r");
        assert_eq!(nc.line(), "Client joined Ben\r");
        // All write at the same time, the tabs by their form.
        for tab in [&ada, &ben] {
            tab.eval(&format!(
                "let number = 0; const input = document.getElementById('line'); \
                 const writer = setInterval(() => {{ \
                     input.value = 'line ' + number; input.form.requestSubmit(); \
                     if (++number === {LINES}) clearInterval(writer); }}, 1)"
            ));
        }
        for number in 0..LINES {
            nc.send(format!("line {number}\n"));
        }
        for tab in [&ada, &ben] {
            wait_until("all lines", || lines(tab).len() == 3 * LINES);
        }
        let read = lines(&ada);
        assert_eq!(lines(&ben), read, "{mixin}");
        let of = |name: &str| read.iter().filter(|line| line.starts_with(name)).count();
        assert_eq!((of("Ada: "), of("Ben: "), of("127.0.0.1:")), (LINES, LINES, LINES), "{mixin}");
        // nc does not read what it wrote.
        for line in read.iter().filter(|line| !line.starts_with("127.0.0.1:")) {
            let (name, text) = line.split_once(": ").unwrap();
            assert_eq!(nc.line(), format!("[{name}] {text}\r"), "{mixin}");
        }
        // One that comes later is shown the last lines, and who is here.
        let eva = join(&chromium, &server, "Eva");
        assert_eq!(lines(&eva), read[3 * LINES - 50..], "{mixin}");
        let nc_name = read.iter().find(|line| line.starts_with("127.")).unwrap();
        let nc_name = nc_name.split_once(": ").unwrap().0;
        shows_people(&eva, &[nc_name, "Ada", "Ben", "Eva (you)"]);
        // A tab that is closed leaves.
        ben.close();
        shows_people(&ada, &[nc_name, "Ada (you)", "Eva"]);
        nc.wait_for("Client left Ben\r\n");
        nc.finish("");
        shows_people(&ada, &["Ada (you)", "Eva"]);
        ada.close();
        eva.close();
        server.stop();
    }
    chromium.close();
}

fn hostile_names_and_texts_stay_text() {
    const NAME: &str = "<img src=x onerror=hacked()>";
    const TEXT: &str = "<script>hacked()</script><b onclick='hacked()'>&lt;\"' \\u003cimg>";
    let chromium = Chromium::start();
    let server = start(&[]);
    let ada = join(&chromium, &server, "Ada");
    let elements = ada.eval("document.querySelectorAll('*').length").as_u64().unwrap();
    let hostile = join(&chromium, &server, NAME);
    say(&hostile, TEXT);
    let mut nc = nc(&server);
    // At once: else it could be a spare connection of the browser.
    nc.send(format!("{TEXT}\n\u{1b}[2J\u{202e}red\r\u{7}lines\n"));
    wait_until("three lines", || lines(&ada).len() == 3);
    let read = lines(&ada);
    assert_eq!(read[0], format!("{NAME}: {TEXT}"));
    assert!(read[1].starts_with("127.0.0.1:") && read[1].ends_with(&format!(": {TEXT}")));
    assert!(read[2].ends_with(": \u{fffd}[2J\u{fffd}red\u{fffd}\u{fffd}lines"), "{read:?}");
    wait_until("three members", || people(&ada).len() == 3);
    // Each of five entries has an `li`, a `time`, a `span`, and those of lines one for the name; each
    // new member an `li`.
    let expected = elements + 5 * 3 + 3 + 2;
    assert_eq!(ada.eval("document.querySelectorAll('*').length"), expected);
    assert_eq!(ada.eval("document.querySelectorAll('#log img, #log script, #log b').length"), 0);
    // A script that is not the page's own would not run either.
    ada.eval("window.hacked = () => { window.isHacked = true; }");
    ada.eval(
        "const script = document.createElement('script'); script.textContent = 'hacked()'; \
         document.body.append(script);",
    );
    assert_eq!(ada.eval("window.isHacked === undefined"), true);
    let complaints = chromium.complaints();
    assert!(complaints.len() == 1 && complaints[0].contains("script-src"), "{complaints:?}");
    // Names of which one could pass for another are refused, and the page asks again.
    let other = chromium.open(&url(&server));
    for name in ["\u{410}da", "unix#1", "127.0.0.1:80", "a] b", "\u{202e}"] {
        other.eval("document.getElementById('name').value = ''");
        other.types(name);
        other.presses_enter();
        other.waits_for("document.getElementById('refused').textContent !== ''");
        let refused = other.eval("document.getElementById('refused').textContent");
        assert!(refused.as_str().unwrap().contains(name), "{refused}");
        other.eval("document.getElementById('refused').textContent = ''");
    }
    other.types("Eva");
    other.presses_enter();
    shows_people(&other, &[NAME, &people(&ada)[1], "Ada", "Eva (you)"]);
    drop(nc);
    chromium.close();
    server.stop();
}

fn a_page_connects_again_by_itself() {
    let chromium = Chromium::start();
    let mut server = start(&[]);
    let address = server.address().to_owned();
    let ada = join(&chromium, &server, "Ada");
    let ben = join(&chromium, &server, "Ben");
    // With a frame that closes, and without a word.
    for end in [Signal::TERM, Signal::KILL] {
        say(&ben, &format!("before {end:?}"));
        shows_lines(&ada, &[&format!("Ben: before {end:?}")]);
        server.signal(end);
        server.wait();
        for tab in [&ada, &ben] {
            tab.waits_for("document.getElementById('status').className === 'bad'");
            shows_people(tab, &[]);
        }
        // What is typed meanwhile stays.
        say(&ada, "a thought");
        server = start_at(&address, &[]);
        shows_people(&ada, &["Ada (you)", "Ben"]);
        shows_people(&ben, &["Ada", "Ben (you)"]);
        assert_eq!(ada.eval("document.getElementById('line').value"), "a thought");
        ada.presses_enter();
        for tab in [&ada, &ben] {
            shows_lines(tab, &["Ada: a thought"]);
            tab.eval("document.getElementById('log').replaceChildren()");
        }
    }
    chromium.close();
    server.stop();
}

fn a_page_shows_each_event_once_and_in_order() {
    let chromium = Chromium::start();
    let server = start(&[]);
    let ada = join(&chromium, &server, "Ada");
    let line =
        |id: u64| json!({"type": "line", "id": id, "at": 0, "name": "Ben", "text": id.to_string()});
    let welcome = |epoch: &str, id: u64, history: &[u64]| {
        let history: Vec<_> = history.iter().map(|id| line(*id)).collect();
        json!({
            "type": "welcome", "epoch": epoch, "you": "Ada", "id": id, "here": 900,
            "names": ["Eva", "Fay"], "history": history,
        })
    };
    let receives = |message| ada.eval(&format!("receive({message})"));
    // What is received before the welcome may be in it as well.
    ada.eval("you = ''; early = [];");
    for id in [8, 9, 10] {
        receives(line(id));
    }
    receives(welcome("a", 9, &[7, 8, 9]));
    receives(line(11));
    shows_lines(&ada, &["Ben: 7", "Ben: 8", "Ben: 9", "Ben: 10", "Ben: 11"]);
    // The same server again, and one that was started since.
    receives(welcome("a", 13, &[10, 11, 12, 13]));
    shows_lines(&ada, &["Ben: 7", "Ben: 8", "Ben: 9", "Ben: 10", "Ben: 11", "Ben: 12", "Ben: 13"]);
    receives(welcome("b", 2, &[1, 2]));
    shows_lines(&ada, &["Ben: 1", "Ben: 2"]);
    // Not all names are known.
    let here = "document.getElementById('here').textContent";
    ada.waits_for(&format!("{here} === '900 here'"));
    for (id, kind, name) in [(3, "leave", "Eva"), (4, "leave", "Gus"), (5, "join", "Hal")] {
        receives(json!({"type": kind, "id": id, "at": 0, "name": name}));
    }
    ada.waits_for(&format!("{here} === '899 here'"));
    shows_people(&ada, &["Fay", "Hal", "\u{2026}"]);
    chromium.close();
    server.stop();
}

fn the_page_fits_a_phone_and_a_keyboard_and_a_screen_reader() {
    let chromium = Chromium::start();
    let server = start(&[]);
    let ada = join(&chromium, &server, "Ada");
    say(&ada, "Good morning!");
    let ben = join(&chromium, &server, "Ben");
    say(&ben, "Is the build green?");
    let mut telnet = tcp(server.endpoint());
    telnet.write_all(b"Yes, since ten past nine. I am on telnet.\n").unwrap();
    wait_until("three lines", || lines(&ada).len() == 3);
    say(&ada, "Then we ship it.");
    wait_until("four lines", || lines(&ada).len() == 4);
    if let Some(path) = std::env::var_os("WEB_CHAT_PICTURE") {
        ada.is_shown([720, 360], false, "light");
        shows_people(&ada, &[&telnet.local_addr().unwrap().to_string(), "Ada (you)", "Ben"]);
        ada.picture(Path::new(&path));
    }
    say(&ben, &"a_word_that_is_too_long_for_any_line_".repeat(10));
    wait_until("five lines", || lines(&ada).len() == 5);
    for (size, is_mobile, scheme) in [([320, 568], true, "dark"), ([1280, 720], false, "light")] {
        ada.is_shown(size, is_mobile, scheme);
        // Nothing is cut off, and nothing but the log scrolls.
        let [width, height] = size;
        let page = "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]";
        ada.waits_for(&format!("innerWidth === {width}"));
        assert_eq!(ada.eval(page), json!([width, height]));
        let button = "document.querySelector('#line-form button').getBoundingClientRect()";
        assert_eq!(
            ada.eval(&format!("{button}.right <= {width} && {button}.bottom <= {height}")),
            true
        );
        contrasts(&ada, scheme);
        ada.waits_for(
            "document.getElementById('log').lastChild.getBoundingClientRect().bottom < innerHeight",
        );
    }
    // The tab key leads around all of the page.
    ada.eval("document.getElementById('line').focus()");
    let focus = [(); 4].map(|()| {
        ada.presses_tab();
        ada.eval("document.activeElement.id || document.activeElement.localName")
    });
    assert_eq!(focus, ["button", "body", "log", "line"]);
    // What a screen reader reads: every control has a name, and the log is live.
    let tree = ada.call("Accessibility.getFullAXTree", json!({}));
    let mut roles = Vec::new();
    for node in tree["nodes"].as_array().unwrap() {
        let role = node["role"]["value"].as_str().unwrap_or_default();
        if ["textbox", "button", "log", "status", "complementary"].contains(&role) {
            let name = node["name"]["value"].as_str().unwrap_or_default();
            roles.push(format!("{role} {name}").trim().to_owned());
        }
    }
    roles.sort();
    let expected =
        ["button Send", "complementary 3 here", "log Messages", "status", "textbox Message"];
    assert_eq!(roles, expected);
    chromium.close();
    server.stop();
}

/// Asserts a contrast of 4.5 between all texts and what is behind them
/// ([WCAG 2.2, 1.4.3](https://www.w3.org/TR/WCAG22/#contrast-minimum)).
#[track_caller]
fn contrasts(tab: &Tab<'_>, scheme: &str) {
    let lowest = r#"
        (() => {
            const parts = (color) => color.match(/[\d.]+/g).map(Number);
            const light = (color) => {
                const [r, g, b] = parts(color).map((part) => part / 255)
                    .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const behind = (element) => {
                const color = getComputedStyle(element).backgroundColor;
                return parts(color)[3] === 0 ? behind(element.parentElement) : color;
            };
            let lowest = 21;
            for (const element of document.querySelectorAll("body *:not(script):not(noscript)")) {
                if (!element.checkVisibility()) continue;
                const pair = [getComputedStyle(element).color, behind(element)].map(light);
                lowest = Math.min(lowest, (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05));
            }
            return lowest;
        })()"#;
    let lowest = tab.eval(lowest).as_f64().unwrap();
    assert!(lowest >= 4.5, "{scheme}: {lowest}");
}
