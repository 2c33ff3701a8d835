//! Generated pages: errors and listings.

use std::fmt::Write;
use std::os::fd::OwnedFd;
use std::path::Path;

use http::StatusCode;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use rustix::fs::{Dir, FileType};

use crate::files;
use crate::target::Target;

/// The most names in a listing, since the page is built in memory.
const MAX_NAMES: usize = 10_000;

/// What is not escaped in a link. A colon is, so that no name reads as a scheme (`javascript:`).
const LINK: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A page that shows the status.
pub(crate) fn error(status: StatusCode) -> String {
    page(&status.to_string(), "")
}

/// The names in a folder, as links.
pub(crate) fn listing(target: &Target, folder: OwnedFd) -> Result<String, StatusCode> {
    let path = Path::new(&target.raw_path);
    let (names, has_more) = names(folder).map_err(|errno| files::refusal(errno, path))?;
    let mut items = String::new();
    if target.raw_path != "/" {
        items.push_str("<li><a href=\"../\">../</a></li>\n");
    }
    for name in names {
        // The slash marks a folder, and is not part of its name.
        let (name, slash) = match name.strip_suffix(b"/") {
            Some(name) => (name, "/"),
            None => (&name[..], ""),
        };
        let (link, text) = (percent_encode(name, LINK), escaped(&String::from_utf8_lossy(name)));
        // Writing to a string does not fail.
        let _ = writeln!(items, "<li><a href=\"{link}{slash}\">{text}{slash}</a></li>");
    }
    let note = if has_more { "<p>There are more.</p>\n" } else { "" };
    let title = percent_decode_str(&target.raw_path).decode_utf8_lossy();
    Ok(page(&title, &format!("<ul>\n{items}</ul>\n{note}")))
}

/// The names in a folder, sorted, with a slash behind those of folders; and whether there are more
/// than a listing has.
fn names(folder: OwnedFd) -> rustix::io::Result<(Vec<Vec<u8>>, bool)> {
    let mut names = Vec::new();
    let mut entries = Dir::new(folder)?;
    while let Some(entry) = entries.next().transpose()? {
        let name = entry.file_name().to_bytes();
        let slash: &[u8] = match entry.file_type() {
            _ if matches!(name, b"." | b"..") => continue,
            FileType::Directory => b"/",
            FileType::RegularFile | FileType::Symlink | FileType::Unknown => b"",
            // Other types of file are not served.
            _ => continue,
        };
        names.push([name, slash].concat());
        if names.len() > MAX_NAMES {
            break;
        }
    }
    let has_more = names.len() > MAX_NAMES;
    names.truncate(MAX_NAMES);
    names.sort();
    Ok((names, has_more))
}

fn page(title: &str, content: &str) -> String {
    let title = escaped(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{title}</title>\n\
         <h1>{title}</h1>\n{content}</html>\n"
    )
}

fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            other => html.push(other),
        }
    }
    html
}
